"""Validated settings: frozen, typed, with unknown keys refused by name."""

from coopnet_core.config.loading import load_config, parse_config
from coopnet_core.config.training import (
    BandSettings,
    LossSettings,
    Source,
    Stage,
    TrainingConfig,
)

__all__ = [
    "BandSettings",
    "LossSettings",
    "Source",
    "Stage",
    "TrainingConfig",
    "load_config",
    "parse_config",
]
