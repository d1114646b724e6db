"""Timing several subjects in turn, round by round."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

MAX_BLOCK_S = 0.25
"""A round times each subject for so long: short beside the moods of a shared machine."""
MIN_ROUNDS = 20
"""So many rounds are aimed at in a short run, by shorter blocks."""
NUM_PROGRESS_LINES = 10

Parts = Mapping[str, float]
"""Milliseconds that the parts of a call took; empty where a call has no parts."""


@dataclass(frozen=True)
class Subject:
    """Something to time.

    Attributes:
        name: What the tables call it; unique in a run.
        width: Width of the networks' input in pixels.
        height: Its height.
        runtime: Library, version, device and threads.
        precision: Of weights and arithmetic.
        call: Does the work once.
        note: What else a reader must know to compare it.
    """

    name: str
    width: int
    height: int
    runtime: str
    precision: str
    call: Callable[[], Parts]
    note: str = ""


@dataclass(frozen=True)
class Measurement:
    """What was timed of one subject.

    Attributes:
        rounds: Latencies in seconds, one list per round.
        parts: Parts of each timed call, in the same order.
    """

    rounds: list[list[float]] = field(default_factory=list)
    parts: list[Parts] = field(default_factory=list)

    @property
    def latencies_s(self) -> list[float]:
        """All latencies in seconds."""
        return list(chain.from_iterable(self.rounds))


def warm_up(subjects: Sequence[Subject], calls: int) -> None:
    """Call each subject so often without timing it: first calls allocate memory and plan."""
    for subject in subjects:
        for _ in range(calls):
            subject.call()


def measure(
    subjects: Sequence[Subject],
    seconds: float,
    progress: Callable[[str], None] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Measurement]:
    """Time subjects in turn: A B C A B C and so on.

    A round gives each subject one block of calls. Time goes on until the budget of all subjects
    together is spent, so that a slow subject does not cost the others their rounds.

    Args:
        subjects: What to time, warmed up.
        seconds: Budget per subject; the run takes about this times the number of subjects.
        progress: Called with a line now and then.
        clock: Seconds of a clock that never goes back.

    Returns:
        One measurement per subject, all with the same number of rounds, one or more.
    """
    measurements = [Measurement() for _ in subjects]
    block_s = min(MAX_BLOCK_S, seconds / MIN_ROUNDS)
    budget_s = seconds * len(subjects)
    start = clock()
    num_rounds, told = 0, 0
    while subjects and (num_rounds == 0 or clock() - start < budget_s):
        for subject, measurement in zip(subjects, measurements, strict=True):
            # Not timed: it brings back the subject's caches, and threads of the one before, which
            # may spin for a while after their work, have gone to sleep by its end.
            subject.call()
            _time_block(subject.call, block_s, measurement, clock)
        num_rounds += 1
        passed = min((clock() - start) / budget_s, 1.0)
        if progress is not None and int(passed * NUM_PROGRESS_LINES) > told:
            told = int(passed * NUM_PROGRESS_LINES)
            progress(f"measured {passed:.0%} of {budget_s:.0f} s, {num_rounds} rounds")
    return measurements


def _time_block(
    call: Callable[[], Parts],
    block_s: float,
    measurement: Measurement,
    clock: Callable[[], float],
) -> None:
    latencies: list[float] = []
    start = clock()
    end = start
    while not latencies or end - start < block_s:
        before = clock()
        parts = call()
        end = clock()
        latencies.append(end - before)
        measurement.parts.append(parts)
    measurement.rounds.append(latencies)
