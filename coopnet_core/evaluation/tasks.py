"""What one table of the benchmark consists of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from coopnet_core.data.sequence import Sequence as ImageSequence
from coopnet_core.evaluation.runner import FrameOutput

Row = dict[str, str | float | int]
Picture = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Panel:
    """One picture of a case: the image, the prediction, the truth or the error.

    Attributes:
        caption: What it shows, with the meaning of its colours.
        picture: (H, W, 3) uint8 BGR.
    """

    caption: str
    picture: Picture


@dataclass(frozen=True)
class Case:
    """One image, pair or path segment that was scored.

    Attributes:
        name: Which.
        score: Its score, lower is better.
        draw: Makes its pictures; called for the few cases that are shown.
    """

    name: str
    score: float
    draw: Callable[[], list[Panel]]


@dataclass(frozen=True)
class Task:
    """One table of the report.

    Attributes:
        name: Key in ``results.json``.
        title: Heading.
        data: What was scored.
        protocol: How it was scored.
        rows: One per method; the key "method" comes first.
        notes: What a reader must know.
        cases: What the bundle's row is made of, for pictures of the best, the median and the worst.
        case_score: What the score of a case is.
    """

    name: str
    title: str
    data: str
    protocol: str
    rows: list[Row]
    notes: list[str] = field(default_factory=list)
    cases: list[Case] = field(default_factory=list)
    case_score: str = ""

    def extremes(self) -> dict[str, Case]:
        """Return the best, the median and the worst case; fewer when there are not so many."""
        ranked = sorted((c for c in self.cases if np.isfinite(c.score)), key=lambda c: c.score)
        names = {1: ("only",), 2: ("best", "worst")}.get(len(ranked), ("best", "median", "worst"))
        places = np.linspace(0, len(ranked) - 1, len(names)).round().astype(int)
        return {name: ranked[i] for name, i in zip(names, places, strict=True) if ranked}


@dataclass(frozen=True)
class Recorded:
    """A sequence that the bundle was run on, for scores and pictures."""

    sequence: ImageSequence
    outputs: list[FrameOutput]

    @property
    def span(self) -> str:
        """First and last frame number, such as "650-800"."""
        return f"{self.sequence.indices[0]}-{self.sequence.indices[-1]}"
