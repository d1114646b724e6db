"""The images, clouds and camera_info of one frame, each made when it is asked for."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from std_msgs.msg import Header

from coopnet_core.inference import rendering
from coopnet_core.inference.pipeline import FrameResult
from coopnet_ros.camera_info import camera_info_from_intrinsics
from coopnet_ros.camera_input import Picture
from coopnet_ros.image_messages import image_from_array, millimetres
from coopnet_ros.point_cloud import PointCloud


class FrameView:
    """What several messages of a frame share.

    Args:
        result: Of the frame.
        picture: That the result was made from.
        header: Header of the input image.
    """

    def __init__(self, result: FrameResult, picture: Picture, header: Header) -> None:
        self.result = result
        self.picture = picture
        self.header = header
        self.size = (result.intrinsics.width, result.intrinsics.height)

    @functools.cached_property
    def _seen(self) -> npt.NDArray[np.bool_] | None:
        """Where the camera looked, at the size of the maps; None: everywhere."""
        valid = self.picture.valid
        if valid is None or valid.all():
            return None
        small = cv2.resize(valid.astype(np.uint8), self.size, interpolation=cv2.INTER_NEAREST)
        return np.asarray(small > 0, np.bool_)

    @functools.cached_property
    def depth(self) -> npt.NDArray[np.float32]:
        """Depth, NaN where the camera did not look as well."""
        depth = self.result.depth
        return depth if self._seen is None else np.where(self._seen, depth, np.float32(np.nan))

    @functools.cached_property
    def motion_mask(self) -> npt.NDArray[np.bool_] | None:
        """What moves by itself, where the camera looked; None: nothing can be said."""
        mask = self.result.motion_mask
        return mask if mask is None or self._seen is None else mask & self._seen

    @functools.cached_property
    def colors(self) -> npt.NDArray[np.uint8]:
        """The picture at the size of the maps, (H, W, 3) RGB or (H, W)."""
        small = cv2.resize(self.picture.image, self.size, interpolation=cv2.INTER_AREA)
        return np.asarray(small, np.uint8)


class FrameMessages:
    """Makes the messages of one frame after the other.

    Args:
        depth_encoding: ``32FC1`` or ``16UC1``.

    Attributes:
        makers: For each topic what makes its message; it returns None where there is nothing to
            say. What robots wait for comes before what people look at.
    """

    def __init__(self, depth_encoding: str) -> None:
        self._depth_encoding = depth_encoding
        self._cloud = PointCloud()
        self._depth_span, self._flow_span = _SlowSpan(), _SlowSpan()
        self.makers: dict[str, Callable[[FrameView], Any]] = {
            "~/depth/image": self._depth_image,
            "~/depth/camera_info": self._depth_camera_info,
            "~/flow/image": self._flow_image,
            "~/motion/mask": self._motion_mask,
            "~/points": self._points,
            "~/depth/preview": self._depth_preview,
            "~/flow/preview": self._flow_preview,
            "~/motion/preview": self._motion_preview,
        }

    def _depth_image(self, view: FrameView) -> Image:
        is_16_bit = self._depth_encoding == "16UC1"
        pixels = millimetres(view.depth) if is_16_bit else view.depth
        return image_from_array(pixels, self._depth_encoding, view.header)

    def _depth_camera_info(self, view: FrameView) -> CameraInfo:
        calibration = view.picture.calibration
        tx = calibration.P[3] * view.size[0] / calibration.width
        return camera_info_from_intrinsics(view.result.intrinsics, view.header, tx)

    def _flow_image(self, view: FrameView) -> Image | None:
        flow = view.result.flow
        return None if flow is None else image_from_array(flow, "32FC2", view.header)

    def _motion_mask(self, view: FrameView) -> Image | None:
        if view.motion_mask is None:
            return None
        return image_from_array(view.motion_mask.astype(np.uint8) * 255, "mono8", view.header)

    def _points(self, view: FrameView) -> PointCloud2:
        return self._cloud.message(view.depth, view.colors, view.result.intrinsics, view.header)

    def _depth_preview(self, view: FrameView) -> Image:
        near, far = self._depth_span.follow(*rendering.depth_range(view.depth))
        preview = rendering.render_depth(view.depth, near, far)
        return image_from_array(preview, "bgr8", view.header)

    def _flow_preview(self, view: FrameView) -> Image | None:
        flow = view.result.flow
        if flow is None:
            return None
        length_px = np.linalg.norm(flow[::4, ::4], axis=-1)
        (full_px,) = self._flow_span.follow(max(float(np.quantile(length_px, 0.98)), 1.0))
        return image_from_array(rendering.render_flow(flow, full_px), "bgr8", view.header)

    def _motion_preview(self, view: FrameView) -> Image:
        preview = rendering.render_mask(rendering.to_bgr(view.colors), view.motion_mask)
        return image_from_array(preview, "bgr8", view.header)


class _SlowSpan:
    """Positive numbers that follow what they are told slowly, so that colours do not flicker."""

    def __init__(self, share: float = 0.1) -> None:
        self._share = share
        self._logs: npt.NDArray[np.float64] | None = None

    def follow(self, *values: float) -> list[float]:
        """Move a step towards ``values`` (the first call takes them as they are)."""
        logs = np.log(np.array(values))
        previous = logs if self._logs is None else self._logs
        self._logs = previous + self._share * (logs - previous)
        return [float(value) for value in np.exp(self._logs)]
