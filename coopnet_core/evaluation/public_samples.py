"""Images with truth in the public data sets: where they lie, and how one is read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from coopnet_core.data import cityscapes, kitti_flow, kitti_raw
from coopnet_core.data.depth_images import read_depth
from coopnet_core.data.images import read_image
from coopnet_core.data.kitti_splits import RawFrame, by_drive
from coopnet_core.data.sequence import Sequence as ImageSequence
from coopnet_core.data.sequence import camera_of, check_camera_fits
from coopnet_core.errors import DataError
from coopnet_core.evaluation.depth_protocols import DepthExample, DepthSample, cityscapes_crop
from coopnet_core.evaluation.stereo_depth import stereo_depth
from coopnet_core.evaluation.task_protocol_flow import FlowExample, FlowSample


def eigen_samples(
    root: Path, frames: Sequence[RawFrame], is_improved: bool
) -> Iterator[DepthSample]:
    """Find those of some KITTI raw frames that are on disk.

    Args:
        root: Folder with ``kitti_raw`` and, for the improved truth, ``kitti_depth``.
        frames: Wanted frames.
        is_improved: Take the improved truth instead of a projected scan.

    Yields:
        A sample per frame that is there, with its truth.
    """
    raw = root / "kitti_raw"
    for (date, drive, camera), numbers in sorted(by_drive(frames).items()):
        folder = raw / date / f"{date}_drive_{drive}_sync"
        for number in sorted(numbers):
            path = next((folder / f"image_{camera:02d}" / "data").glob(f"{number:010d}.*"), None)
            scan = folder / "velodyne_points" / "data" / f"{number:010d}.bin"
            improved = None
            if is_improved:
                improved = kitti_raw.improved_depth_path(
                    root / "kitti_depth", date, drive, number, camera
                )
            if path is not None and (improved is not None if is_improved else scan.is_file()):
                name = f"{date}_drive_{drive} {number:010d}"
                frame = RawFrame(date, drive, camera, number)
                yield DepthSample(name, partial(_read_eigen, raw, frame, path, improved))


def cityscapes_samples(root: Path) -> list[DepthSample]:
    """Find the test images of Cityscapes that have a disparity file.

    Args:
        root: Folder with ``disparity``, ``camera``, and ``leftImg8bit`` or its ``_sequence``.
    """
    samples = []
    for disparity in sorted((root / "disparity" / "test").glob("*/*_disparity.png")):
        city, stem = disparity.parent.name, disparity.name.removesuffix("_disparity.png")
        below = f"test/{city}/{stem}_leftImg8bit.png"
        places = (root / kind / below for kind in ("leftImg8bit", "leftImg8bit_sequence"))
        image = next((place for place in places if place.is_file()), None)
        if image is not None:
            camera = root / "camera" / "test" / city / f"{stem}_camera.json"
            samples.append(DepthSample(stem, partial(_read_cityscapes, image, disparity, camera)))
    return samples


def rgbd_samples(sequence: ImageSequence) -> list[DepthSample]:
    """Return the frames of a sequence that have a depth image."""
    return [
        DepthSample(f"frame {index}", partial(_read_rgbd, sequence, image, depth))
        for index, image, depth in zip(
            sequence.indices, sequence.paths, sequence.depth_paths or (), strict=True
        )
        if depth is not None
    ]


def stereo_samples(sequence: ImageSequence) -> list[DepthSample]:
    """Return the frames of a sequence that have a right image."""
    return [
        DepthSample(f"frame {index}", partial(_read_stereo, sequence, place))
        for place, (index, right) in enumerate(
            zip(sequence.indices, sequence.right_paths or (), strict=True)
        )
        if right is not None
    ]


def flow_samples(root: Path) -> list[FlowSample]:
    """Return the training pairs of KITTI flow.

    Args:
        root: Folder with ``training``, of 2012 or 2015.

    Raises:
        DataError: It is not KITTI flow.
    """
    samples = []
    for sequence in kitti_flow.read_sequences(root):
        scene = sequence.name.rpartition("/")[2]
        frames = dict(zip(sequence.indices, sequence.paths, strict=True))
        if 10 in frames and 11 in frames:
            samples.append(
                FlowSample(scene, partial(_read_flow, root, scene, frames[10], frames[11]))
            )
    return samples


def _read_eigen(raw: Path, frame: RawFrame, path: Path, improved: Path | None) -> DepthExample:
    date, drive, number = frame.date, frame.drive, frame.number
    calibration = raw / date / "calib_cam_to_cam.txt"
    projection = kitti_raw.read_entry(calibration, f"P_rect_{frame.camera:02d}", (3, 4))
    camera = camera_of(projection, path, calibration)
    if improved is not None:
        truth = kitti_raw.read_improved_depth(improved)
    else:
        truth = kitti_raw.read_lidar_depth(
            raw, date, drive, number, camera.width, camera.height, frame.camera
        )
    return DepthExample(read_image(path), truth, camera)


def _read_cityscapes(image_path: Path, disparity: Path, camera_path: Path) -> DepthExample:
    image = read_image(image_path)
    camera, baseline_m = cityscapes.read_camera(camera_path, image.shape[1], image.shape[0])
    check_camera_fits(camera, camera_path, image_path)
    truth = cityscapes.read_sgm_depth(disparity, camera.fx, baseline_m)
    return cityscapes_crop(DepthExample(image, truth, camera))


def _read_rgbd(sequence: ImageSequence, image_path: Path, depth_path: Path) -> DepthExample:
    truth = read_depth(depth_path, sequence.depth_units_per_m)
    return DepthExample(read_image(image_path), truth, sequence.intrinsics)


def _read_stereo(sequence: ImageSequence, place: int) -> DepthExample:
    truth = stereo_depth(sequence, place)
    return DepthExample(read_image(sequence.paths[place]), truth, sequence.intrinsics)


def _read_flow(root: Path, scene: str, image_tgt: Path, image_src: Path) -> FlowExample:
    occ, noc = (
        kitti_flow.read_flow(kitti_flow.flow_path(root, scene, part)) for part in ("occ", "noc")
    )
    objects_path = root / "training" / "obj_map" / f"{scene}_10.png"
    objects = None
    if objects_path.is_file():
        objects = read_image(objects_path)
        if objects.shape != occ.shape[:2]:
            raise DataError(f"{objects_path} is {objects.shape}, its flow {occ.shape[:2]}")
    images = read_image(image_tgt), read_image(image_src)
    return FlowExample(*images, occ, noc, objects)
