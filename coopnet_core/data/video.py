"""Reader of video files: frames are extracted once into an image folder, which is then read."""

from __future__ import annotations

from pathlib import Path

import cv2

from coopnet_core.data import image_folder
from coopnet_core.data.sequence import Sequence
from coopnet_core.errors import CalibrationError, DataError

_JPEG_QUALITY = 95


def read_sequence(
    video: Path | str,
    calibration: Path | str,
    frame_folder: Path | str,
    every: int = 1,
    frames: range | None = None,
) -> Sequence:
    """Read a video as a sequence.

    Args:
        video: Video file that OpenCV can decode.
        calibration: ROS calibration file of the rectified video, see ``image_folder``.
        frame_folder: Where the frames go. A folder that a finished extraction left is reused.
        every: Keep every n-th frame.
        frames: Numbers of kept frames to take; None takes all.

    Returns:
        The sequence; frame numbers count kept frames.

    Raises:
        DataError: The video cannot be decoded or ``every`` is not positive.
        CalibrationError: The calibration is impossible or for another frame size.
    """
    frame_folder = Path(frame_folder)
    if not (frame_folder / image_folder.TIMES_NAME).is_file():
        extract_frames(video, calibration, frame_folder, every)
    return image_folder.read_sequence(frame_folder, frames=frames)


def extract_frames(
    video: Path | str, calibration: Path | str, frame_folder: Path | str, every: int = 1
) -> int:
    """Write a video's frames as JPEG files with ``calibration.yaml`` and ``times.txt``.

    Args:
        video: Video file.
        calibration: ROS calibration file of the rectified video.
        frame_folder: Folder to fill; made when it is missing.
        every: Keep every n-th frame.

    Returns:
        Number of frames written.

    Raises:
        DataError: The video cannot be decoded or ``every`` is not positive.
        CalibrationError: The calibration is impossible or for another frame size.
    """
    video, frame_folder = Path(video), Path(frame_folder)
    if every < 1:
        raise DataError(f"'every' must be 1 or more, got {every}")
    intrinsics = image_folder.read_calibration(calibration)
    if not video.is_file():
        raise DataError(f"video {video} does not exist")
    capture = cv2.VideoCapture(str(video))
    try:
        if not capture.isOpened():
            raise DataError(f"cannot decode video {video}: damaged, or an unknown format or codec")
        fps = capture.get(cv2.CAP_PROP_FPS)
        if not fps > 0:
            raise DataError(f"video {video} does not state its frame rate")
        frame_folder.mkdir(parents=True, exist_ok=True)
        times: list[float] = []
        number = 0
        while True:
            has_frame, frame = capture.read()
            if not has_frame:
                break
            if number == 0 and frame.shape[:2] != (intrinsics.height, intrinsics.width):
                raise CalibrationError(
                    f"{calibration} is for {intrinsics.width}x{intrinsics.height}, but {video} is "
                    f"{frame.shape[1]}x{frame.shape[0]}; use the calibration of this size"
                )
            if number % every == 0:
                path = frame_folder / f"{len(times):06d}.jpg"
                if not cv2.imwrite(str(path), frame, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]):
                    raise DataError(f"cannot write {path}; is the disk full?")
                times.append(number / fps)
            number += 1
    finally:
        capture.release()
    if not times:
        raise DataError(f"video {video} has no frame that can be decoded")
    image_folder.write_calibration(
        frame_folder / image_folder.CALIBRATION_NAME, intrinsics, video.stem
    )
    # Written last: its presence says that the extraction finished.
    (frame_folder / image_folder.TIMES_NAME).write_text(
        "".join(f"{seconds:.9f}\n" for seconds in times), encoding="utf-8"
    )
    return len(times)
