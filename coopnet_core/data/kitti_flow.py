"""Reader of KITTI flow 2012 and 2015, images and ground truth.

``root/training/{image_2,image_3,flow_occ,flow_noc,obj_map,calib_cam_to_cam}/000000_10.png`` (2015,
https://www.cvlibs.net/datasets/kitti/eval_scene_flow.php) or
``root/training/{colored_0 or image_0,...,flow_occ,flow_noc,calib}/000000_10.png`` (2012). The
multi-view extension has 21 frames of each scene; flow leads from frame 10 to frame 11.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt

from coopnet_core.data.images import IMAGE_SUFFIXES, read_image16
from coopnet_core.data.kitti_raw import read_entry
from coopnet_core.data.sequence import Sequence, camera_of, translation_to_reference
from coopnet_core.errors import DataError

FRAME_PERIOD_NS = 10**8
_NAME = re.compile(r"(\d{6})_(\d{2})")
# Image folder of the left camera, of the right one, folder of the calibration, names in there.
LAYOUTS = (
    ("image_2", "image_3", "calib_cam_to_cam", "P_rect_02", "P_rect_03"),
    ("colored_0", "colored_1", "calib", "P2", "P3"),
    ("image_0", "image_1", "calib", "P0", "P1"),
)


def read_sequences(root: Path | str, part: str = "training") -> list[Sequence]:
    """Read every scene as a short sequence.

    Args:
        root: Folder that holds ``training`` and ``testing``.
        part: Which of the two.

    Returns:
        The scenes, with frame numbers as in the file names, nominal times (10 Hz), and the right
        camera where it is on disk.

    Raises:
        DataError: A folder, file or calibration entry is missing or malformed.
        CalibrationError: A calibration is impossible or does not fit its images.
    """
    folder = Path(root) / part
    layout = next((layout for layout in LAYOUTS if (folder / layout[0]).is_dir()), None)
    if layout is None:
        raise DataError(
            f"{folder} is not KITTI flow: it has none of "
            f"{', '.join(layout[0] for layout in LAYOUTS)}"
        )
    left, right, calibration, left_entry, right_entry = layout
    scenes = _scenes(folder / left)
    if not scenes:
        raise DataError(f"no images such as 000000_10.png in {folder / left}")
    partners = _scenes(folder / right) if (folder / right).is_dir() else {}
    sequences = []
    for scene, frames in sorted(scenes.items()):
        calibration_path = folder / calibration / f"{scene}.txt"
        projection = read_entry(calibration_path, left_entry, (3, 4))
        indices = tuple(sorted(frames))
        paths = tuple(frames[index] for index in indices)
        right_paths = None
        baseline_m = None
        if scene in partners:
            step_m = translation_to_reference(projection) - translation_to_reference(
                read_entry(calibration_path, right_entry, (3, 4))
            )
            baseline_m = float(step_m[0])
            right_paths = tuple(partners[scene].get(index) for index in indices)
        sequences.append(
            Sequence(
                name=f"{Path(root).name}/{part}/{scene}",
                paths=paths,
                indices=indices,
                intrinsics=camera_of(projection, paths[0], calibration_path),
                stamps_ns=tuple(index * FRAME_PERIOD_NS for index in indices),
                right_paths=right_paths,
                baseline_m=baseline_m,
            )
        )
    return sequences


def read_flow(path: Path | str) -> npt.NDArray[np.float32]:
    """Read a flow field.

    Args:
        path: 16-bit RGB PNG: u = (R - 2^15) / 64, v = (G - 2^15) / 64, B is 1 where it is known
            (Menze and Geiger, "Object Scene Flow for Autonomous Vehicles", CVPR 2015, devkit).

    Returns:
        (H, W, 2) float32 pixels; NaN where the flow is unknown.

    Raises:
        DataError: The file is missing, damaged, or of another kind.
    """
    path = Path(path)
    values = read_image16(path)
    if values.ndim != 3:
        raise DataError(f"flow {path} must have three channels of 16 bits (u, v, valid), got one")
    flow = (values[:, :, :2].astype(np.float32) - np.float32(2**15)) / np.float32(64)
    flow[values[:, :, 2] == 0] = np.nan
    return flow


def flow_path(root: Path | str, scene: str, occlusions: str) -> Path:
    """Return the ground truth of a scene of the training part.

    Args:
        root: Folder that holds ``training``.
        scene: Such as "000000".
        occlusions: ``occ`` (all pixels) or ``noc`` (only those still in view in frame 11).

    Raises:
        DataError: The file does not exist, or ``occlusions`` is neither of the two.
    """
    if occlusions not in ("occ", "noc"):
        raise DataError(f"KITTI flow has ground truth 'occ' and 'noc', got {occlusions!r}")
    path = Path(root) / "training" / f"flow_{occlusions}" / f"{scene}_10.png"
    if not path.is_file():
        raise DataError(f"{path} does not exist; check the data set root")
    return path


def _scenes(folder: Path) -> dict[str, dict[int, Path]]:
    scenes: dict[str, dict[int, Path]] = {}
    for path in folder.iterdir():
        match = _NAME.fullmatch(path.stem)
        if match is not None and path.suffix.lower() in IMAGE_SUFFIXES:
            scenes.setdefault(match[1], {})[int(match[2])] = path
    return scenes
