"""Photometric error of a rebuilt view."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from coopnet_core.checks import check_shape
from coopnet_core.losses.reduction import batch_ratio

SSIM_WEIGHT = 0.85
_C1 = 0.01**2
_C2 = 0.03**2


def ssim(image_a: Tensor, image_b: Tensor) -> Tensor:
    """Structural similarity over 3x3 windows (Wang et al., TIP 2004; window of Godard et al.).

    Args:
        image_a: (B, C, H, W) in [0, 1].
        image_b: (B, C, H, W).

    Returns:
        (B, C, H, W), at most 1.
    """

    def window_mean(image: Tensor) -> Tensor:
        return F.avg_pool2d(F.pad(image, (1, 1, 1, 1), mode="reflect"), 3, 1)

    mean_a, mean_b = window_mean(image_a), window_mean(image_b)
    variance_a = window_mean(image_a * image_a) - mean_a * mean_a
    variance_b = window_mean(image_b * image_b) - mean_b * mean_b
    covariance = window_mean(image_a * image_b) - mean_a * mean_b
    numerator = (2 * mean_a * mean_b + _C1) * (2 * covariance + _C2)
    denominator = (mean_a**2 + mean_b**2 + _C1) * (variance_a + variance_b + _C2)
    return numerator / denominator


def photometric_error(image_a: Tensor, image_b: Tensor) -> Tensor:
    """Return Phi(a, b) = .85 (1 - SSIM) / 2 + .15 |a - b|, mean over channels.

    Args:
        image_a: (B, C, H, W) in [0, 1].
        image_b: (B, C, H, W).

    Returns:
        (B, 1, H, W), at least 0 (Godard et al., CVPR 2017, eq. 2).

    Raises:
        ShapeError: The images differ in shape.
    """
    sizes = check_shape("image_a", image_a, "B", "C", "H", "W")
    check_shape("image_b", image_b, sizes["B"], sizes["C"], sizes["H"], sizes["W"])
    dissimilarity = ((1 - ssim(image_a, image_b)) / 2).clamp(0, 1)
    error = SSIM_WEIGHT * dissimilarity + (1 - SSIM_WEIGHT) * (image_a - image_b).abs()
    return error.mean(1, keepdim=True)


def masked_mean(error: Tensor, mask: Tensor) -> Tensor:
    """Mean of an error map over a mask; 0, with a gradient of 0, where the mask is empty.

    With several processes it is a share of the whole batch's mean (``losses.reduction``).

    Args:
        error: (B, 1, H, W).
        mask: bool or weights (B, 1, H, W).
    """
    weight = mask.to(error.dtype)
    return batch_ratio((error * weight).sum(), weight.sum())
