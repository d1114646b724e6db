"""Reader of the KITTI odometry benchmark's layout.

``root/sequences/NN/{calib.txt,times.txt,image_0/000000.png,...}`` and ``root/poses/NN.txt``
(https://www.cvlibs.net/datasets/kitti/eval_odometry.php). Images may be resized ones (PNG or JPEG)
as long as ``calib.txt`` belongs to them.
"""

from __future__ import annotations

from pathlib import Path

from coopnet_core.data.sequence import (
    Sequence,
    camera_of,
    frames_by_number,
    numbered_frames,
    poses_from_rows,
    projection_of,
    read_projections,
    stamps_from_seconds,
    translation_to_reference,
)
from coopnet_core.errors import DataError

_RIGHT_OF = {"image_0": "image_1", "image_2": "image_3"}


def read_sequence(
    root: Path | str,
    sequence: str,
    frames: range | None = None,
    camera: str = "image_0",
) -> Sequence:
    """Read a sequence.

    Args:
        root: Folder that holds ``sequences`` and, where there is ground truth, ``poses``.
        sequence: Sequence name, such as "03".
        frames: Frame numbers to take; None takes every frame on disk.
        camera: Image folder: image_0 (left gray), image_1, image_2 (left colour) or image_3.

    Returns:
        The sequence. Poses are those of the chosen camera; the first pose is not moved to the
        identity. The right camera is filled in for image_0 and image_2 where it is on disk.

    Raises:
        DataError: A folder, frame, time or calibration line is missing or malformed.
        CalibrationError: The calibration is impossible or does not fit the images.
    """
    root = Path(root)
    folder = root / "sequences" / sequence
    if camera not in ("image_0", "image_1", "image_2", "image_3"):
        raise DataError(f"unknown camera {camera!r}: choose image_0, image_1, image_2 or image_3")
    if not folder.is_dir():
        raise DataError(
            f"KITTI odometry sequence {folder} does not exist; the root must hold "
            "sequences/<name>/image_0"
        )
    numbered = numbered_frames(folder / camera, frames)
    indices = tuple(index for index, _ in numbered)
    paths = tuple(path for _, path in numbered)

    calibration_path = folder / "calib.txt"
    projections = read_projections(calibration_path)
    projection = projection_of(projections, f"P{camera[-1]}", calibration_path)
    intrinsics = camera_of(projection, paths[0], calibration_path)
    t_cam_ref = translation_to_reference(projection)

    poses = None
    poses_path = root / "poses" / f"{sequence}.txt"
    if poses_path.is_file():
        poses = poses_from_rows(poses_path, indices)
        # Published poses are those of camera 0; all cameras share its axes after rectification.
        poses[:, :3, 3] += t_cam_ref - poses[:, :3, :3] @ t_cam_ref

    right_paths = None
    baseline_m = None
    right = _RIGHT_OF.get(camera)
    if right is not None and (folder / right).is_dir():
        right_projection = projection_of(projections, f"P{right[-1]}", calibration_path)
        baseline_m = float(t_cam_ref[0] - translation_to_reference(right_projection)[0])
        if not baseline_m > 0:
            raise DataError(
                f"{calibration_path}: {right} must lie to the right of {camera}, "
                f"but the baseline is {baseline_m} m"
            )
        on_disk = frames_by_number(folder / right)
        right_paths = tuple(on_disk.get(index) for index in indices)

    return Sequence(
        name=f"kitti_odometry/{sequence}/{camera}",
        paths=paths,
        indices=indices,
        intrinsics=intrinsics,
        stamps_ns=stamps_from_seconds(folder / "times.txt", indices),
        poses=poses,
        right_paths=right_paths,
        baseline_m=baseline_m,
    )
