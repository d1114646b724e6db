"""Readers of public data sets and bags, on tiny files of their layouts and on real ones."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import cv2
import numpy as np
import pytest
from real_data import real_data
from tiny_bag import (
    CAMERA,
    COMPRESSED,
    HEIGHT,
    IMAGE,
    INFO,
    OLD_STORE,
    PERIOD_NS,
    START_NS,
    STORE,
    WIDTH,
    info,
    jpeg,
    picture,
    raw,
    write_bag,
)

from coopnet_core.cli.export import TERMS
from coopnet_core.cli.main import main
from coopnet_core.config import Source
from coopnet_core.data import (
    bag_frames,
    cityscapes,
    image_folder,
    kitti_flow,
    kitti_raw,
    kitti_splits,
    rgbd,
)
from coopnet_core.data.bag_frames import BagCamera
from coopnet_core.data.dataset import PairDataset
from coopnet_core.data.depth_images import read_depth
from coopnet_core.data.discovery import discover
from coopnet_core.data.image_header import read_size
from coopnet_core.data.images import read_image
from coopnet_core.data.pairs import stereo_pairs
from coopnet_core.errors import CalibrationError, CoopNetError, DataError
from coopnet_core.training.sources import collect_pairs, read_source

BASELINE_M = 0.5
K_ROW = "40 0 23.5 {tx} 0 40 15.5 0 0 0 1 0"


def write(path: Path, image: np.ndarray[Any, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)


# KITTI raw


def raw_drive(root: Path, drive: str, count: int, date: str = "2011_09_26") -> Path:
    folder = root / date / f"{date}_drive_{drive}_sync"
    for camera in (2, 3):
        for number in range(count):
            write(folder / f"image_{camera:02d}" / "data" / f"{number:010d}.png", picture(number))
        stamps = "".join(f"2011-09-26 13:02:{n:02d}.100000000\n" for n in range(count))
        (folder / f"image_{camera:02d}" / "timestamps.txt").write_text(stamps)
    (root / date / "calib_cam_to_cam.txt").write_text(
        f"P_rect_02: {K_ROW.format(tx=4.0)}\nP_rect_03: {K_ROW.format(tx=4.0 - 40 * BASELINE_M)}\n"
    )
    return folder


def test_published_splits_have_their_sizes_and_keep_apart() -> None:
    frames = {name: kitti_splits.read_split(name) for name in kitti_splits.SPLITS}
    assert [len(frames[name]) for name in kitti_splits.SPLITS] == [39810, 4424, 697, 652]
    assert [len(set(frames[name])) for name in kitti_splits.SPLITS] == [39810, 4424, 697, 652]
    train, val = set(frames["eigen_zhou_train"]), set(frames["eigen_zhou_val"])
    test = frames["eigen_test"]
    assert not train & val
    assert set(frames["eigen_test_improved"]) < set(test)
    assert len({frame[:2] for frame in test}) == 28
    assert not {frame[:2] for frame in train | val} & {frame[:2] for frame in test}
    # Both cameras see the same frames, and none of them is the first of its drive.
    assert {f[:2] + f[3:] for f in train | val if f.camera == 2} == {
        f[:2] + f[3:] for f in train | val if f.camera == 3
    }
    assert min(frame.number for frame in train | val) == 1
    with pytest.raises(DataError, match="choose eigen_zhou_train"):
        kitti_splits.read_split("eigen")


def test_a_split_file_makes_targets_and_leaves_their_neighbours_as_sources(tmp_path: Path) -> None:
    raw_drive(tmp_path, "0001", 5)
    lines = ["1 l", "3 l", "4 r"]
    (tmp_path / "mine.txt").write_text(
        "".join(f"2011_09_26/2011_09_26_drive_0001_sync {line}\n" for line in lines)
    )
    source = Source(kind="kitti_raw", path=Path(), split="mine.txt", stereo=True, min_motion=0)
    records = collect_pairs((source,), tmp_path)
    temporal = [r for r in records if r.T_src_tgt is None]
    assert [(r.index_tgt, r.index_src) for r in temporal] == [(1, 0), (3, 2), (4, 3)]
    assert [r.path_tgt.parts[-3] for r in temporal] == ["image_02", "image_02", "image_03"]
    # Partners of the left camera: each pair is read both ways.
    stereo = [r for r in records if r.T_src_tgt is not None]
    assert [r.index_tgt for r in stereo] == [1, 3]
    assert stereo[0].T_src_tgt is not None
    assert stereo[0].T_src_tgt[3] == pytest.approx(-BASELINE_M)

    (tmp_path / "more.txt").write_text("2011_09_26/2011_09_26_drive_0001_sync 9 l\n")
    with pytest.raises(DataError, match="lacks 1 frames of the split, the first is 0000000009"):
        read_source(Source(kind="kitti_raw", path=Path(), split="more.txt"), tmp_path)
    (tmp_path / "odd.txt").write_text("2011_09_26_drive_0001 9\n")
    with pytest.raises(DataError, match=r"odd.txt, line 1"):
        read_source(Source(kind="kitti_raw", path=Path(), split="odd.txt"), tmp_path)
    with pytest.raises(DataError, match="lacks 64 of the 64 image folders"):
        read_source(
            Source(kind="kitti_raw", path=Path("x"), split="eigen_zhou_train"), tmp_path / "x"
        )


def test_improved_ground_truth(tmp_path: Path) -> None:
    depth = np.zeros((4, 6), np.uint16)
    depth[1, 2] = 2560
    place = "val/2011_09_26_drive_0002_sync/proj_depth/groundtruth/image_02/0000000005.png"
    write(tmp_path / place, depth)
    path = kitti_raw.improved_depth_path(tmp_path, "2011_09_26", "0002", 5)
    assert path == tmp_path / place
    read = kitti_raw.read_improved_depth(path)
    assert read[1, 2] == 10.0
    assert np.count_nonzero(read) == 1
    assert kitti_raw.improved_depth_path(tmp_path, "2011_09_26", "0002", 0) is None
    write(tmp_path / "gray8.png", np.zeros((4, 6), np.uint8))
    with pytest.raises(DataError, match="must be a 16-bit PNG"):
        kitti_raw.read_improved_depth(tmp_path / "gray8.png")


# KITTI flow


@pytest.mark.parametrize(
    ("left", "right", "folder", "entries"),
    [
        ("image_2", "image_3", "calib_cam_to_cam", ("P_rect_02", "P_rect_03")),
        ("image_0", "image_1", "calib", ("P0", "P1")),
    ],
)
def test_kitti_flow(
    tmp_path: Path, left: str, right: str, folder: str, entries: tuple[str, str]
) -> None:
    training = tmp_path / "training"
    for scene in ("000000", "000001"):
        for number in (10, 11):
            write(training / left / f"{scene}_{number}.png", picture(number))
            write(training / right / f"{scene}_{number}.png", picture(number))
        (training / folder).mkdir(exist_ok=True)
        (training / folder / f"{scene}.txt").write_text(
            f"{entries[0]}: {K_ROW.format(tx=0)}\n{entries[1]}: {K_ROW.format(tx=-20)}\n"
        )
    # u = 1.5, v = -2 at one pixel; PNG files hold R, G, B and OpenCV writes B, G, R.
    values = np.zeros((HEIGHT, WIDTH, 3), np.uint16)
    values[3, 4] = (1, 2**15 - 128, 2**15 + 96)
    write(training / "flow_noc" / "000000_10.png", values)
    flow = kitti_flow.read_flow(kitti_flow.flow_path(tmp_path, "000000", "noc"))
    assert flow[3, 4].tolist() == [1.5, -2.0]
    assert np.isfinite(flow).all(axis=2).sum() == 1
    with pytest.raises(DataError, match="flow_occ"):
        kitti_flow.flow_path(tmp_path, "000000", "occ")

    assert [(f.kind, f.keys) for f in discover(tmp_path)] == [
        ("kitti_flow", {"sequence": "training"})
    ]
    source = Source(kind="kitti_flow", path=Path(), stereo=True)
    records = collect_pairs((source,), tmp_path)
    assert [(r.index_tgt, r.index_src) for r in records if r.T_src_tgt is None] == [(11, 10)] * 2
    assert sum(r.T_src_tgt is not None for r in records) == 4
    assert records[0].intrinsics == CAMERA
    (training / folder / "000001.txt").unlink()
    with pytest.raises(DataError, match=r"000001\.txt"):
        kitti_flow.read_sequences(tmp_path)


# Cityscapes


@pytest.fixture
def cityscapes_root(tmp_path: Path) -> Path:
    content = {
        "intrinsic": {"fx": 40.0, "fy": 40.0, "u0": 23.5, "v0": 15.5},
        "extrinsic": {"baseline": 0.25},
    }
    # One long recording of which two snippets were published, and one of its own.
    for recording, frames in (("000000", (0, 1, 2, 3, 4, 40, 41, 42)), ("000001", (0, 1, 2))):
        for frame in frames:
            for side in ("left", "right"):
                name = f"ulm_{recording}_{frame:06d}_{side}Img8bit.png"
                write(tmp_path / f"{side}Img8bit_sequence/train/ulm" / name, picture(frame))
    camera = tmp_path / "camera/train/ulm"
    camera.mkdir(parents=True)
    (camera / "ulm_000001_000001_camera.json").write_text(json.dumps(content))
    (camera / "ulm_000000_000002_camera.json").write_text(json.dumps(content))
    content["intrinsic"]["fx"] = 41.0
    (camera / "ulm_000000_000041_camera.json").write_text(json.dumps(content))
    return tmp_path


def test_cityscapes_snippets_are_cropped_and_paired_at_gap_two(cityscapes_root: Path) -> None:
    sequences = read_source(Source(kind="cityscapes", path=Path()), cityscapes_root)
    assert [s.indices for s in sequences] == [(0, 1, 2, 3, 4), (40, 41, 42), (0, 1, 2)]
    assert [s.intrinsics.fx for s in sequences] == [40.0, 41.0, 40.0]
    assert all(s.intrinsics.height == 24 and s.crop_bottom == 8 for s in sequences)
    assert all(s.baseline_m == 0.25 for s in sequences)

    records = collect_pairs((Source(kind="cityscapes", path=Path(), stereo=True),), cityscapes_root)
    temporal = [(r.index_tgt, r.index_src) for r in records if r.T_src_tgt is None]
    assert temporal == [(2, 0), (3, 1), (4, 2), (42, 40), (2, 0)]
    item = PairDataset(records, WIDTH, 24, augment=False).item(0)
    upper = read_image(records[0].path_tgt)[:24]
    assert np.array_equal(np.rint(item["image_tgt"].numpy() * 255).transpose(1, 2, 0), upper)
    assert item["K"][1, 2] == pytest.approx(15.5)

    whole = Source(kind="cityscapes", path=Path(), sequence="train/ulm", crop_bottom=0, gaps=(1,))
    assert read_source(whole, cityscapes_root)[0].intrinsics == CAMERA
    assert len(collect_pairs((whole,), cityscapes_root)) == 4 + 2 + 2


def test_data_check_knows_the_layouts(
    cityscapes_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw_drive(cityscapes_root / "raw", "0001", 5)
    # Cityscapes ends the search at its root.
    for path, kind, said in (
        (cityscapes_root, "cityscapes", "11 frames in 3 sequences"),
        (cityscapes_root / "raw", "kitti_raw", '"sequence": "2011_09_26/0001", "camera": 2, "ster'),
        (cityscapes_root / "raw/2011_09_26", "kitti_raw", "5 of 5 frames, baseline 0.5 m"),
    ):
        sheet = str(cityscapes_root / "sheet.png")
        assert main(["data", "check", str(path), "--out", sheet]) == 0
        text = capsys.readouterr().out
        assert text.startswith(kind)
        assert said in text
    assert "2 calibrations, mostly fx 40.0" in _checked(cityscapes_root, capsys)


def _checked(path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    main(["data", "check", str(path), "--out", str(path / "sheet.png")])
    return capsys.readouterr().out


def test_cityscapes_disparity_is_depth(cityscapes_root: Path) -> None:
    image = cityscapes_root / "leftImg8bit_sequence/train/ulm/ulm_000000_000002_leftImg8bit.png"
    assert cityscapes.disparity_path(image) is None
    values = np.zeros((HEIGHT, WIDTH), np.uint16)
    values[0, :2] = (257, 1)
    write(cityscapes_root / "disparity/train/ulm/ulm_000000_000002_disparity.png", values)
    path = cityscapes.disparity_path(image)
    assert path is not None
    assert cityscapes.read_disparity(path)[0, :2].tolist() == [1.0, 0.0]
    depth = cityscapes.read_sgm_depth(path, 40.0, 0.25)
    assert depth[0, :3].tolist() == [10.0, 0.0, 0.0]


def test_cityscapes_without_its_camera_is_refused(cityscapes_root: Path) -> None:
    (cityscapes_root / "camera/train/ulm/ulm_000001_000001_camera.json").write_text("{}")
    with pytest.raises(CalibrationError, match=r"ulm_000001_000001_camera\.json must have"):
        cityscapes.read_sequences(cityscapes_root)
    (cityscapes_root / "camera/train/ulm/ulm_000001_000001_camera.json").unlink()
    with pytest.raises(CalibrationError, match=r"no camera file .*ulm_000001_"):
        cityscapes.read_sequences(cityscapes_root)
    with pytest.raises(DataError, match="leftImg8bit_sequence/val"):
        cityscapes.read_sequences(cityscapes_root, "val")


# RGB-D


def test_tum_folder(tmp_path: Path) -> None:
    folder = tmp_path / "rgbd_dataset_freiburg2_desk"
    stamps = [10.0, 10.03, 10.06, 10.09]
    for stamp in stamps:
        write(folder / f"rgb/{stamp:.6f}.png", picture(int(stamp * 100), 480, 640))
    depth = np.full((480, 640), 5000, np.uint16)
    write(folder / "depth/a.png", depth)
    (folder / "rgb.txt").write_text(
        "# color images\n" + "".join(f"{s:.6f} rgb/{s:.6f}.png\n" for s in stamps)
    )
    (folder / "depth.txt").write_text("10.035 depth/a.png\n10.5 depth/b.png\n")
    poses = [f"{s + 0.004:.4f} {i} 2 3 0 0 0.7071068 0.7071068" for i, s in enumerate(stamps)]
    (folder / "groundtruth.txt").write_text("# stamp\n" + "\n".join(poses))
    sequence = rgbd.read_sequence(folder)
    assert sequence.depth_paths == (None, folder / "depth/a.png", None, None)
    assert sequence.depth_units_per_m == 5000
    assert sequence.stamps_ns[1] == 10_030_000_000
    assert (sequence.intrinsics.fx, sequence.intrinsics.cx) == (525.0, 319.5)
    assert sequence.poses is not None
    # A quarter turn about z, one metre along x per frame.
    expected = np.array([[0, -1, 0, 2], [1, 0, 0, 2], [0, 0, 1, 3], [0, 0, 0, 1.0]])
    np.testing.assert_allclose(sequence.poses[2], expected, atol=1e-6)
    assert rgbd.read_sequence(folder, frames=range(1, 3)).indices == (1, 2)
    with pytest.raises(DataError, match="frames 0 to 3"):
        rgbd.read_sequence(folder, frames=range(2, 9))
    (folder / "groundtruth.txt").write_text(poses[0])
    assert rgbd.read_sequence(folder).poses is None
    (folder / "rgb.txt").write_text("ten rgb/a.png\n")
    with pytest.raises(DataError, match=r"rgb.txt, line 1"):
        rgbd.read_sequence(folder)


def test_seven_scenes_folder(tmp_path: Path) -> None:
    folder = tmp_path / "seq-01"
    for number in (3, 4):
        write(folder / f"frame-{number:06d}.color.png", picture(number))
        write(folder / f"frame-{number:06d}.depth.png", np.full((4, 4), 65535, np.uint16))
        np.savetxt(folder / f"frame-{number:06d}.pose.txt", np.eye(4) * [1, 1, 1, number])
    with pytest.raises(CalibrationError, match=r"camera-intrinsics.txt .*585 0 320"):
        rgbd.read_sequence(folder)
    np.savetxt(tmp_path / "camera-intrinsics.txt", CAMERA.matrix())
    sequence = rgbd.read_sequence(folder)
    assert sequence.indices == (3, 4)
    assert sequence.intrinsics == CAMERA
    assert sequence.poses is not None
    np.savetxt(tmp_path / "camera-intrinsics.txt", CAMERA.matrix() * 2)
    with pytest.raises(CalibrationError, match=r"camera-intrinsics\.txt: cx=47\.0 does not fit"):
        rgbd.read_sequence(folder)
    with pytest.raises(DataError, match="neither rgb"):
        rgbd.read_sequence(tmp_path)


def test_real_kitchen() -> None:
    sequence = rgbd.read_sequence(real_data("7scenes_kitchen"), frames=range(40))
    assert (sequence.intrinsics.fx, sequence.intrinsics.cx) == (585.0, 320.0)
    assert sequence.depth_paths is not None
    assert sequence.depth_paths[0] is not None
    assert sequence.poses is not None
    depth = read_depth(sequence.depth_paths[0], sequence.depth_units_per_m)
    assert 0.5 < np.median(depth[depth > 0]) < 4
    steps = np.linalg.norm(np.diff(sequence.poses[:, :3, 3], axis=0), axis=1)
    assert 0 < np.median(steps) < 0.05
    np.testing.assert_allclose(np.linalg.det(sequence.poses[:, :3, :3]), 1, atol=1e-3)


# Bags


@pytest.mark.parametrize("kind", ["sqlite3", "mcap", "ros1"])
def test_raw_images_of_every_kind_of_bag(tmp_path: Path, kind: str) -> None:
    store = OLD_STORE if kind == "ros1" else STORE
    stamps = [START_NS + index * PERIOD_NS for index in range(4)]
    messages = [("/cam/image_raw", IMAGE, s, raw(store, s, i)) for i, s in enumerate(stamps)]
    messages.append(("/cam/camera_info", INFO, stamps[0], info(store, stamps[0])))
    bag = write_bag(tmp_path / "run", kind, messages)
    sequence = bag_frames.read_sequence(bag)
    assert sequence.stamps_ns == tuple(stamps)
    assert sequence.intrinsics == CAMERA
    # Stored as JPEG: near, not equal.
    difference = read_image(sequence.paths[2]).astype(int) - picture(2)[:, :, ::-1]
    assert np.abs(difference).mean() < 8
    again = Source(kind="bag", path=Path(bag.name), first=1, last=3)
    assert [r.index_tgt for r in collect_pairs((again,), tmp_path)] == [2, 3]
    assert [path.name for path in tmp_path.iterdir() if path != bag] == [f"{bag.name}.frames"]


def test_compressed_images_keep_their_bytes_and_bad_ones_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    encoded = [cv2.imencode(".jpg", picture(index))[1].tobytes() for index in range(4)]
    stamps = [START_NS + index * PERIOD_NS for index in range(4)]
    contents = [encoded[0], encoded[1][:-9], encoded[2], encoded[3]]
    # The third message carries the stamp of the first: a clock that was set back.
    seen = [stamps[0], stamps[1], stamps[0], stamps[3]]
    topic = "/cam/image/compressed"
    messages = [
        (topic, COMPRESSED, logged, jpeg(stamp, data))
        for logged, stamp, data in zip(stamps, seen, contents, strict=True)
    ]
    bag = write_bag(tmp_path / "run", "mcap", messages)
    with pytest.raises(DataError, match="no camera_info topic"):
        bag_frames.read_sequence(bag)
    image_folder.write_calibration(tmp_path / "cam.yaml", CAMERA, "cam")
    sequence = bag_frames.read_sequence(bag, BagCamera(calibration=tmp_path / "cam.yaml"))
    assert [path.read_bytes() for path in sequence.paths] == [encoded[0], encoded[3]]
    assert sequence.stamps_ns == (stamps[0], stamps[3])
    assert "2 pictures left out" in caplog.text
    assert "truncated JPEG" in caplog.text
    assert "does not advance" in caplog.text

    # Taken from the folder the second time; made anew for another calibration.
    sequence.paths[0].write_bytes(encoded[2])
    same = bag_frames.read_sequence(bag, BagCamera(calibration=tmp_path / "cam.yaml"))
    assert same.paths[0].read_bytes() == encoded[2]
    image_folder.write_calibration(tmp_path / "cam.yaml", replace(CAMERA, fx=50.0), "cam")
    other = bag_frames.read_sequence(bag, BagCamera(calibration=tmp_path / "cam.yaml"))
    assert other.paths[0].read_bytes() == encoded[0]
    assert other.intrinsics.fx == 50.0
    image_folder.write_calibration(tmp_path / "cam.yaml", replace(CAMERA, width=50), "cam")
    with pytest.raises(CalibrationError, match="a picture is 48x32, but its calibration is for 50"):
        bag_frames.read_sequence(bag, BagCamera(calibration=tmp_path / "cam.yaml"))
    assert not list((tmp_path / "run.frames").glob("*.part-*"))


def test_distorted_pictures_are_rectified(tmp_path: Path) -> None:
    lens = info(STORE, START_NS, d=(-0.6, 0.3, 0.0, 0.0, 0.0))
    messages = [
        ("/image", IMAGE, START_NS, raw(STORE, START_NS, 0)),
        ("/camera_info", INFO, START_NS, lens),
    ]
    sequence = bag_frames.read_sequence(write_bag(tmp_path / "run", "mcap", messages))
    size = (WIDTH, HEIGHT)
    K = CAMERA.matrix()
    maps = cv2.initUndistortRectifyMap(K, lens.d, np.eye(3), K, size, cv2.CV_32FC1)
    expected = cv2.remap(picture(0)[:, :, ::-1], *maps, cv2.INTER_LINEAR)
    difference = np.abs(read_image(sequence.paths[0]).astype(int) - expected).mean()
    plain = np.abs(read_image(sequence.paths[0]).astype(int) - picture(0)[:, :, ::-1]).mean()
    assert difference < 0.7 * plain


def test_stereo_bag_has_partners_with_known_pose(tmp_path: Path) -> None:
    messages = []
    for index in range(4):
        stamp = START_NS + index * PERIOD_NS
        messages.append(("/l/image", IMAGE, stamp, raw(STORE, stamp, index)))
        messages.append(("/l/camera_info", INFO, stamp, info(STORE, stamp)))
        if index != 2:  # dropped by the driver
            right = stamp + 10**6
            messages.append(("/r/image", IMAGE, right, raw(STORE, right, 10 + index)))
        tx = -CAMERA.fx * BASELINE_M
        messages.append(("/r/camera_info", INFO, stamp, info(STORE, stamp, tx)))
    write_bag(tmp_path / "run", "mcap", messages)
    with pytest.raises(DataError, match=r"several image topics.*/l/image.*/r/image"):
        read_source(Source(kind="bag", path=Path("run")), tmp_path)
    source = Source(kind="bag", path=Path("run"), topic="/l/image", right_topic="/r/image")
    (sequence,) = read_source(source, tmp_path)
    assert sequence.baseline_m == pytest.approx(BASELINE_M)
    assert [record.index_tgt for record in stereo_pairs(sequence)] == [0, 1, 3]
    swapped = Source(kind="bag", path=Path("run"), topic="/r/image", right_topic="/l/image")
    with pytest.raises(CalibrationError, match="is not the right camera of /r/image"):
        read_source(swapped, tmp_path)
    (tmp_path / "run.frames/l_image__r_image/extracted_from.json").unlink()
    with pytest.raises(DataError, match="does not come from a bag"):
        read_source(source, tmp_path)


def test_the_demo_bag_is_a_source(tmp_path: Path) -> None:
    # A link where frames can be written beside, as the error for a read-only place suggests.
    (tmp_path / "drive").symlink_to(Path(__file__).parents[2] / "demo/kitti_03")
    (sequence,) = read_source(Source(kind="bag", path=Path("drive")), tmp_path)
    assert len(sequence) == 100
    assert np.median(np.diff(sequence.stamps_ns)) == pytest.approx(1e8, rel=0.1)
    assert [p.name for p in tmp_path.iterdir() if p.suffix] == ["drive.frames"]


# What several readers use


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp"])
@pytest.mark.parametrize("channels", [1, 3])
def test_headers_say_what_decoding_says(tmp_path: Path, suffix: str, channels: int) -> None:
    image = picture(0, 37, 53) if channels == 3 else picture(0, 37, 53)[:, :, 0]
    path = tmp_path / f"a{suffix}"
    write(path, image)
    assert read_size(path) == (53, 37)
    path.write_bytes(b"")
    with pytest.raises(DataError, match="is empty"):
        read_size(path)
    path.write_bytes(path.name.encode() * 9)
    with pytest.raises(DataError, match="cannot decode"):
        read_size(path)


def test_a_stereo_image_folder(tmp_path: Path) -> None:
    for index in range(3):
        write(tmp_path / f"{index}.png", picture(index))
    write(tmp_path / "right/1.jpg", picture(9))
    image_folder.write_calibration(tmp_path / "calibration.yaml", CAMERA, "left")
    right = tmp_path / "right/calibration.yaml"
    assert image_folder.read_sequence(tmp_path).right_paths is None
    image_folder.write_calibration(right, CAMERA, "right", BASELINE_M)
    sequence = image_folder.read_sequence(tmp_path)
    assert sequence.baseline_m == pytest.approx(BASELINE_M)
    assert sequence.right_paths == (None, tmp_path / "right/1.jpg", None)
    image_folder.write_calibration(right, CAMERA, "right")
    with pytest.raises(CalibrationError, match="must lie to the right"):
        image_folder.read_sequence(tmp_path)
    image_folder.write_calibration(right, CAMERA.flipped().resized(60, 32), "right", BASELINE_M)
    with pytest.raises(CoopNetError, match="size and camera_matrix of the left"):
        image_folder.read_sequence(tmp_path)


def test_stereo_where_there_is_no_partner_names_the_sequence(tmp_path: Path) -> None:
    write(tmp_path / "a/0.png", picture(0))
    image_folder.write_calibration(tmp_path / "a/calibration.yaml", CAMERA, "left")
    source = Source(kind="image_folder", path=Path("a"), stereo=True)
    with pytest.raises(DataError, match="sequence a has no right camera"):
        collect_pairs((source,), tmp_path)


def test_a_bundle_says_the_terms_of_every_public_data_set() -> None:
    kinds = set(get_args(Source.model_fields["kind"].annotation))
    assert kinds - set(TERMS) == {"image_folder", "video", "bag"}
    assert set(TERMS) < kinds
