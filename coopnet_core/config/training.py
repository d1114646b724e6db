"""Settings of a training run; the YAML files in ``config/recipes`` have the same keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from coopnet_core.checks import SIZE_MULTIPLE


class Settings(BaseModel):
    """Base of all settings: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


# Keys that only some kinds of sources have.
_KINDS_WITH = {
    "split": ("kitti_raw",),
    "camera": ("kitti_odometry", "kitti_raw"),
    "topic": ("bag",),
    "right_topic": ("bag",),
    "calibration": ("image_folder", "video", "rgbd", "bag"),
    "stereo": (
        "kitti_odometry",
        "kitti_raw",
        "kitti_flow",
        "karlsruhe",
        "cityscapes",
        "image_folder",
        "bag",
    ),
}
# What the literature does with a data set: science behind it in docs/data.md.
_DEFAULTS_OF: dict[str, dict[str, Any]] = {
    "kitti_flow": {"sequence": "training"},
    "cityscapes": {"sequence": "train", "gaps": (2,), "crop_bottom": 0.25},
}


class Source(Settings):
    """Frames to learn from."""

    kind: Literal[
        "kitti_odometry",
        "kitti_raw",
        "kitti_flow",
        "karlsruhe",
        "cityscapes",
        "rgbd",
        "image_folder",
        "video",
        "bag",
    ]
    path: Path = Field(description="Below the data root: set root, folder, video or bag.")
    sequence: str = Field(
        default="",
        description="kitti_odometry: 03; karlsruhe: folder; kitti_raw: 2011_09_26/0002; "
        "kitti_flow: training or testing; cityscapes: train, or one city as train/aachen.",
    )
    split: str | None = Field(
        default=None,
        description="For kitti_raw instead of sequence: an included split (eigen_zhou_train), or "
        "a file below the data root with lines 'DATE/DATE_drive_NUMBER_sync FRAME l'.",
    )
    camera: int | None = Field(
        default=None,
        ge=0,
        le=3,
        description="For kitti_odometry (0) and kitti_raw (2).",
    )
    topic: str | None = Field(default=None, description="Image topic of a bag that has several.")
    right_topic: str | None = Field(
        default=None, description="Image topic of the right camera of a bag, for stereo."
    )
    first: int | None = Field(default=None, ge=0, description="First frame; none: all.")
    last: int | None = Field(default=None, ge=0, description="Last frame, included.")
    gaps: tuple[int, ...] = Field(default=(1,), description="Frames between a pair in time.")
    stereo: bool = Field(default=False, description="Add stereo partners, with known pose.")
    repeat: int = Field(default=1, ge=1, description="Stereo pairs per epoch: times each.")
    min_motion: float = Field(
        default=0.01, ge=0, le=1, description="Temporal pairs that differ by less are left out."
    )
    calibration: Path | None = Field(
        default=None, description="For image_folder, video, rgbd and bag."
    )
    crop_bottom: float = Field(
        default=0.0, ge=0, lt=1, description="Share of the height to cut off, as for a bonnet."
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_in_what_a_data_set_asks_for(cls, values: Any) -> Any:
        if isinstance(values, dict):
            return {**_DEFAULTS_OF.get(str(values.get("kind")), {}), **values}
        return values

    @model_validator(mode="after")
    def _check(self) -> Source:
        if (self.first is None) != (self.last is None):
            raise ValueError("give both first and last, or neither")
        if self.first is not None and self.last is not None and self.last < self.first:
            raise ValueError(f"last ({self.last}) is before first ({self.first})")
        if self.kind in ("kitti_odometry", "karlsruhe") and not self.sequence:
            raise ValueError(f"kind {self.kind} needs a sequence name")
        if self.kind == "kitti_raw" and bool(self.sequence) == (self.split is not None):
            raise ValueError("kind kitti_raw needs a sequence such as 2011_09_26/0002, or a split")
        for key, kinds in _KINDS_WITH.items():
            if self.kind not in kinds and getattr(self, key) not in (None, False):
                raise ValueError(f"kind {self.kind} has no {key}; only {', '.join(kinds)}")
        if self.first is not None and (self.split or self.kind in ("kitti_flow", "cityscapes")):
            raise ValueError("first and last are for one sequence, but this source has several")
        if self.kind == "video" and self.calibration is None:
            raise ValueError("kind video needs a calibration file")
        if self.stereo and self.kind == "bag" and self.right_topic is None:
            raise ValueError("stereo of a bag needs right_topic")
        if not self.gaps or min(self.gaps) < 1:
            raise ValueError(f"gaps must be 1 or more frames, got {list(self.gaps)}")
        return self


class Stage(Settings):
    """A part of the run with its own image size."""

    name: str
    steps: int = Field(ge=1)
    width: int = Field(ge=64, multiple_of=SIZE_MULTIPLE)
    height: int = Field(ge=64, multiple_of=SIZE_MULTIPLE)
    rebalance: bool = Field(
        default=True,
        description="Select pixels and use occlusion; false is the warm-up, in which every network "
        "learns from its own error on every pixel in view.",
    )
    learning_rate: float | None = Field(
        default=None, gt=0, description="Start again from this rate; none: go on falling."
    )


class BandSettings(Settings):
    """What CoopNet's text leaves open about the band; see ``losses.rebalancing``.

    Attributes:
        mode: ``histogram`` (256 bins on the 0.5-99.5 % range, smoothed, parabola through the peak)
            or ``half_sample`` (Bickel & Fruehwirth, 2006).
        scope: Over which pixels one band is estimated: each ``image``, the whole ``batch``, or a
            ``running`` mean over batches of the batch's band.
        width: ``mad`` (kappa times the robust spread about the mode) or ``shortest`` (the shortest
            interval that holds a fraction of the pixels; it replaces the mode by its middle).
        kappa: Factor of the spread: 0.5, 1, 2 keep 38, 68, 95 % of a Gaussian.
        fraction: Share of pixels for ``shortest``.
        momentum: Weight of the new batch for ``running``.
    """

    mode: Literal["histogram", "half_sample"] = "histogram"
    scope: Literal["image", "batch", "running"] = "image"
    width: Literal["mad", "shortest"] = "mad"
    kappa: float = Field(default=1.0, gt=0)
    fraction: float = Field(default=0.68, gt=0, le=1)
    momentum: float = Field(default=0.05, gt=0, le=1)


class LossSettings(Settings):
    """Weights and open choices of the hybrid loss."""

    band: BandSettings = BandSettings()
    normalise_by: Literal["kept", "all"] = Field(
        default="kept", description="Divide the depth term by |V_eta| or by all valid pixels."
    )
    flow_pixels: Literal["all", "complement"] = Field(
        default="all", description="Flow learns from every valid pixel or those outside the band."
    )
    scale_weights: tuple[float, float, float] = Field(
        default=(1.0, 1.0, 1.0),
        description="Of photometric error and depth smoothness at strides 1, 4, 8.",
    )
    depth_photometric: float = Field(default=1.0, ge=0)
    flow_photometric: float = Field(default=1.0, ge=0)
    depth_smoothness: float = Field(default=1e-3, ge=0)
    flow_smoothness: float = Field(default=25.0, ge=0)
    flow_consistency: float = Field(default=0.0, ge=0)
    epipolar: float = Field(default=0.01, ge=0)


class TrainingConfig(Settings):
    """Everything that decides the result of a run."""

    recipe: Literal["coopnet"] = "coopnet"
    variant: Literal["small", "base"] = "small"
    pretrained: bool = True
    imagenet_weights: Path | None = None
    color: Literal["gray", "rgb"] = Field(
        default="gray", description="What the frames are; a bundle turns its input into it."
    )
    sources: tuple[Source, ...] = Field(min_length=1)
    stages: tuple[Stage, ...] = Field(min_length=1)
    batch_size: int = Field(default=4, ge=1)
    learning_rate: float = Field(default=2.5e-4, gt=0)
    final_learning_rate: float = Field(default=1e-5, gt=0)
    learning_rate_warmup_steps: int = Field(default=250, ge=0)
    weight_decay: float = Field(default=1e-4, ge=0)
    clip_gradient_norm: float = Field(
        default=5.0, gt=0, description="Per network, so that one cannot take another's share."
    )
    averaging: float = Field(
        default=0.998,
        ge=0,
        lt=1,
        description="A bundle gets the exponential moving average of the weights, which keeps this "
        "share of itself at every step: single checkpoints of a short run scatter. 0: the last "
        "weights.",
    )
    seed: int = Field(default=0, ge=0)
    loss: LossSettings = LossSettings()

    @property
    def num_steps(self) -> int:
        """Steps of all stages together."""
        return sum(stage.steps for stage in self.stages)

    def stage_at(self, step: int) -> Stage:
        """Return the stage that ``step`` (from 0) belongs to; the last one after the end."""
        for stage in self.stages:
            if step < stage.steps:
                return stage
            step -= stage.steps
        return self.stages[-1]
