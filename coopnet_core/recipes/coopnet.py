"""CoopNet's hybrid loss (Hariat, Manzanera & Filliat, WACV 2023).

The main text was not available to us: the structure follows the abstract and the supplement, and
what they leave open is a setting with a documented default (``LossSettings``). Deviations and
additions:

* Each pair is used in both directions, and the loss is made at strides 1, 4 and 8, each with a band
  of its own.
* Occlusion comes from forward-backward consistency of flow.
* The epipolar distance has an absolute value (the printed one has a sign). Its gradient reaches
  flow and pose.
* Between stereo partners nothing moves, so the band withholds none of their pixels: a large Delta
  is a wrong depth there, most often along an edge, and withheld it would never be mended.
* Warm-up: until the stage says ``rebalance``, every network learns from every pixel in view.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from coopnet_core.config import LossSettings
from coopnet_core.geometry.camera import scale_intrinsics
from coopnet_core.geometry.canonical import depth_from_canonical
from coopnet_core.geometry.occlusion import occlusion_mask
from coopnet_core.geometry.se3 import invert
from coopnet_core.geometry.warp import warp_by_depth, warp_by_flow
from coopnet_core.losses.consistency import flow_consistency_loss
from coopnet_core.losses.epipolar import epipolar_error
from coopnet_core.losses.photometric import masked_mean, photometric_error
from coopnet_core.losses.rebalancing import (
    BandEstimator,
    band_mask,
    delta_statistics,
)
from coopnet_core.losses.reduction import batch_ratio
from coopnet_core.losses.smoothness import depth_smoothness_loss, flow_smoothness_loss
from coopnet_core.types import Batch, DeltaStatistics, LossTerms, Prediction

MIN_BASELINE = 1e-3
"""Least translation, as a fraction of the median depth, for the epipolar term."""


class _Scale(NamedTuple):
    """Both directions of a batch at one size: 2B pairs."""

    image_tgt: Tensor
    image_src: Tensor
    inverse_depth: Tensor
    T_src_tgt: Tensor
    K: Tensor
    flow: Tensor
    flow_back: Tensor


def _at_scale(batch: Batch, prediction: Prediction, level: int) -> _Scale:
    height, width = batch.image_tgt.shape[2:]
    depth_tgt, depth_src = (
        prediction.inverse_depth_tgt[level],
        prediction.inverse_depth_src[level],
    )
    small_height, small_width = depth_tgt.shape[2:]
    factor = height // small_height

    def shrink(image: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool2d(image, factor) if factor > 1 else image

    image_tgt, image_src = shrink(batch.image_tgt), shrink(batch.image_src)
    K = scale_intrinsics(batch.K, small_width / width, small_height / height)
    flow, flow_back = prediction.flow_tgt_src[level], prediction.flow_src_tgt[level]
    return _Scale(
        image_tgt=torch.cat([image_tgt, image_src]),
        image_src=torch.cat([image_src, image_tgt]),
        inverse_depth=torch.cat([depth_tgt, depth_src]),
        T_src_tgt=torch.cat([prediction.T_src_tgt, invert(prediction.T_src_tgt)]),
        K=torch.cat([K, K]),
        flow=torch.cat([flow, flow_back]),
        flow_back=torch.cat([flow_back, flow]),
    )


def _has_baseline(T_src_tgt: Tensor, depth: Tensor) -> Tensor:
    """Tell which pairs, (B, 1, 1, 1), move enough for their epipolar lines to mean something.

    A camera that turns on the spot has no epipole: the direction of its translation is noise.
    """
    middle = depth.detach().flatten(1).median(dim=1).values
    moves: Tensor = T_src_tgt.detach()[:, :3, 3].norm(dim=1) > MIN_BASELINE * middle
    return moves[:, None, None, None]


class CoopNetRecipe:
    """Turns predictions into the hybrid loss.

    Args:
        settings: Weights and open choices.
    """

    def __init__(self, settings: LossSettings) -> None:
        self.settings = settings
        self.band_estimators = [BandEstimator(settings.band) for _ in settings.scale_weights]

    def __call__(self, batch: Batch, prediction: Prediction, *, rebalance: bool) -> LossTerms:
        """Compute the loss.

        Args:
            batch: Image pairs.
            prediction: What the networks say about them.
            rebalance: False during warm-up.

        Returns:
            Total, terms, and the statistics of Delta at full size over the pairs that the band
            judges (none during warm-up). With several processes, this one's share of them.
        """
        settings = self.settings
        terms: dict[str, Tensor] = {}
        statistics: DeltaStatistics | None = None
        kept_mask: Tensor | None = None
        rejected_mask: Tensor | None = None
        # Both images of a pair with a known pose were taken at once.
        at_once = torch.cat([batch.has_pose, batch.has_pose])[:, None, None, None]

        def add(name: str, value: Tensor) -> None:
            terms[name] = terms[name] + value if name in terms else value

        for level, weight in enumerate(settings.scale_weights):
            scale = _at_scale(batch, prediction, level)
            depth = depth_from_canonical(
                1 / scale.inverse_depth,
                scale.K[:, 0, 0][:, None, None, None],
                scale.image_tgt.shape[3],
            )
            by_depth = warp_by_depth(scale.image_src, depth, scale.T_src_tgt, scale.K)
            by_flow = warp_by_flow(scale.image_src, scale.flow)
            error_depth = photometric_error(scale.image_tgt, by_depth.image)
            error_flow = photometric_error(scale.image_tgt, by_flow.image)

            if rebalance:
                visible_flow = by_flow.visible_mask & ~occlusion_mask(scale.flow, scale.flow_back)
                valid = visible_flow & by_depth.visible_mask
                delta = (error_depth - error_flow).detach()
                judged = valid & ~at_once
                band = self.band_estimators[level](delta, judged)
                kept = torch.where(at_once, valid, band_mask(delta, judged, band))
                if level == 0:
                    kept_mask, rejected_mask = kept, judged & ~kept
                    statistics = delta_statistics(delta, judged, kept & judged, band)
            else:
                visible_flow = by_flow.visible_mask
                valid = kept = by_depth.visible_mask

            if settings.normalise_by == "kept":
                depth_term = masked_mean(error_depth, kept)
            else:
                depth_term = batch_ratio((error_depth * kept).sum(), valid.sum())
            flow_mask = visible_flow
            if rebalance and settings.flow_pixels == "complement":
                flow_mask = visible_flow & ~kept
            add("depth_photometric", weight * depth_term)
            add("flow_photometric", weight * masked_mean(error_flow, flow_mask))
            # The difference between neighbours grows with the stride: divided by it, as Godard et
            # al. do, no size outweighs the others.
            stride = batch.image_tgt.shape[3] / scale.image_tgt.shape[3]
            smoothness = depth_smoothness_loss(scale.inverse_depth, scale.image_tgt)
            add("depth_smoothness", weight / stride * smoothness)
            if level == 0:
                # Second differences grow with its square: at coarse sizes they would iron out every
                # motion boundary. Flow is smoothed at full size only, as in ARFlow (CVPR 2020).
                add("flow_smoothness", flow_smoothness_loss(scale.flow, scale.image_tgt))
            if level == 0 and rebalance:
                if settings.epipolar > 0:
                    distance = epipolar_error(scale.flow, scale.T_src_tgt, scale.K)
                    counted = kept & _has_baseline(scale.T_src_tgt, depth)
                    add("epipolar", masked_mean(distance, counted))
                if settings.flow_consistency > 0:
                    add(
                        "flow_consistency",
                        flow_consistency_loss(scale.flow, scale.flow_back, visible_flow),
                    )

        total = batch.image_tgt.new_zeros(())
        for name, value in terms.items():
            total = total + getattr(settings, name) * value
        return LossTerms(total, terms, statistics, kept_mask, rejected_mask)

    def state_dict(self) -> dict[str, dict[str, float]]:
        """Return what a resumed run needs: the running bands."""
        return {str(i): e.state_dict() for i, e in enumerate(self.band_estimators)}

    def load_state_dict(self, state: dict[str, dict[str, float]]) -> None:
        """Restore what ``state_dict`` returned."""
        for index, estimator in enumerate(self.band_estimators):
            estimator.load_state_dict(state[str(index)])
