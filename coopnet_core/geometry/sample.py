"""The only place that samples images: pixel coordinates in, values and visibility out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from coopnet_core.checks import check_shape


def sample(image: Tensor, coords_px: Tensor) -> Tensor:
    """Sample an image bilinearly at pixel coordinates; the border repeats outside.

    ``align_corners=True`` with ``x = 2 u / (W - 1) - 1`` makes pixel (0, 0) the centre of the
    top-left pixel, so sampling at the pixel grid returns the image exactly.

    Args:
        image: (B, C, H, W).
        coords_px: (B, 2, h, w), u then v, pixels of ``image``.

    Returns:
        (B, C, h, w).
    """
    sizes = check_shape("image", image, "B", "C", "H", "W")
    check_shape("coords_px", coords_px, sizes["B"], 2, "h", "w")
    width, height = sizes["W"], sizes["H"]
    # The larger of 1 and W - 1 keeps a one-pixel-wide image from dividing by zero.
    grid = torch.stack(
        [
            coords_px[:, 0] * (2.0 / max(width - 1, 1)) - 1,
            coords_px[:, 1] * (2.0 / max(height - 1, 1)) - 1,
        ],
        dim=-1,
    )
    return F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=True)


def in_view_mask(coords_px: Tensor, height: int, width: int) -> Tensor:
    """Tell which coordinates lie within the image.

    Args:
        coords_px: (B, 2, h, w), u then v, pixels.
        height: Height of the image that is looked up.
        width: Its width.

    Returns:
        bool (B, 1, h, w).
    """
    check_shape("coords_px", coords_px, "B", 2, "h", "w")
    u, v = coords_px[:, :1], coords_px[:, 1:]
    return (u >= 0) & (u <= width - 1) & (v >= 0) & (v <= height - 1)


def resize(image: Tensor, height: int, width: int) -> Tensor:
    """Resize smoothly with pixel areas aligned (``c' = (c + .5) s - .5``), (B, C, H, W)."""
    return F.interpolate(image, size=(height, width), mode="bilinear", align_corners=False)


def resize_flow(flow: Tensor, height: int, width: int) -> Tensor:
    """Resize a flow field and rescale its vectors to pixels of the new size.

    Args:
        flow: (B, 2, H, W), pixels of its own size.
        height: New height.
        width: New width.

    Returns:
        (B, 2, height, width), pixels of the new size.
    """
    sizes = check_shape("flow", flow, "B", 2, "H", "W")
    factor = torch.tensor(
        [width / sizes["W"], height / sizes["H"]], dtype=flow.dtype, device=flow.device
    )
    return resize(flow, height, width) * factor[:, None, None]
