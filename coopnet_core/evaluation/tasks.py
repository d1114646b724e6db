"""What one table of the benchmark consists of."""

from __future__ import annotations

from dataclasses import dataclass, field

from coopnet_core.data.sequence import Sequence as ImageSequence
from coopnet_core.evaluation.runner import FrameOutput

Row = dict[str, str | float | int]


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
    """

    name: str
    title: str
    data: str
    protocol: str
    rows: list[Row]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Recorded:
    """A sequence that the bundle was run on, for scores and pictures."""

    sequence: ImageSequence
    outputs: list[FrameOutput]

    @property
    def span(self) -> str:
        """First and last frame number, such as "650-800"."""
        return f"{self.sequence.indices[0]}-{self.sequence.indices[-1]}"
