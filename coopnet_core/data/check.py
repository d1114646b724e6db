"""What a recording holds and what is wrong with it, without decoding all of it.

Every file's header and end are read, every calibration, every stamp; of the pictures a sample is
decoded, in pairs of neighbours.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from coopnet_core.data import middlebury
from coopnet_core.data.depth_images import read_depth
from coopnet_core.data.discovery import Found
from coopnet_core.data.image_header import check_file
from coopnet_core.data.images import read_image
from coopnet_core.data.pairs import DEFAULT_MIN_MOTION, change_between, thumbnail_of
from coopnet_core.data.sequence import Sequence
from coopnet_core.errors import CoopNetError, DataError
from coopnet_core.geometry.intrinsics import Intrinsics

Picture = npt.NDArray[np.uint8]
Size = tuple[int, int]
# Called with the work done so far and all of it, in any unit.
Progress = Callable[[int, int], None]

NUM_SAMPLED_PAIRS = 40
NUM_PICTURES = 6
# A frame with a mean below this, of 255, shows little to match.
DARK_MEAN = 30
# A frame is overexposed where more than this share of its pixels is nearly white.
BRIGHT_VALUE = 250
OVEREXPOSED_SHARE = 0.2
# Times between frames longer than this many medians are gaps.
GAP_FACTOR = 1.8
_PICTURE_WIDTH = 320
# Kinds whose frames are numbered without holes.
_NUMBERED = ("kitti_odometry", "kitti_raw", "karlsruhe")


@dataclass(frozen=True)
class Problem:
    """Something wrong.

    Attributes:
        text: What, with the name of the file or topic.
        is_fatal: Training would stop at it.
    """

    text: str
    is_fatal: bool


@dataclass
class Report:
    """What was found out about one source.

    Attributes:
        found: The source.
        num_sequences: Number of recordings in it.
        num_frames: Number of frames, of the left camera where there are two.
        facts: Lines of (what, how much).
        problems: What is wrong, each once, in the order of checking.
        pictures: (caption, small RGB picture) of some frames.
    """

    found: Found
    num_sequences: int = 0
    num_frames: int = 0
    facts: list[tuple[str, str]] = field(default_factory=list)
    problems: dict[Problem, None] = field(default_factory=dict)
    pictures: list[tuple[str, Picture]] = field(default_factory=list)

    def add_error(self, error: Exception, is_fatal: bool = True) -> None:
        """Note an error."""
        self.problems[Problem(str(error), is_fatal)] = None


class Looks:
    """Collects light, colour and motion of sampled frames."""

    def __init__(self) -> None:
        self._changes: list[float] = []
        self._means: list[float] = []
        self._bright: list[float] = []
        self._num_coloured = 0
        self.pictures: list[tuple[str, Picture]] = []

    def add(
        self, name: str, image: Picture, previous: npt.NDArray[np.float32] | None
    ) -> npt.NDArray[np.float32]:
        """Add a picture.

        Args:
            name: Its name for the caption.
            image: (H, W) or (H, W, 3).
            previous: Thumbnail of the frame before it; None where this frame is not compared.

        Returns:
            The thumbnail of this frame.
        """
        thumbnail = thumbnail_of(image)
        gray = thumbnail * 255
        self._means.append(float(gray.mean()))
        self._bright.append(float((gray >= BRIGHT_VALUE).mean()))
        if image.ndim == 3:
            sample = image[::8, ::8].astype(np.int16)
            self._num_coloured += bool(np.ptp(sample, axis=2).mean() > 1)
        caption = name
        if previous is not None and previous.shape == thumbnail.shape:
            self._changes.append(change_between(thumbnail, previous))
            caption = f"{name}  change {self._changes[-1]:.3f}"
        if previous is not None or not self.pictures:
            height = max(1, round(image.shape[0] * _PICTURE_WIDTH / image.shape[1]))
            size = (_PICTURE_WIDTH, height)
            small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
            if small.ndim == 2:
                small = cv2.cvtColor(small, cv2.COLOR_GRAY2RGB)
            self.pictures.append((caption, np.asarray(small, np.uint8)))
        return thumbnail

    def report_to(self, report: Report) -> None:
        """Write what was seen as facts and problems."""
        if not self._means:
            return
        count = len(self._means)
        coloured = "colour" if self._num_coloured else "gray"
        if 0 < self._num_coloured < count:
            coloured = f"{self._num_coloured} of {count} sampled frames in colour"
        report.facts.append(("colour", coloured))
        if self._changes:
            num_still = sum(change < DEFAULT_MIN_MOTION for change in self._changes)
            num_same = sum(change == 0 for change in self._changes)
            pairs = len(self._changes)
            report.facts.append(
                (
                    "motion",
                    f"{num_still} of {pairs} sampled pairs of neighbours are still (change below "
                    f"{DEFAULT_MIN_MOTION}); median change {np.median(self._changes):.3f}",
                )
            )
            if num_same > 0.05 * pairs:
                text = (
                    f"{report.found.name}: {num_same} of {pairs} sampled pairs are the same "
                    "picture twice, as after a change of the frame rate: drop the copies"
                )
                report.add_error(DataError(text), is_fatal=False)
        num_dark = sum(mean < DARK_MEAN for mean in self._means)
        num_bright = sum(share > OVEREXPOSED_SHARE for share in self._bright)
        report.facts.append(
            (
                "light",
                f"of {count} sampled frames {num_dark} dark (mean below {DARK_MEAN} of 255), "
                f"{num_bright} overexposed (more than {OVEREXPOSED_SHARE:.0%} nearly white)",
            )
        )
        step = max(1, -(-len(self.pictures) // NUM_PICTURES))
        report.pictures = self.pictures[::step][:NUM_PICTURES]


def check_files(found: Found, progress: Progress) -> Report:
    """Check a source that consists of image files.

    Args:
        found: What ``discover`` found.
        progress: Called while the files are read.

    Returns:
        The report; nothing about the data is raised.
    """
    report = Report(found)
    sequences = _load(found, report)
    listed = [path for s in sequences for path in (*s.paths, *(s.right_paths or ())) if path]
    sizes = _check_each(tuple(dict.fromkeys([*found.images, *listed])), report, progress)
    if found.kind in _NUMBERED:
        _report_holes(found.images, report)
    report.num_sequences = len(sequences)
    report.num_frames = sum(map(len, sequences)) or len(found.images)
    _report_sizes(sizes, report)
    if found.kind == "middlebury":
        _check_flow(found.path, report)
    if sequences:
        report.facts.append(("camera", camera_text([s.intrinsics for s in sequences])))
        stamps = [np.array(sequence.stamps_ns, np.int64) for sequence in sequences]
        report_stamps(stamps, report)
        _report_rig(sequences, report)
    looks = Looks()
    for earlier, later in _sampled_pairs(sequences, found.images):
        if earlier not in sizes or later not in sizes:
            continue  # noted already
        try:
            thumbnail = looks.add(earlier.name, read_image(earlier), None)
            looks.add(later.name, read_image(later), thumbnail)
        except DataError as error:
            report.add_error(error)
    looks.report_to(report)
    return report


def camera_text(cameras: Iterable[Intrinsics]) -> str:
    """Describe the cameras of a source in one line."""
    distinct = Counter(cameras)
    camera = distinct.most_common(1)[0][0]
    fov = [
        np.degrees(2 * np.arctan(size / 2 / focal))
        for size, focal in ((camera.width, camera.fx), (camera.height, camera.fy))
    ]
    text = (
        f"fx {camera.fx:.1f}, fy {camera.fy:.1f}, cx {camera.cx:.1f}, cy {camera.cy:.1f} for "
        f"{camera.width}x{camera.height}; field of view {fov[0]:.0f}x{fov[1]:.0f} degrees"
    )
    return text if len(distinct) == 1 else f"{len(distinct)} calibrations, mostly {text}"


def report_stamps(stamps: list[npt.NDArray[np.int64]], report: Report) -> None:
    """Write rate, gaps and stamps that do not advance.

    Args:
        stamps: (N,) nanoseconds of each recording.
        report: Gets the line and the problems.
    """
    steps = [np.diff(each) for each in stamps if len(each) > 1]
    if not steps:
        report.facts.append(("time", "a single frame"))
        return
    every = np.concatenate(steps)
    median = float(np.median(every))
    num_still = int((every <= 0).sum())
    if num_still:
        worst = next(
            (i, place)
            for i, each in enumerate(steps)
            for place in np.flatnonzero(each <= 0)[:1].tolist()
        )
        text = (
            f"{report.found.name}: {num_still} stamps do not advance, the first is that of "
            f"frame {worst[1] + 1} ({stamps[worst[0]][worst[1] + 1] / 1e9:.6f} s)"
        )
        report.add_error(DataError(text), is_fatal=False)
    gaps = [
        (float(each[place]), float(stamps[i][place]))
        for i, each in enumerate(steps)
        for place in np.flatnonzero(each > GAP_FACTOR * median)
    ]
    text = f"{sum(float(each.sum()) for each in steps) / 1e9:.1f} s"
    if median > 0:
        text += f", {1e9 / median:.1f} frames per second"
    if gaps:
        longest = max(gaps)
        text += (
            f", {len(gaps)} gaps, the longest of {longest[0] / 1e9:.2f} s after "
            f"{longest[1] / 1e9:.3f} s"
        )
    else:
        text += ", no gaps"
    report.facts.append(("time", text))


def _load(found: Found, report: Report) -> list[Sequence]:
    if found.load is None:
        return []
    try:
        return found.load()
    except CoopNetError as error:
        report.add_error(error)
        return []


def _check_each(images: tuple[Path, ...], report: Report, progress: Progress) -> dict[Path, Size]:
    sizes = {}
    for number, path in enumerate(images):
        progress(number, len(images))
        try:
            sizes[path] = check_file(path)
        except DataError as error:
            report.add_error(error)
    progress(len(images), len(images))
    return sizes


def _report_holes(images: tuple[Path, ...], report: Report) -> None:
    """Name the frames that are missing between the first and the last of a folder."""
    folders: dict[Path, dict[int, Path]] = {}
    for path in images:
        if path.stem.isdigit():
            folders.setdefault(path.parent, {})[int(path.stem)] = path
    for place, (folder, numbered) in enumerate(folders.items()):
        example = numbered[min(numbered)]
        for number in range(min(numbered), max(numbered) + 1):
            if number not in numbered:
                name = f"{number:0{len(example.stem)}d}{example.suffix}"
                # The second folder is the right camera's, which may have holes.
                report.add_error(DataError(f"image {folder / name} is missing"), place == 0)


def _report_sizes(sizes: dict[Path, Size], report: Report) -> None:
    """Sizes must agree within a folder: KITTI's differ from scene to scene, not within one."""
    if not sizes:
        return
    listed = ", ".join(f"{w}x{h}" for (w, h), _ in Counter(sizes.values()).most_common(4))
    report.facts.append(("size", listed))
    if report.found.kind == "kitti_flow":
        return
    folders: dict[Path, dict[Path, Size]] = {}
    for path, size in sizes.items():
        folders.setdefault(path.parent, {})[path] = size
    for inside in folders.values():
        usual = Counter(inside.values()).most_common(1)[0][0]
        for path, size in inside.items():
            if size != usual:
                text = (
                    f"image {path} is {size[0]}x{size[1]}, but most in its folder are "
                    f"{usual[0]}x{usual[1]}"
                )
                report.add_error(DataError(text))


def _report_rig(sequences: list[Sequence], report: Report) -> None:
    rigs = [s for s in sequences if s.right_paths is not None]
    if rigs:
        count = sum(path is not None for s in rigs for path in s.right_paths or ())
        baselines = sorted({round(s.baseline_m or 0.0, 3) for s in rigs})
        report.facts.append(
            (
                "right camera",
                f"{count} of {report.num_frames} frames, baseline "
                f"{' or '.join(str(b) for b in baselines[:3])} m",
            )
        )
    with_poses = [s.poses for s in sequences if s.poses is not None]
    if with_poses:
        length_m = sum(
            float(np.linalg.norm(np.diff(poses[:, :3, 3], axis=0), axis=1).sum())
            for poses in with_poses
        )
        report.facts.append(
            ("poses", f"{sum(map(len, with_poses))} frames, {length_m:.1f} m of path")
        )
    depths = [
        (path, s.depth_units_per_m) for s in sequences for path in s.depth_paths or () if path
    ]
    if depths:
        shares, medians = [], []
        for path, units in depths[:: max(1, len(depths) // 10)]:
            try:
                depth_m = read_depth(path, units)
            except DataError as error:
                report.add_error(error, is_fatal=False)
                continue
            shares.append(float((depth_m > 0).mean()))
            medians.append(float(np.median(depth_m[depth_m > 0])) if shares[-1] else np.nan)
        if shares:
            report.facts.append(
                (
                    "depth",
                    f"{len(depths)} frames; of {len(shares)} sampled {np.mean(shares):.0%} of the "
                    f"pixels measured, median {np.nanmedian(medians):.2f} m",
                )
            )


def _check_flow(folder: Path, report: Report) -> None:
    for path in sorted(folder.glob("*.flo")):
        try:
            flow = middlebury.read_flow(path)
        except DataError as error:
            report.add_error(error)
            continue
        known = np.isfinite(flow).all(axis=2)
        length = np.linalg.norm(flow[known], axis=1)
        report.facts.append(
            ("flow", f"{path.name}: {known.mean():.0%} known, median {np.median(length):.2f} px")
        )


def _sampled_pairs(sequences: list[Sequence], images: tuple[Path, ...]) -> list[tuple[Path, Path]]:
    """Neighbours, evenly spread over all recordings (over all files where none could be read)."""
    neighbours = [
        (sequence.paths[place], sequence.paths[place + 1])
        for sequence in sequences
        for place in range(len(sequence) - 1)
    ] or [
        (images[place], images[place + 1])
        for place in range(len(images) - 1)
        if images[place].parent == images[place + 1].parent
    ]
    return [neighbours[place] for place in sample_places(len(neighbours), NUM_SAMPLED_PAIRS)]


def sample_places(count: int, wanted: int) -> list[int]:
    """Return at most ``wanted`` places of ``count``, evenly spread, the first and last included."""
    return sorted({round(place) for place in np.linspace(0, count - 1, min(count, wanted))})
