"""CoopNet's rebalancing: which pixels teach depth and pose, by the distribution of error gaps.

Delta = Phi_D - Phi_F compares two reconstructions of the same pixel. Around its mode the two agree
as well as they usually do: static scene. Far from it something moves by itself, or one of the two
has failed. Depth and pose learn inside the band around the mode; flow is never starved, because the
two losses are not in competition as they are under min(Phi_D, Phi_F) (Hariat, Manzanera & Filliat,
WACV 2023, and its supplement, section 1). What the text leaves open is a field of ``BandSettings``.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from coopnet_core.checks import check_shape
from coopnet_core.config import BandSettings
from coopnet_core.losses.reduction import gather_over_processes
from coopnet_core.types import DeltaStatistics

NUM_BINS = 256
BIN_RANGE_QUANTILES = (0.005, 0.995)
SMOOTHING_BINS = 4.0
MAD_TO_SIGMA = 1.4826
"""Median absolute deviation of a Gaussian times this is its standard deviation."""
MIN_PIXELS = 64
"""With fewer valid pixels a histogram says nothing, and everything valid is kept."""
LOGGED_RANGE = 0.5
LOGGED_BINS = 400
"""The logged histogram of Delta spans [-range, range]; what lies beyond is in the outer bins."""


class Band(NamedTuple):
    """The interval [centre - half_width, centre + half_width] of Delta, one entry per image."""

    centre: Tensor
    half_width: Tensor


def histogram_mode(values: Tensor) -> Tensor:
    """Estimate the mode of a sample from a smoothed histogram.

    Args:
        values: (N,), N at least 1.

    Returns:
        Scalar tensor; the peak is refined by a parabola through three bins.
    """
    low, high = torch.quantile(values, values.new_tensor(BIN_RANGE_QUANTILES)).tolist()
    if not high > low:
        return values.median()
    # torch.histc drops what lies outside, which is what trimming to the quantiles asks for.
    counts = torch.histc(values, NUM_BINS, low, high)
    reach = int(3 * SMOOTHING_BINS)
    offsets = torch.arange(-reach, reach + 1, dtype=values.dtype, device=values.device)
    kernel = torch.exp(-0.5 * (offsets / SMOOTHING_BINS) ** 2)
    smooth = F.conv1d(counts[None, None], (kernel / kernel.sum())[None, None], padding=reach)[0, 0]
    peak = int(smooth.argmax())
    position = float(peak)
    if 0 < peak < NUM_BINS - 1:
        left, middle, right = smooth[peak - 1 : peak + 2].tolist()
        curvature = left - 2 * middle + right
        if curvature < 0:
            position += 0.5 * (left - right) / curvature
    bin_width = (high - low) / NUM_BINS
    return values.new_tensor(low + (position + 0.5) * bin_width)


def half_sample_mode(values: Tensor) -> Tensor:
    """Estimate the mode by halving: keep the densest half until few values are left.

    Bickel & Fruehwirth, "On a fast, robust estimator of the mode", CSDA 2006.

    Args:
        values: (N,), N at least 1.

    Returns:
        Scalar tensor.
    """
    ordered = values.sort().values
    while ordered.numel() > 3:
        half = (ordered.numel() + 1) // 2
        widths = ordered[half - 1 :] - ordered[: ordered.numel() - half + 1]
        start = int(widths.argmin())
        ordered = ordered[start : start + half]
    if ordered.numel() == 3:
        left, right = (ordered[1] - ordered[0]).item(), (ordered[2] - ordered[1]).item()
        if left == right:
            return ordered[1]
        ordered = ordered[:2] if left < right else ordered[1:]
    return ordered.mean()


def shortest_interval(values: Tensor, fraction: float) -> tuple[Tensor, Tensor]:
    """Return the lower and upper end of the shortest interval that holds ``fraction`` of (N,)."""
    ordered = values.sort().values
    inside = max(1, min(ordered.numel(), math.ceil(fraction * ordered.numel())))
    widths = ordered[inside - 1 :] - ordered[: ordered.numel() - inside + 1]
    start = int(widths.argmin())
    return ordered[start], ordered[start + inside - 1]


def _estimate_one(values: Tensor, config: BandSettings) -> tuple[Tensor, Tensor]:
    if values.numel() < MIN_PIXELS:
        return values.new_zeros(()), values.new_tensor(math.inf)
    if config.width == "shortest":
        low, high = shortest_interval(values, config.fraction)
        return (low + high) / 2, (high - low) / 2
    mode = histogram_mode(values) if config.mode == "histogram" else half_sample_mode(values)
    spread = MAD_TO_SIGMA * (values - mode).abs().median()
    return mode, config.kappa * spread


class BandEstimator:
    """Estimates the band; keeps state only for the scope ``running``.

    Args:
        config: The open choices.
    """

    def __init__(self, config: BandSettings) -> None:
        self.config = config
        self.running: tuple[float, float] | None = None

    @torch.no_grad()
    def __call__(self, delta: Tensor, valid_mask: Tensor) -> Band:
        """Estimate the band of a batch, over all processes unless each image has its own.

        Args:
            delta: Phi_D - Phi_F, (B, 1, H, W).
            valid_mask: Pixels that both warps see and that are not occluded, bool (B, 1, H, W).

        Returns:
            The band, one entry per image; an infinite width where there are too few valid pixels.
        """
        sizes = check_shape("delta", delta, "B", 1, "H", "W")
        check_shape("valid_mask", valid_mask, sizes["B"], 1, sizes["H"], sizes["W"])
        delta = delta.detach().float()
        if self.config.scope == "image":
            bands = [
                _estimate_one(d[m], self.config) for d, m in zip(delta, valid_mask, strict=True)
            ]
            return Band(torch.stack([b[0] for b in bands]), torch.stack([b[1] for b in bands]))
        values = gather_over_processes(torch.where(valid_mask, delta, torch.nan))
        centre, width = _estimate_one(values[~values.isnan()], self.config)
        if self.config.scope == "running" and torch.isfinite(width):
            new = (float(centre), float(width))
            if self.running is None:
                self.running = new
            else:
                keep = 1 - self.config.momentum
                self.running = (
                    keep * self.running[0] + self.config.momentum * new[0],
                    keep * self.running[1] + self.config.momentum * new[1],
                )
            centre, width = delta.new_tensor(self.running[0]), delta.new_tensor(self.running[1])
        return Band(centre.expand(sizes["B"]), width.expand(sizes["B"]))

    def state_dict(self) -> dict[str, float]:
        """Return what a resumed run needs."""
        if self.running is None:
            return {}
        return {"centre": self.running[0], "half_width": self.running[1]}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Restore what ``state_dict`` returned."""
        self.running = (state["centre"], state["half_width"]) if state else None


def band_mask(delta: Tensor, valid_mask: Tensor, band: Band) -> Tensor:
    """Return V_eta: valid pixels with |Delta - mode| <= eta, bool (B, 1, H, W), no gradient."""
    distance = (delta.detach() - band.centre[:, None, None, None]).abs()
    return (distance <= band.half_width[:, None, None, None]) & valid_mask


@torch.no_grad()
def delta_statistics(
    delta: Tensor, valid_mask: Tensor, kept_mask: Tensor, band: Band
) -> DeltaStatistics:
    """Collect the statistics that tell whether the rebalancing works.

    Args:
        delta: (B, 1, H, W).
        valid_mask: bool (B, 1, H, W).
        kept_mask: V_eta, bool (B, 1, H, W).
        band: As estimated.
    """
    valid_per_image = valid_mask.flatten(1).sum(1).float()
    finite_width = torch.where(torch.isfinite(band.half_width), band.half_width, 0.0)
    return DeltaStatistics(
        num_pixels=delta.new_tensor(float(delta.numel())),
        num_valid=valid_per_image.sum(),
        num_positive=((delta > 0) & valid_mask).sum().float(),
        num_negative=((delta < 0) & valid_mask).sum().float(),
        num_kept=kept_mask.sum().float(),
        sum_negative=torch.where(valid_mask, delta.clamp(max=0), 0.0).sum(),
        sum_centre=(band.centre * valid_per_image).sum(),
        sum_half_width=(finite_width * valid_per_image).sum(),
        histogram=torch.histc(
            delta[valid_mask].float().clamp(-LOGGED_RANGE, LOGGED_RANGE),
            LOGGED_BINS,
            -LOGGED_RANGE,
            LOGGED_RANGE,
        ),
    )


def ratios(statistics: DeltaStatistics) -> dict[str, float]:
    """Turn (reduced) sums into the numbers that are logged.

    Returns:
        ``p_positive`` = P(Delta > 0), ``epsilon`` = -E[Delta | Delta < 0], ``kept`` (share of valid
        pixels in the band), ``valid`` (share of all pixels), ``mode`` and ``half_width``.
    """
    s = {name: float(value.sum()) for name, value in statistics._asdict().items()}
    num_valid = max(s["num_valid"], 1.0)
    return {
        "p_positive": s["num_positive"] / num_valid,
        "epsilon": -s["sum_negative"] / max(s["num_negative"], 1.0),
        "kept": s["num_kept"] / num_valid,
        "valid": s["num_valid"] / max(s["num_pixels"], 1.0),
        "mode": s["sum_centre"] / num_valid,
        "half_width": s["sum_half_width"] / num_valid,
    }
