"""Learning rate over a run."""

from __future__ import annotations

import math

from coopnet_core.config import TrainingConfig


def learning_rate_at(config: TrainingConfig, step: int) -> float:
    """Return a linear rise, then half a cosine down to the final rate at the last step.

    A stage with a rate of its own starts another half cosine from there (a warm restart, Loshchilov
    & Hutter, "SGDR", ICLR 2017).

    Args:
        config: Rates and lengths.
        step: Step from 0.
    """
    high, start = config.learning_rate, config.learning_rate_warmup_steps
    first = 0
    for stage in config.stages:
        if stage.learning_rate is not None and step >= first:
            high, start = stage.learning_rate, first
        first += stage.steps
    if step < start:
        return high * (step + 1) / start
    progress = min(1.0, (step - start) / max(1, config.num_steps - 1 - start))
    share = 0.5 * (1 + math.cos(math.pi * progress))
    low = config.final_learning_rate
    return low + (high - low) * share
