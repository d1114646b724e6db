"""Calibrations, from CameraInfo messages and ROS files, and rectification (no ROS in here)."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import yaml

from coopnet_core.data.sequence import read_text
from coopnet_core.errors import CalibrationError
from coopnet_core.geometry.intrinsics import Intrinsics

_IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)

# distortion model -> numbers of coefficients that OpenCV has for it
_COEFFICIENTS: dict[str, tuple[int, ...]] = {
    "plumb_bob": (4, 5),
    "rational_polynomial": (8, 12, 14),
    "equidistant": (4,),
}


class RectificationMaps(NamedTuple):
    """Where each pixel of the rectified picture comes from.

    Attributes:
        map_a: First map of ``cv2.remap``, (H, W, 2) int16.
        map_b: Second map, (H, W) uint16.
        valid: (H, W) bool, False where the camera did not look.
    """

    map_a: npt.NDArray[np.int16]
    map_b: npt.NDArray[np.uint16]
    valid: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Calibration:
    """What a CameraInfo says about the picture as it is sent (binning and ROI applied).

    Two equal calibrations are the same camera, so it also serves as a cache key.

    Attributes:
        width: Width of the picture in pixels.
        height: Height of the picture in pixels.
        model: ``plumb_bob``, ``rational_polynomial`` or ``equidistant``.
        K: Nine numbers, row-major: the camera as it is.
        D: Distortion coefficients.
        R: Nine numbers, row-major: rectifying rotation.
        P: Twelve numbers, row-major: the rectified camera.
    """

    width: int
    height: int
    model: str
    K: tuple[float, ...]
    D: tuple[float, ...]
    R: tuple[float, ...]
    P: tuple[float, ...]

    @property
    def is_distorted(self) -> bool:
        """Whether the picture must be remapped to become that of the pinhole camera P."""
        pinhole = (*self.P[0:3], *self.P[4:7], *self.P[8:11])
        return any(self.D) or self.R != _IDENTITY or not np.allclose(self.K, pinhole, rtol=1e-6)

    def intrinsics(self) -> Intrinsics:
        """Return the pinhole camera of the rectified picture (the left 3x3 of P).

        Raises:
            CalibrationError: P is impossible (focal length not positive, values not finite).
        """
        return Intrinsics(self.width, self.height, self.P[0], self.P[5], self.P[2], self.P[6])


def calibration_from_camera_info(
    info: Any, image_width: int = 0, image_height: int = 0
) -> Calibration:
    """Read and check a CameraInfo.

    Args:
        info: ``sensor_msgs/CameraInfo``, of rclpy or of ``rosbags``. A P of zeros (driver without
            stereo or rectification) is taken from K, an R of zeros is taken as identity.
        image_width: Width of the picture in pixels that the message shall belong to; 0 to take
            the message's.
        image_height: Height of the same picture; 0 to take the message's.

    Returns:
        The calibration of the picture as sent.

    Raises:
        CalibrationError: Zero focal length (an uncalibrated camera), values not finite, another
            size than the picture's, an unknown distortion model or a wrong number of coefficients.
    """
    K = [float(value) for value in info.k]
    P = [float(value) for value in info.p]
    R = tuple(float(value) for value in info.r)
    D = tuple(float(value) for value in info.d)
    if K[0] == 0.0 or K[4] == 0.0:
        raise CalibrationError(
            f"camera_info has zero focal length (K[0]={K[0]:g}, K[4]={K[4]:g}): the camera is not "
            "calibrated; calibrate it or load a calibration file in the driver"
        )
    if not all(math.isfinite(value) for value in (*K, *P, *R, *D)):
        raise CalibrationError("camera_info has values that are not finite: calibrate the camera")
    if P[0] == 0.0:
        P = [*K[0:3], 0.0, *K[3:6], 0.0, *K[6:9], 0.0]
    if not any(R):
        R = _IDENTITY
    model = _checked_model(info.distortion_model, D)
    width, height = _apply_roi_and_binning(info, K, P, image_width, image_height)
    if (image_width and width != image_width) or (image_height and height != image_height):
        raise CalibrationError(
            f"camera_info is for {width}x{height} pixels, the image has "
            f"{image_width}x{image_height}: both must come from the same camera mode"
        )
    calibration = Calibration(width, height, model, tuple(K), D, R, tuple(P))
    calibration.intrinsics()
    return calibration


def read_calibration(path: Path | str) -> Calibration:
    """Read a ROS calibration file, as the ``camera_calibration`` package writes it.

    Args:
        path: YAML file with ``image_width``, ``image_height``, ``camera_matrix`` and, where the
            lens is distorted, ``distortion_model``, ``distortion_coefficients``,
            ``rectification_matrix`` and ``projection_matrix``.

    Returns:
        The calibration of the picture as the camera takes it.

    Raises:
        CalibrationError: A key is missing or malformed, or the values are impossible.
        DataError: The file cannot be read.
    """
    path = Path(path)
    try:
        content = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise CalibrationError(f"{path} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise CalibrationError(
            f"{path} must be a mapping with image_width, image_height and camera_matrix"
        )

    def numbers(key: str, count: int) -> list[float]:
        values = [float(value) for value in (content.get(key) or {"data": [0.0] * count})["data"]]
        if len(values) != count:
            raise CalibrationError(f"{path}: {key} must have {count} numbers, got {len(values)}")
        return values

    try:
        width, height = int(content["image_width"]), int(content["image_height"])
        content["camera_matrix"]["data"]
        distortion = (content.get("distortion_coefficients") or {"data": []})["data"]
        info = SimpleNamespace(
            width=width,
            height=height,
            distortion_model=str(content.get("distortion_model", "")),
            k=numbers("camera_matrix", 9),
            d=[float(value) for value in distortion],
            r=numbers("rectification_matrix", 9),
            p=numbers("projection_matrix", 12),
            binning_x=0,
            binning_y=0,
            roi=SimpleNamespace(x_offset=0, y_offset=0, width=0, height=0),
        )
    except KeyError as error:
        raise CalibrationError(
            f"{path} lacks the key {error}; it must be a ROS calibration file, "
            "as the camera_calibration package writes it"
        ) from error
    except (TypeError, ValueError) as error:
        raise CalibrationError(f"{path} is not a ROS calibration file: {error}") from error
    try:
        return calibration_from_camera_info(info)
    except CalibrationError as error:
        raise CalibrationError(f"{path}: {error}") from error


def rectify(
    image: npt.NDArray[np.uint8], calibration: Calibration
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_] | None]:
    """Turn a picture into that of the pinhole camera ``calibration.intrinsics()``.

    Args:
        image: uint8 (H, W) or (H, W, 3), of the calibration's size.
        calibration: From ``calibration_from_camera_info``.

    Returns:
        The rectified picture, and a (H, W) mask that is False where the camera did not look. An
        undistorted picture comes back as it is, with None for the mask.
    """
    if not calibration.is_distorted:
        return image, None
    maps = rectification_maps(calibration)
    pixels = cv2.remap(image, maps.map_a, maps.map_b, cv2.INTER_LINEAR)
    return np.asarray(pixels, np.uint8), maps.valid


@functools.lru_cache(maxsize=4)
def rectification_maps(calibration: Calibration) -> RectificationMaps:
    """Return the maps for ``cv2.remap``; computed once per calibration.

    Args:
        calibration: From ``calibration_from_camera_info``.

    Returns:
        The maps and the mask of pixels that the camera saw.
    """
    K = np.array(calibration.K).reshape(3, 3)
    R = np.array(calibration.R).reshape(3, 3)
    P = np.array(calibration.P).reshape(3, 4)[:, :3]
    D = np.array(calibration.D)
    size = (calibration.width, calibration.height)
    if calibration.model == "equidistant":
        D = D if D.size else np.zeros(4)
        maps = cv2.fisheye.initUndistortRectifyMap(K, D, R, P, size, cv2.CV_16SC2)
    else:
        maps = cv2.initUndistortRectifyMap(K, D, R, P, size, cv2.CV_16SC2)
    seen = cv2.remap(
        np.full((calibration.height, calibration.width), 255, np.uint8), *maps, cv2.INTER_LINEAR
    )
    valid = np.asarray(seen == 255, np.bool_)
    valid.flags.writeable = False
    return RectificationMaps(np.asarray(maps[0]), np.asarray(maps[1]), valid)


def _checked_model(name: str, D: Sequence[float]) -> str:
    model = {"": "plumb_bob", "fisheye": "equidistant"}.get(name, name)
    if not any(D):
        return model if model in _COEFFICIENTS else "plumb_bob"
    if model not in _COEFFICIENTS:
        raise CalibrationError(
            f"camera_info has distortion model '{name}', expected one of "
            f"{', '.join(_COEFFICIENTS)}: rectify the picture upstream and set rectify:=false"
        )
    if len(D) not in _COEFFICIENTS[model]:
        expected = " or ".join(str(number) for number in _COEFFICIENTS[model])
        raise CalibrationError(
            f"camera_info has {len(D)} distortion coefficients, {model} takes {expected}"
        )
    return model


def _apply_roi_and_binning(
    info: Any, K: list[float], P: list[float], image_width: int, image_height: int
) -> tuple[int, int]:
    """Move K and P from the full sensor to the picture as sent; return its size."""
    width, height = int(info.width) or image_width, int(info.height) or image_height
    if info.roi.width and info.roi.height:
        for matrix, columns in ((K, 3), (P, 4)):
            matrix[2] -= info.roi.x_offset
            matrix[columns + 2] -= info.roi.y_offset
        width, height = int(info.roi.width), int(info.roi.height)
    binning_x, binning_y = max(1, int(info.binning_x)), max(1, int(info.binning_y))
    if (binning_x, binning_y) != (1, 1):
        _scale(K, P, 1 / binning_x, 1 / binning_y)
        width, height = width // binning_x, height // binning_y
    return width, height


def _scale(K: list[float], P: list[float], sx: float, sy: float) -> None:
    for matrix, columns in ((K, 3), (P, 4)):
        matrix[0] *= sx
        matrix[2] = (matrix[2] + 0.5) * sx - 0.5
        matrix[columns + 1] *= sy
        matrix[columns + 2] = (matrix[columns + 2] + 0.5) * sy - 0.5
    P[3] *= sx
