"""Metric scale on the included bag with the included model, against the true poses in the bag."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coopnet_core.data.bag_reader import Bag
from coopnet_core.data.images import read_image
from coopnet_core.geometry.intrinsics import Intrinsics
from coopnet_core.inference import rigid
from coopnet_core.inference.bundle import default_bundle_path, load_bundle
from coopnet_core.inference.metric_scale import (
    MetricScale,
    MetricScaleConfig,
    ScaleState,
    apply_scale,
    distance_of_camera,
)
from coopnet_core.inference.pipeline import FramePipeline, FrameResult
from coopnet_core.inference.runtime_onnxruntime import OnnxRuntime
from coopnet_ros import bag_messages

DEMO_BAG = Path(__file__).resolve().parents[2] / "demo" / "kitti_03"
NUM_FRAMES = 60


def matrix(rotation: Any, translation: Any) -> np.ndarray:
    T = np.eye(4)
    T[:3, :3] = rigid.rotation_from_quaternion(rotation.x, rotation.y, rotation.z, rotation.w)
    T[:3, 3] = translation.x, translation.y, translation.z
    return T


@pytest.fixture(scope="module")
def drive(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[list[FrameResult], np.ndarray, np.ndarray]:
    """Results of the pipeline, true poses of the base, mounting of the camera."""
    bundle = load_bundle(default_bundle_path())
    pipeline = FramePipeline(bundle, OnnxRuntime(bundle, num_threads=1))
    picture = tmp_path_factory.mktemp("frames") / "frame.jpg"
    with Bag(DEMO_BAG) as bag:
        info = bag.deserialize(next(bag.messages(["/camera/camera_info"])))
        mount = bag.deserialize(next(bag.messages(["/tf_static"]))).transforms[0].transform
        images = [bag.deserialize(m) for m in bag.messages(["/camera/image/compressed"])]
        truth = [bag.deserialize(m).pose.pose for m in bag.messages(["/ground_truth/odom"])]
    camera = Intrinsics(info.width, info.height, info.k[0], info.k[4], info.k[2], info.k[5])
    results = []
    for image in images[:NUM_FRAMES]:
        picture.write_bytes(image.data)
        results.append(pipeline.step(read_image(picture), bag_messages.stamp_ns(image), camera))
    poses = np.stack([matrix(pose.orientation, pose.position) for pose in truth[:NUM_FRAMES]])
    return results, poses, matrix(mount.rotation, mount.translation)


def scaled(
    drive: tuple[list[FrameResult], np.ndarray, np.ndarray], config: MetricScaleConfig
) -> tuple[float, list[ScaleState]]:
    """Return the length of the scaled path over the true one, and the scales."""
    results, poses, T_base_cam = drive
    scale = MetricScale(config, False, T_base_cam[:3, :3])
    states, lengths, true_lengths = [], [], []
    for place, result in enumerate(results):
        T_prev_cur = np.linalg.inv(poses[max(place - 1, 0)]) @ poses[place]
        distance_m = distance_of_camera(T_prev_cur, T_base_cam)
        states.append(scale.update(result, distance_m))
        step = apply_scale(result, states[-1], np.eye(4)).T_prev_cur
        if step is not None and states[-1].is_metric:
            lengths.append(np.linalg.norm(step[:3, 3]))
            true_lengths.append(distance_m)
    return float(np.sum(lengths) / np.sum(true_lengths)), states


@pytest.mark.parametrize(
    "config",
    [
        MetricScaleConfig(mode="camera_height", camera_height_m=1.65),
        MetricScaleConfig(mode="odometry"),
    ],
    ids=["camera height", "wheel odometry"],
)
def test_the_path_is_as_long_as_it_was(
    drive: tuple[list[FrameResult], np.ndarray, np.ndarray], config: MetricScaleConfig
) -> None:
    ratio, states = scaled(drive, config)
    assert ratio == pytest.approx(1, abs=0.05)
    assert sum(state.is_metric for state in states) > 0.85 * NUM_FRAMES
    assert max(state.relative_sigma for state in states if state.is_metric) < 0.2
    assert max(state.factor for state in states if state.is_metric) < 1.4
