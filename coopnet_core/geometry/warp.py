"""View synthesis from depth and motion, or from optical flow."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from coopnet_core.checks import check_shape
from coopnet_core.geometry.camera import MIN_DEPTH, pixel_grid, project, transform_points, unproject
from coopnet_core.geometry.sample import in_view_mask, sample


class Warp(NamedTuple):
    """A rebuilt target view.

    Attributes:
        image: The source seen from the target, (B, C, H, W).
        visible_mask: Pixels whose source lies in view and before the camera, bool (B, 1, H, W).
        coords_px: Where each target pixel was looked up in the source, (B, 2, H, W).
    """

    image: Tensor
    visible_mask: Tensor
    coords_px: Tensor


def rigid_coords(depth_tgt: Tensor, T_src_tgt: Tensor, K: Tensor) -> tuple[Tensor, Tensor]:
    """Find where each pixel of a static scene lies in the source image.

    Args:
        depth_tgt: (B, 1, H, W).
        T_src_tgt: (B, 4, 4), translation in the unit of the depth.
        K: (B, 3, 3), pixels, shared by both images.

    Returns:
        Source coordinates (B, 2, H, W) in pixels, and the points' depth in the source camera
        (B, 1, H, W).
    """
    return project(transform_points(T_src_tgt, unproject(depth_tgt, K)), K)


def rigid_flow(depth_tgt: Tensor, T_src_tgt: Tensor, K: Tensor) -> Tensor:
    """Return the flow that camera motion alone causes, (B, 2, H, W), pixels.

    Args:
        depth_tgt: (B, 1, H, W).
        T_src_tgt: (B, 4, 4).
        K: (B, 3, 3), pixels.
    """
    coords, _ = rigid_coords(depth_tgt, T_src_tgt, K)
    return coords - pixel_grid(coords.shape[2], coords.shape[3], coords)


def warp_by_depth(image_src: Tensor, depth_tgt: Tensor, T_src_tgt: Tensor, K: Tensor) -> Warp:
    """Rebuild the target view from the source through depth and camera motion.

    Args:
        image_src: (B, C, H, W).
        depth_tgt: (B, 1, H, W).
        T_src_tgt: (B, 4, 4).
        K: (B, 3, 3), pixels, shared by both images.

    Returns:
        The warp (Zhou et al., CVPR 2017, eq. 2).
    """
    sizes = check_shape("image_src", image_src, "B", "C", "H", "W")
    check_shape("depth_tgt", depth_tgt, sizes["B"], 1, sizes["H"], sizes["W"])
    coords, depth_src = rigid_coords(depth_tgt, T_src_tgt, K)
    visible = in_view_mask(coords, sizes["H"], sizes["W"]) & (depth_src > MIN_DEPTH)
    return Warp(sample(image_src, coords), visible, coords)


def warp_by_flow(image_src: Tensor, flow_tgt_src: Tensor) -> Warp:
    """Rebuild the target view from the source through optical flow.

    Args:
        image_src: (B, C, H, W).
        flow_tgt_src: (B, 2, H, W), pixels, from target to source.

    Returns:
        The warp.
    """
    sizes = check_shape("image_src", image_src, "B", "C", "H", "W")
    check_shape("flow_tgt_src", flow_tgt_src, sizes["B"], 2, sizes["H"], sizes["W"])
    coords = flow_tgt_src + pixel_grid(sizes["H"], sizes["W"], flow_tgt_src)
    visible = in_view_mask(coords, sizes["H"], sizes["W"])
    return Warp(sample(image_src, coords), visible, coords)
