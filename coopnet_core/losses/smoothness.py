"""Edge-aware smoothness of inverse depth (first order) and flow (second order)."""

from __future__ import annotations

import torch
from torch import Tensor

from coopnet_core.checks import check_shape


def _gradient(image: Tensor, dim: int) -> Tensor:
    return image.diff(dim=dim)


def depth_smoothness_loss(inverse_depth: Tensor, image: Tensor) -> Tensor:
    """Penalise inverse depth that changes where the image does not.

    The inverse depth is divided by its mean so that shrinking it does not pay (Wang et al., CVPR
    2018); weights exp(-|dI|) as in Godard et al., CVPR 2017, eq. 3.

    Args:
        inverse_depth: (B, 1, H, W).
        image: (B, C, H, W).

    Returns:
        Scalar.
    """
    sizes = check_shape("inverse_depth", inverse_depth, "B", 1, "H", "W")
    check_shape("image", image, sizes["B"], "C", sizes["H"], sizes["W"])
    normalised = inverse_depth / inverse_depth.mean(dim=(2, 3), keepdim=True).clamp(min=1e-7)
    total = inverse_depth.new_zeros(())
    for dim in (2, 3):
        edges = _gradient(image, dim).abs().mean(1, keepdim=True)
        total = total + (_gradient(normalised, dim).abs() * torch.exp(-edges)).mean()
    return total


def flow_smoothness_loss(flow: Tensor, image: Tensor, edge_weight: float = 10.0) -> Tensor:
    """Penalise the second derivative of flow where the image has no edge.

    As in Jonschkowski et al., ECCV 2020, and TrianFlow: exp(-edge_weight |dI|). Flow is divided by
    the image width, so that the weight does not depend on the resolution.

    Args:
        flow: (B, 2, H, W), pixels.
        image: (B, C, H, W).
        edge_weight: How fast the penalty fades with the image gradient.

    Returns:
        Scalar.
    """
    sizes = check_shape("flow", flow, "B", 2, "H", "W")
    check_shape("image", image, sizes["B"], "C", sizes["H"], sizes["W"])
    relative = flow / sizes["W"]
    total = flow.new_zeros(())
    for dim in (2, 3):
        edges = _gradient(image, dim).abs().mean(1, keepdim=True)
        weight = torch.exp(-edge_weight * edges)
        # A second difference sits between two first differences: both edges must be absent.
        length = weight.shape[dim] - 1
        both = weight.narrow(dim, 0, length) * weight.narrow(dim, 1, length)
        second = _gradient(_gradient(relative, dim), dim)
        total = total + (second.abs() * both.sqrt()).mean()
    return total
