"""Statistics of latencies, and of ratios of latencies taken in turn."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from coopnet_core.errors import InputError


class Record(BaseModel):
    """A measured result as it stands in the JSON file: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Latency(Record):
    """How long a call took, over all timed calls.

    Percentiles interpolate linearly between calls, so p99 of fewer than 100 calls leans on the
    slowest one.
    """

    calls: int = Field(ge=1)
    mean_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    per_second: float = Field(description="throughput, one call after the other: 1000 / mean_ms")


class Ratio(Record):
    """Time of a subject over the time of its baseline; below 1 the subject is faster.

    ``low`` and ``high`` bound the median ratio with 95 % confidence; None where the rounds are too
    few to say.
    """

    median: float
    low: float | None
    high: float | None
    rounds: int = Field(ge=1)


def summarise(latencies_s: Sequence[float]) -> Latency:
    """Summarise latencies.

    Args:
        latencies_s: Duration of each call in seconds, at least one.

    Returns:
        The summary, in milliseconds.

    Raises:
        InputError: There is no latency.
    """
    if not latencies_s:
        raise InputError("a summary needs one latency or more, got none: time a call first")
    values_ms = np.asarray(latencies_s, np.float64) * 1e3
    p50, p95, p99 = (float(value) for value in np.percentile(values_ms, (50, 95, 99)))
    mean = float(values_ms.mean())
    return Latency(
        calls=len(latencies_s),
        mean_ms=mean,
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
        # A clock may be too coarse to see a call at all.
        per_second=1e3 / max(mean, 1e-6),
    )


def median_interval(
    values: Sequence[float], confidence: float = 0.95
) -> tuple[float, float] | None:
    """Bound the median of what the values were drawn from, by their order statistics.

    The r-th smallest and the r-th largest of n independent values miss the median with probability
    2 P(Binomial(n, 1/2) < r), whatever the distribution: nothing about the noise is assumed
    (David and Nagaraja, Order Statistics, section 7.1).

    Args:
        values: Independent values in any order.
        confidence: Least probability that the interval holds the median.

    Returns:
        Lower and upper bound, or None when even the smallest and the largest value are not sure
        enough (fewer than 6 values for 95 %).
    """
    ordered = sorted(values)
    count = len(ordered)
    allowed = (1 - confidence) / 2
    rank, below = 0, 0.0
    while rank < count:
        below += math.comb(count, rank) / 2**count
        if below > allowed:
            break
        rank += 1
    return None if rank == 0 else (ordered[rank - 1], ordered[count - rank])


def paired_ratio(
    subject_rounds: Sequence[Sequence[float]], baseline_rounds: Sequence[Sequence[float]]
) -> Ratio:
    """Compare two subjects that were timed in turn.

    Each round gives one ratio, of the medians of its calls. What slows the machine for longer than
    a round slows both sides and cancels; a single late call moves no median.

    Args:
        subject_rounds: Latencies of the subject, one list per round.
        baseline_rounds: Latencies of the baseline in the same rounds.

    Returns:
        Median of the ratios with its interval.

    Raises:
        InputError: The rounds differ in number, or there is none.
    """
    if not subject_rounds or len(subject_rounds) != len(baseline_rounds):
        raise InputError(
            f"a paired ratio needs the same rounds on both sides, at least one; got "
            f"{len(subject_rounds)} and {len(baseline_rounds)}: time both in one run"
        )
    ratios = [
        float(np.median(subject)) / max(float(np.median(baseline)), 1e-9)
        for subject, baseline in zip(subject_rounds, baseline_rounds, strict=True)
    ]
    low, high = median_interval(ratios) or (None, None)
    return Ratio(median=float(np.median(ratios)), low=low, high=high, rounds=len(ratios))
