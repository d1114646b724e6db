"""Learning rate over a run."""

from __future__ import annotations

import math

from coopnet_core.config import TrainingConfig


def learning_rate_at(config: TrainingConfig, step: int) -> float:
    """Return a linear rise, then half a cosine down to the final rate at the last step.

    Args:
        config: Rates and lengths.
        step: Step from 0.
    """
    rise = config.learning_rate_warmup_steps
    if step < rise:
        return config.learning_rate * (step + 1) / rise
    progress = min(1.0, (step - rise) / max(1, config.num_steps - 1 - rise))
    share = 0.5 * (1 + math.cos(math.pi * progress))
    low, high = config.final_learning_rate, config.learning_rate
    return low + (high - low) * share
