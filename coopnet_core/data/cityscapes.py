"""Reader of Cityscapes video snippets (https://www.cityscapes-dataset.com).

``root/leftImg8bit_sequence/<part>/<city>/<city>_<sequence>_<frame>_leftImg8bit.png``, 30 frames per
snippet at 17 Hz, with ``camera/<part>/<city>/..._camera.json`` of one frame each. Optional:
``rightImg8bit_sequence``, and ``disparity`` or ``disparity_sequence`` (semi-global matching).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from coopnet_core.data.image_header import read_size
from coopnet_core.data.images import read_image16
from coopnet_core.data.sequence import Sequence, check_camera_fits, read_text, without_bottom
from coopnet_core.errors import CalibrationError, DataError
from coopnet_core.geometry.intrinsics import Intrinsics

# The star and the bonnet of the recording car fill the bottom of every picture; as in Zhou et al.,
# CVPR 2017.
CROP_BOTTOM = 0.25
# Every second frame comes near to KITTI's rate.
GAP = 2
RATE_HZ = 17.0
_NAME = re.compile(r"(?P<city>.+)_(?P<sequence>\d{6})_(?P<frame>\d{6})_leftImg8bit")
_CAMERA_NAME = re.compile(r".+_(\d{6})_camera")


@dataclass(frozen=True)
class _Snippet:
    folder: Path
    city: str
    sequence: str
    frames: tuple[int, ...]

    def path(self, frame: int) -> Path:
        return self.folder / f"{self.city}_{self.sequence}_{frame:06d}_leftImg8bit.png"


def read_sequences(
    root: Path | str, part: str = "train", crop_bottom: float = CROP_BOTTOM
) -> list[Sequence]:
    """Read all snippets of a part.

    Args:
        root: Folder that holds ``leftImg8bit_sequence`` and ``camera``.
        part: ``train``, ``val``, ``test``, or one city such as ``train/aachen``.
        crop_bottom: Share of the height to cut off at the bottom.

    Returns:
        One sequence per run of consecutive frame numbers, with nominal times, and the right camera
        where it is on disk. A snippet takes the calibration file of a frame of its own, else the
        nearest one of the same recording.

    Raises:
        DataError: A folder or file is missing or malformed.
        CalibrationError: A calibration is missing, impossible or does not fit its images.
    """
    root = Path(root)
    folder = root / "leftImg8bit_sequence" / part
    if not folder.is_dir():
        raise DataError(
            f"{folder} does not exist; the root must hold leftImg8bit_sequence/train/<city>"
        )
    cities = [folder] if "/" in part else sorted(p for p in folder.iterdir() if p.is_dir())
    snippets = [snippet for city in cities for snippet in _snippets(city)]
    if not snippets:
        raise DataError(f"no images such as aachen_000000_000000_leftImg8bit.png below {folder}")
    return [without_bottom(_sequence(root, snippet), crop_bottom) for snippet in snippets]


def disparity_path(left_image: Path) -> Path | None:
    """Return the disparity file of a left image; None where there is none.

    Args:
        left_image: File below ``leftImg8bit_sequence`` or ``leftImg8bit``.
    """
    root, part, city = left_image.parents[3], left_image.parents[1].name, left_image.parent.name
    name = left_image.name.replace("leftImg8bit", "disparity")
    places = (root / kind / part / city / name for kind in ("disparity_sequence", "disparity"))
    return next((place for place in places if place.is_file()), None)


def read_disparity(path: Path) -> npt.NDArray[np.float32]:
    """Read a disparity file: (value - 1) / 256, and 0 says that there is none.

    Returns:
        (H, W) float32 pixels of the full image, NaN where there is none.

    Raises:
        DataError: The file is missing, damaged, or of another kind.
    """
    values = read_image16(path)
    if values.ndim != 2:
        raise DataError(f"disparity {path} must have one channel, got {values.shape[2]}")
    disparity = (values.astype(np.float32) - 1) / np.float32(256)
    disparity[values == 0] = np.nan
    return disparity


def read_camera(path: Path, width: int, height: int) -> tuple[Intrinsics, float]:
    """Read a ``*_camera.json``.

    Args:
        path: The file.
        width: Width of its images, which it does not tell.
        height: Their height.

    Returns:
        The camera and the baseline of its stereo rig in metres.

    Raises:
        CalibrationError: It lacks a value, or the values are impossible.
    """
    try:
        content = json.loads(read_text(path))
        values = [float(content["intrinsic"][key]) for key in ("fx", "fy", "u0", "v0")]
        baseline_m = float(content["extrinsic"]["baseline"])
    except (KeyError, TypeError, ValueError) as error:
        raise CalibrationError(
            f"{path} must have intrinsic fx, fy, u0, v0 and extrinsic baseline: {error!r}"
        ) from error
    try:
        return Intrinsics(width, height, *values), baseline_m
    except CalibrationError as error:
        raise CalibrationError(f"{path}: {error}") from error


def read_sgm_depth(path: Path, fx: float, baseline_m: float) -> npt.NDArray[np.float32]:
    """Read a disparity file as depth.

    Args:
        path: Disparity file, see :func:`disparity_path`.
        fx: Focal length in pixels of the full image.
        baseline_m: Distance of the cameras.

    Returns:
        (H, W) float32 metres of the full image, not cropped; 0 where there is none (also at
        disparity 0, which is infinitely far).

    Raises:
        DataError: The file is missing, damaged, or of another kind.
    """
    disparity = read_disparity(path)
    depth_m = np.zeros_like(disparity)
    np.divide(np.float32(fx * baseline_m), disparity, out=depth_m, where=disparity > 0)
    return depth_m


def _snippets(city: Path) -> list[_Snippet]:
    recordings: dict[tuple[str, str], list[int]] = {}
    for path in city.glob("*_leftImg8bit.png"):
        match = _NAME.fullmatch(path.stem)
        if match is not None:
            recordings.setdefault((match["city"], match["sequence"]), []).append(
                int(match["frame"])
            )
    snippets = []
    for (name, sequence), frames in sorted(recordings.items()):
        ordered = np.array(sorted(frames))
        for run in np.split(ordered, np.flatnonzero(np.diff(ordered) > 1) + 1):
            snippets.append(_Snippet(city, name, sequence, tuple(int(frame) for frame in run)))
    return snippets


def _sequence(root: Path, snippet: _Snippet) -> Sequence:
    paths = tuple(snippet.path(frame) for frame in snippet.frames)
    camera_path = _camera_path(root, snippet)
    camera, baseline_m = read_camera(camera_path, *read_size(paths[0]))
    check_camera_fits(camera, camera_path, paths[0])
    part, city = snippet.folder.parent.name, snippet.folder.name
    right_folder = root / "rightImg8bit_sequence" / part / city
    right_paths = None
    if right_folder.is_dir():
        names = [path.name.replace("leftImg8bit", "rightImg8bit") for path in paths]
        right_paths = tuple(
            right_folder / name if (right_folder / name).is_file() else None for name in names
        )
    return Sequence(
        name=f"cityscapes/{part}/{snippet.city}_{snippet.sequence}_{snippet.frames[0]:06d}",
        paths=paths,
        indices=snippet.frames,
        intrinsics=camera,
        stamps_ns=tuple(round(frame / RATE_HZ * 1e9) for frame in snippet.frames),
        right_paths=right_paths,
        baseline_m=baseline_m if right_paths is not None else None,
    )


def _camera_path(root: Path, snippet: _Snippet) -> Path:
    folder = root / "camera" / snippet.folder.parent.name / snippet.folder.name
    middle = snippet.frames[len(snippet.frames) // 2]
    found = {}
    for path in sorted(folder.glob(f"{snippet.city}_{snippet.sequence}_*_camera.json")):
        match = _CAMERA_NAME.fullmatch(path.stem)
        if match is not None:
            found[abs(int(match[1]) - middle)] = path
    if not found:
        raise CalibrationError(
            f"no camera file {folder}/{snippet.city}_{snippet.sequence}_*_camera.json: "
            "unpack camera_trainvaltest.zip"
        )
    return found[min(found)]
