"""Frames of a bag as a sequence: they are taken out once, rectified, into an image folder.

Training reads frames in any order and every epoch; a bag gives them in the order of time, inside
compressed chunks. A picture that needs no rectification keeps its bytes, JPEG or PNG.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from coopnet_core.data import camera_info, image_folder
from coopnet_core.data.bag_reader import Bag, camera_topics, image_topic
from coopnet_core.data.camera_info import Calibration, calibration_from_camera_info, rectify
from coopnet_core.data.images import image_kind
from coopnet_core.data.ros_images import rgb_from_compressed, rgb_from_image
from coopnet_core.data.sequence import Sequence
from coopnet_core.errors import CalibrationError, CoopNetError, DataError, InputError

_LOG = logging.getLogger(__name__)
_JPEG_QUALITY = 95
_ORIGIN_NAME = "extracted_from.json"
# Partners of a stereo pair are this close in time, relative to the time between frames.
_STEREO_TOLERANCE = 0.1


@dataclass(frozen=True)
class BagCamera:
    """Which camera of a bag to read.

    Attributes:
        topic: Image topic; None where the bag has only one.
        right_topic: Image topic of the right camera of a stereo rig, or None.
        calibration: ROS calibration file for the pictures of ``topic``; None takes the CameraInfo
            of the bag.
    """

    topic: str | None = None
    right_topic: str | None = None
    calibration: Path | None = None


def read_sequence(
    bag: Path | str,
    camera: BagCamera | None = None,
    frames: range | None = None,
    frame_folder: Path | str | None = None,
) -> Sequence:
    """Read a camera of a bag as a sequence.

    Args:
        bag: Bag directory, ``.mcap``, ``.db3`` or (ROS 1) ``.bag`` file.
        camera: Which camera.
        frames: Places of the extracted frames to take; None takes all.
        frame_folder: Where the frames go; None: ``<bag>.frames/<topic>`` beside the bag. A folder
            that came from the same bag, topics and calibration is taken as it is.

    Returns:
        The sequence, with a right camera where ``right_topic`` names one.

    Raises:
        DataError: The bag, a topic or every picture is missing or damaged.
        CalibrationError: There is no calibration, or it does not fit.
    """
    bag = Path(bag)
    with Bag(bag) as opened:
        rig = _open_rig(opened, camera or BagCamera())
        if frame_folder is None:
            frame_folder = bag.with_name(f"{bag.name}.frames") / rig.folder_name
        frame_folder = Path(frame_folder)
        origin = _origin(bag, rig)
        if not _came_from(frame_folder, origin):
            _extract_atomically(opened, rig, frame_folder, origin)
    return image_folder.read_sequence(frame_folder, frames=frames)


def first_camera_info(bag: Bag, image: str, info: str | None = None) -> Calibration:
    """Return the calibration that a bag holds for an image topic.

    Args:
        bag: An open bag.
        image: Image topic.
        info: CameraInfo topic; None looks beside and above the image topic.

    Raises:
        DataError: There is no CameraInfo.
        CalibrationError: It is impossible.
    """
    topic = camera_topics(bag, image, info).camera_info.name
    message = bag.deserialize(next(bag.messages([topic])))
    try:
        return calibration_from_camera_info(message)
    except CalibrationError as error:
        raise CalibrationError(f"bag {bag.path}, {topic}: {error}") from error


def picture_of(message: Any) -> npt.NDArray[np.uint8]:
    """Return the picture of an Image or CompressedImage, (H, W) gray or (H, W, 3) RGB.

    Raises:
        InputError: It is damaged or of an unknown encoding.
    """
    if hasattr(message, "encoding"):
        return rgb_from_image(message)
    return rgb_from_compressed(message)


def header_stamp_ns(data: bytes, logged_ns: int) -> int:
    """Return the stamp of a serialised message that begins with a header.

    Args:
        data: CDR bytes with their four-byte header.
        logged_ns: Log time, taken for a stamp of zero: nobody has set that one.
    """
    order = "little" if data[1] & 1 else "big"
    seconds = int.from_bytes(data[4:8], order, signed=True)  # type: ignore[arg-type]
    stamp_ns = seconds * 10**9 + int.from_bytes(data[8:12], order)  # type: ignore[arg-type]
    return stamp_ns or logged_ns


@dataclass(frozen=True)
class _Rig:
    left: str
    calibration: Calibration
    right: str | None = None
    right_calibration: Calibration | None = None

    @property
    def folder_name(self) -> str:
        names = [self.left] if self.right is None else [self.left, self.right]
        return "__".join(name.strip("/").replace("/", "_") for name in names)


def _open_rig(bag: Bag, camera: BagCamera) -> _Rig:
    left = image_topic(bag, camera.topic).name
    if camera.calibration is not None:
        calibration = camera_info.read_calibration(camera.calibration)
    else:
        calibration = first_camera_info(bag, left)
    if camera.right_topic is None:
        return _Rig(left, calibration)
    right = image_topic(bag, camera.right_topic).name
    right_calibration = first_camera_info(bag, right)
    pinholes = [np.reshape(c.P, (3, 4)) for c in (calibration, right_calibration)]
    baseline_m = (pinholes[0][0, 3] - pinholes[1][0, 3]) / pinholes[0][0, 0]
    same = np.allclose(pinholes[0][:, :3], pinholes[1][:, :3], rtol=1e-4)
    if not same or not baseline_m > 0:
        raise CalibrationError(
            f"bag {bag.path}: {right} is not the right camera of {left}: the P of their CameraInfo "
            f"must agree but for P[3], which gives a baseline of {baseline_m:g} m; calibrate both "
            "as a stereo camera"
        )
    return _Rig(left, calibration, right, right_calibration)


def _origin(bag: Path, rig: _Rig) -> dict[str, Any]:
    """Everything that decides what the frames look like."""
    files = [bag] if bag.is_file() else sorted(path for path in bag.iterdir() if path.is_file())
    content = {
        "files": {path.name: path.stat().st_size for path in files},
        "left": [rig.left, repr(rig.calibration)],
        "right": [rig.right, repr(rig.right_calibration)],
    }
    return content


def _came_from(folder: Path, origin: dict[str, Any]) -> bool:
    try:
        return bool(json.loads((folder / _ORIGIN_NAME).read_text("utf-8")) == origin)
    except (OSError, ValueError):
        return False


def _extract_atomically(bag: Bag, rig: _Rig, folder: Path, origin: dict[str, Any]) -> None:
    """Fill a folder beside the wanted one and rename it: no half-filled folder is ever taken."""
    if folder.exists() and not (folder / _ORIGIN_NAME).is_file():
        raise DataError(f"{folder} exists and does not come from a bag: move it away")
    part = folder.with_name(f"{folder.name}.part-{os.getpid()}")
    try:
        part.mkdir(parents=True)
        _extract(bag, rig, part)
        (part / _ORIGIN_NAME).write_text(json.dumps(origin, indent=1), encoding="utf-8")
        # Another process may have been faster.
        if not _came_from(folder, origin):
            shutil.rmtree(folder, ignore_errors=True)
            part.rename(folder)
    except OSError as error:
        raise DataError(
            f"cannot write the frames of {bag.path} to {folder}: {error.strerror}; free "
            "some space, or link the bag into a folder that can be written to"
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _extract(bag: Bag, rig: _Rig, folder: Path) -> None:
    stamps: list[int] = []
    left_out: list[str] = []

    def take_left(stamp_ns: int, message: Any) -> None:
        if stamps and stamp_ns <= stamps[-1]:
            raise InputError("its stamp does not advance")
        _write(folder / f"{len(stamps):06d}", message, rig.calibration)
        stamps.append(stamp_ns)

    _each_picture(bag, rig.left, take_left, left_out)
    if not stamps:
        raise DataError(
            f"bag {bag.path} has no usable picture on {rig.left}; the first: {left_out[0]}"
            if left_out
            else f"bag {bag.path} has no picture on {rig.left}"
        )
    pinhole = rig.calibration.intrinsics()
    image_folder.write_calibration(folder / image_folder.CALIBRATION_NAME, pinhole, rig.left)
    times = "".join(f"{stamp // 10**9}.{stamp % 10**9:09d}\n" for stamp in stamps)
    (folder / image_folder.TIMES_NAME).write_text(times, encoding="utf-8")
    if rig.right is not None and rig.right_calibration is not None:
        _extract_right(bag, rig, folder / image_folder.RIGHT_NAME, stamps, left_out)
    if left_out:
        _LOG.warning("%s: %d pictures left out: %s", bag.path, len(left_out), "; ".join(left_out))


def _extract_right(
    bag: Bag, rig: _Rig, folder: Path, stamps: list[int], left_out: list[str]
) -> None:
    calibration = rig.right_calibration
    if rig.right is None or calibration is None:
        return
    folder.mkdir()
    lefts = np.array(stamps)
    tolerance_ns = _STEREO_TOLERANCE * float(np.median(np.diff(lefts))) if len(lefts) > 1 else 0.0

    def take_right(stamp_ns: int, message: Any) -> None:
        place = int(np.abs(lefts - stamp_ns).argmin())
        if abs(int(lefts[place]) - stamp_ns) <= tolerance_ns:
            _write(folder / f"{place:06d}", message, calibration)

    _each_picture(bag, rig.right, take_right, left_out)
    baseline_m = (rig.calibration.P[3] - calibration.P[3]) / calibration.P[0]
    image_folder.write_calibration(
        folder / image_folder.CALIBRATION_NAME, calibration.intrinsics(), rig.right, baseline_m
    )


def _each_picture(
    bag: Bag, topic: str, take: Callable[[int, Any], None], left_out: list[str]
) -> None:
    """Hand over every picture of a topic; those that cannot be used are written down."""
    for message in bag.messages([topic]):
        stamp_ns = header_stamp_ns(message.data, message.stamp_ns)
        try:
            take(stamp_ns, bag.deserialize(message))
        except CalibrationError:
            raise
        except CoopNetError as error:
            left_out.append(f"{topic} at {stamp_ns} ns: {error}")


def _write(stem: Path, message: Any, calibration: Calibration) -> None:
    """Write a picture as ``stem`` with the suffix of its format.

    Raises:
        InputError: It is damaged or cannot be read.
        CalibrationError: It does not have the calibrated size.
    """
    picture = picture_of(message)
    height, width = picture.shape[:2]
    if (width, height) != (calibration.width, calibration.height):
        raise CalibrationError(
            f"a picture is {width}x{height}, but its calibration is for "
            f"{calibration.width}x{calibration.height}; give the calibration of this size"
        )
    kind = None if hasattr(message, "encoding") else image_kind(bytes(message.data))
    if kind is not None and not calibration.is_distorted:
        suffix = {"JPEG": ".jpg", "PNG": ".png"}[kind]
        stem.with_suffix(suffix).write_bytes(bytes(message.data))
        return
    rectified, _ = rectify(picture, calibration)
    if rectified.ndim == 3:
        rectified = np.asarray(cv2.cvtColor(rectified, cv2.COLOR_RGB2BGR), np.uint8)
    encoded = cv2.imencode(".jpg", rectified, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1]
    stem.with_suffix(".jpg").write_bytes(encoded.tobytes())
