"""Frames in, depth, flow, mask and odometry out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from synthetic_world import MOVER_ID, Pair, motion, render_pair
from tiny_bundle import block_flow, textured_image, write_tiny_bundle

from coopnet_core.errors import InputError
from coopnet_core.geometry.intrinsics import Intrinsics
from coopnet_core.inference.bundle import NetworkName, load_bundle
from coopnet_core.inference.egomotion import LOST_VARIANCE
from coopnet_core.inference.metric_scale import MetricScale, MetricScaleConfig
from coopnet_core.inference.pipeline import (
    STAGES,
    FramePipeline,
    FrameResult,
    PipelineConfig,
    Tracking,
)
from coopnet_core.inference.runtime import Runtime
from coopnet_core.inference.runtime_onnxruntime import OnnxRuntime

CAMERA = Intrinsics(128, 64, 64.0, 64.0, 63.5, 31.5)
FRAME_NS = 100_000_000
IMAGE = textured_image(128, 64)


def tiny_pipeline(
    tmp_path: Path, config: PipelineConfig | None = None, **bundle: Any
) -> FramePipeline:
    loaded = load_bundle(write_tiny_bundle(tmp_path / "bundle", **bundle))
    return FramePipeline(loaded, OnnxRuntime(loaded, num_threads=1), config)


@dataclass
class PairRuntime(Runtime):
    """Answers with the truth about a synthetic pair: the first frame is its previous one."""

    pair: Pair
    frame: int = 0

    @property
    def description(self) -> str:
        return "truth"

    def run(self, network: NetworkName, *inputs: Any) -> list[npt.NDArray[np.float32]]:
        if network == "depth":
            return [self._next_depth()]
        if network == "pose":
            return [np.eye(4, dtype=np.float32)[None]]
        if network == "flow_features":
            return []
        flows = (self.pair.flow_cur_prev, self.pair.flow_prev_cur)
        return [flow.transpose(2, 0, 1)[None] for flow in flows]

    def _next_depth(self) -> npt.NDArray[np.float32]:
        view = self.pair.prev if self.frame == 0 else self.pair.cur
        self.frame += 1
        camera = self.pair.intrinsics
        return view.depth[None, None] * np.float32(camera.width / camera.fx)


def run_pair(pair: Pair, tmp_path: Path) -> list[FrameResult]:
    bundle = load_bundle(write_tiny_bundle(tmp_path / "b", width=416, height=128))
    pipeline = FramePipeline(bundle, PairRuntime(pair))
    return [
        pipeline.step(view.image, number * FRAME_NS, pair.intrinsics)
        for number, view in enumerate((pair.prev, pair.cur))
    ]


def test_the_first_frame_has_depth_and_the_origin(tmp_path: Path) -> None:
    result = tiny_pipeline(tmp_path, depth=10.0).step(IMAGE, 5, CAMERA)
    assert result.stamp_ns == 5
    assert result.tracking is Tracking.INITIALISING
    assert result.reset_reason is None
    assert result.intrinsics == CAMERA.resized(64, 32)
    np.testing.assert_array_equal(result.T_odom_cam, np.eye(4))
    assert (result.flow, result.motion_mask, result.T_prev_cur, result.egomotion) == (None,) * 4
    np.testing.assert_array_equal(np.diag(result.pose_covariance), LOST_VARIANCE)
    # Canonical depth belongs to fx == width; this camera has fx == width / 2.
    assert result.depth.shape == (32, 64)
    assert result.depth.dtype == np.float32
    np.testing.assert_allclose(result.depth, 5.0)


def test_depth_outside_of_the_bundles_range_is_invalid(tmp_path: Path) -> None:
    depth = np.full((32, 64), 10.0)
    depth[0, :3] = (1000.0, 0.01, np.nan)
    depth[0, 3] = 200.01  # saturated up to rounding
    result = tiny_pipeline(tmp_path, depth=depth).step(IMAGE, 0, CAMERA)
    assert np.isnan(result.depth[0, :3]).all()
    assert np.isfinite(result.depth[0, 3:]).all()


def test_a_truthful_model_gives_the_true_motion_and_mask(tmp_path: Path) -> None:
    step = motion(forward=0.8, yaw=0.02)
    pair = render_pair(step, mover_step=(0.4, 0.0, 0.0))
    first, second = run_pair(pair, tmp_path)
    assert first.tracking is Tracking.INITIALISING
    assert second.tracking is Tracking.TRACKING
    assert second.T_prev_cur is not None
    np.testing.assert_allclose(second.T_prev_cur, step, atol=0.01)
    np.testing.assert_allclose(second.T_prev_cur[:3, :3], step[:3, :3], atol=5e-4)
    np.testing.assert_allclose(second.T_odom_cam, second.T_prev_cur, atol=1e-14)
    np.testing.assert_allclose(second.depth, pair.cur.depth, rtol=1e-5)
    # Flow is published as motion since the previous frame.
    assert second.flow is not None
    np.testing.assert_allclose(second.flow, -pair.flow_cur_prev)
    assert second.motion_mask is not None
    is_mover = pair.cur.object_id == MOVER_ID
    assert second.motion_mask[is_mover].mean() > 0.7
    assert second.motion_mask[~is_mover].mean() < 0.01
    assert np.all(np.linalg.eigvalsh(second.pose_covariance) > 0)


def test_steps_add_up_in_the_odometry_frame(tmp_path: Path) -> None:
    # A constant flow over a constant depth is a sideways step (see tiny_bundle).
    pipeline = tiny_pipeline(tmp_path, depth=10.0, flow=(2.0, 0.5))
    results = [pipeline.step(IMAGE, n * FRAME_NS, CAMERA) for n in range(4)]
    expected = np.array([2.0, 0.5, 0.0]) * 5.0 / 32.0
    for number, result in enumerate(results):
        np.testing.assert_allclose(result.T_odom_cam[:3, 3], number * expected, atol=1e-5)
        np.testing.assert_allclose(result.T_odom_cam[:3, :3], np.eye(3), atol=1e-6)
        assert result.T_odom_cam.dtype == np.float64


def test_scaled_steps_add_up_from_where_metres_begin(tmp_path: Path) -> None:
    bundle = load_bundle(
        write_tiny_bundle(tmp_path / "b", depth=10.0, flow=(2.0, 0.0), metric=False)
    )
    config = MetricScaleConfig(mode="odometry", window=3, min_observations=3)
    pipeline = FramePipeline(
        bundle, OnnxRuntime(bundle, num_threads=1), scale=MetricScale(config, bundle.metric)
    )
    step = 2.0 * 5.0 / 32.0

    def run(number: int, wheel_distance_m: float) -> FrameResult:
        return pipeline.step(IMAGE, number * FRAME_NS, CAMERA, frozenset(), wheel_distance_m)

    unknown = [run(number, 1.0) for number in range(3)]
    assert not any(result.scale.is_metric for result in unknown if result.scale)
    np.testing.assert_allclose(unknown[-1].T_odom_cam[0, 3], 2 * step, rtol=1e-4)
    first = run(3, 1.0)
    # What was driven before has no metres: the path begins here.
    assert first.reset_reason == "depth and odometry are metres by odometry"
    np.testing.assert_array_equal(first.T_odom_cam, np.eye(4))
    assert first.scale is not None
    assert first.scale.factor == pytest.approx(1 / step, rel=1e-3)
    np.testing.assert_allclose(first.depth, 5.0 / step, rtol=1e-3)
    later = [run(number, 1.3) for number in range(4, 8)]
    # The median follows after two of the new ones; what has been driven stays where it is.
    positions = [result.T_odom_cam[0, 3] for result in later]
    np.testing.assert_allclose(positions, [1.0, 2.3, 3.6, 4.9], rtol=1e-3)
    assert all(result.reset_reason is None for result in later)
    assert later[-1].flow is None
    np.testing.assert_array_equal(pipeline.T_odom_cam, later[-1].T_odom_cam)


def test_an_impossible_wheel_distance_leaves_the_state(tmp_path: Path) -> None:
    pipeline = tiny_pipeline(tmp_path, depth=10.0, flow=(2.0, 0.0))
    pipeline.step(IMAGE, 0, CAMERA)
    with pytest.raises(InputError, match="0 or more"):
        pipeline.step(IMAGE, FRAME_NS, CAMERA, wheel_distance_m=-1.0)
    result = pipeline.step(IMAGE, 2 * FRAME_NS, CAMERA)
    assert result.T_odom_cam[0, 3] == pytest.approx(2.0 * 5.0 / 32.0, rel=1e-3)


def test_standing_still_stays_exactly_where_it_is(tmp_path: Path) -> None:
    pose = motion(forward=0.02)
    pipeline = tiny_pipeline(tmp_path, flow=(0.0, 0.0), T_src_tgt=pose)
    for number in range(20):
        result = pipeline.step(IMAGE, number * FRAME_NS, CAMERA)
    assert result.tracking is Tracking.TRACKING
    assert result.egomotion is not None
    assert result.egomotion.source == "still"
    np.testing.assert_array_equal(result.T_odom_cam, np.eye(4))
    assert result.motion_mask is not None
    assert not result.motion_mask.any()


def test_lost_holds_the_pose_and_finds_back(tmp_path: Path) -> None:
    pipeline = tiny_pipeline(tmp_path, flow=(2.0, 0.0))
    dark = np.zeros_like(IMAGE)
    images = [IMAGE, IMAGE, dark, IMAGE]
    results = [pipeline.step(image, n * FRAME_NS, CAMERA) for n, image in enumerate(images)]
    lost = results[2]
    assert lost.tracking is Tracking.LOST
    assert lost.T_prev_cur is None
    assert lost.motion_mask is None
    assert lost.reset_reason is None
    np.testing.assert_array_equal(lost.T_odom_cam, results[1].T_odom_cam)
    np.testing.assert_array_equal(lost.pose_covariance, np.eye(6) * LOST_VARIANCE)
    assert lost.egomotion is not None
    assert "texture" in lost.egomotion.reason
    assert results[3].tracking is Tracking.TRACKING
    assert results[3].T_odom_cam[0, 3] > lost.T_odom_cam[0, 3]


def test_a_stamp_that_goes_back_starts_a_new_run_at_the_origin(tmp_path: Path) -> None:
    pipeline = tiny_pipeline(tmp_path, flow=(2.0, 0.0))
    for number in (10, 11, 12):
        pipeline.step(IMAGE, number * FRAME_NS, CAMERA)
    result = pipeline.step(IMAGE, 3 * FRAME_NS, CAMERA)
    assert result.tracking is Tracking.INITIALISING
    assert result.reset_reason == "the stamp went back by 0.900 s"
    np.testing.assert_array_equal(result.T_odom_cam, np.eye(4))
    after = pipeline.step(IMAGE, 4 * FRAME_NS, CAMERA)
    assert after.tracking is Tracking.TRACKING
    assert after.reset_reason is None


def test_a_gap_starts_anew_without_a_jump(tmp_path: Path) -> None:
    pipeline = tiny_pipeline(tmp_path, PipelineConfig(max_gap_s=0.5), flow=(2.0, 0.0))
    pipeline.step(IMAGE, 0, CAMERA)
    before = pipeline.step(IMAGE, FRAME_NS, CAMERA)
    result = pipeline.step(IMAGE, 9 * FRAME_NS, CAMERA)
    assert result.tracking is Tracking.INITIALISING
    assert result.reset_reason is not None
    assert "no image for 0.800 s (more than 0.5 s)" in result.reset_reason
    assert result.flow is None
    np.testing.assert_array_equal(result.T_odom_cam, before.T_odom_cam)
    np.testing.assert_array_equal(np.diag(result.pose_covariance), LOST_VARIANCE)


@pytest.mark.parametrize(
    "camera", [Intrinsics(64, 32, 32.0, 32.0, 31.5, 15.5), replace(CAMERA, fx=70.0)]
)
def test_a_change_of_camera_starts_anew_without_a_jump(tmp_path: Path, camera: Intrinsics) -> None:
    pipeline = tiny_pipeline(tmp_path, flow=(2.0, 0.0))
    pipeline.step(IMAGE, 0, CAMERA)
    before = pipeline.step(IMAGE, FRAME_NS, CAMERA)
    image = textured_image(camera.width, camera.height)
    result = pipeline.step(image, 2 * FRAME_NS, camera)
    assert result.tracking is Tracking.INITIALISING
    assert result.reset_reason is not None
    assert "the camera changed" in result.reset_reason
    np.testing.assert_array_equal(result.T_odom_cam, before.T_odom_cam)
    assert pipeline.step(image, 3 * FRAME_NS, camera).tracking is Tracking.TRACKING


def test_reset_goes_back_to_the_origin_and_says_why(tmp_path: Path) -> None:
    pipeline = tiny_pipeline(tmp_path, flow=(2.0, 0.0))
    for number in range(3):
        pipeline.step(IMAGE, number * FRAME_NS, CAMERA)
    pipeline.reset("the user asked")
    result = pipeline.step(IMAGE, 3 * FRAME_NS, CAMERA)
    assert result.reset_reason == "the user asked"
    np.testing.assert_array_equal(result.T_odom_cam, np.eye(4))


def test_another_pipeline_can_go_on_from_a_pose(tmp_path: Path) -> None:
    bundle = load_bundle(write_tiny_bundle(tmp_path / "b", flow=(2.0, 0.0)))
    pose = motion(forward=3.0, yaw=0.4)
    pipeline = FramePipeline(bundle, OnnxRuntime(bundle, 1), T_odom_cam=pose)
    result = pipeline.step(IMAGE, 0, CAMERA)
    np.testing.assert_allclose(result.T_odom_cam, pose, atol=1e-12)


def test_only_wanted_outputs_are_made(tmp_path: Path) -> None:
    flow = block_flow((2.0, 0.0), (-3.0, 0.0), (20, 10, 14, 12))
    pipeline = tiny_pipeline(tmp_path, flow=flow)
    pipeline.step(IMAGE, 0, CAMERA)
    result = pipeline.step(IMAGE, FRAME_NS, CAMERA, wanted=frozenset({"depth"}))
    assert result.flow is None
    assert result.motion_mask is None
    assert "motion_mask" not in result.timings_ms
    assert result.T_prev_cur is not None
    everything = pipeline.step(IMAGE, 2 * FRAME_NS, CAMERA)
    assert everything.motion_mask is not None
    assert everything.flow is not None
    assert set(everything.timings_ms) == {*STAGES, "total"}
    assert everything.timings_ms["total"] >= everything.timings_ms["egomotion"] > 0


@pytest.mark.parametrize(
    ("image", "wanted", "message"),
    [
        (np.zeros((32, 64, 3), np.uint8), {"depth"}, "64x32 but its camera_info says 128x64"),
        (np.zeros((64, 128), np.uint16), {"depth"}, "must be uint8"),
        (np.zeros((64, 128, 4), np.uint8), {"depth"}, "must be uint8"),
        (np.zeros(7, np.uint8), {"depth"}, "two or three axes"),
        (IMAGE, {"depth", "points"}, "unknown outputs points: choose of depth"),
    ],
)
def test_bad_input_is_refused_and_leaves_the_state(
    tmp_path: Path, image: Any, wanted: set[str], message: str
) -> None:
    pipeline = tiny_pipeline(tmp_path, flow=(2.0, 0.0))
    pipeline.step(IMAGE, 0, CAMERA)
    with pytest.raises(InputError, match=message):
        pipeline.step(image, FRAME_NS, CAMERA, wanted=frozenset(wanted))
    assert pipeline.step(IMAGE, FRAME_NS, CAMERA).tracking is Tracking.TRACKING


def test_equal_input_gives_equal_output(tmp_path: Path) -> None:
    pair = render_pair(motion(forward=0.8, yaw=0.02), mover_step=(0.4, 0.0, 0.0))
    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()
    first, second = (run_pair(pair, tmp_path / name)[1] for name in ("1", "2"))
    for field in ("depth", "flow", "motion_mask", "T_odom_cam", "pose_covariance"):
        np.testing.assert_array_equal(getattr(first, field), getattr(second, field))


def test_results_do_not_change_when_the_next_frame_comes(tmp_path: Path) -> None:
    pipeline = tiny_pipeline(tmp_path, flow=(2.0, 0.0))
    pipeline.step(IMAGE, 0, CAMERA)
    result = pipeline.step(IMAGE, FRAME_NS, CAMERA)
    kept = [result.T_odom_cam.copy(), result.depth.copy()]
    result.T_odom_cam[:] = 5
    after = pipeline.step(IMAGE, 2 * FRAME_NS, CAMERA)
    np.testing.assert_allclose(after.T_odom_cam[0, 3], 2 * kept[0][0, 3], rtol=1e-6)
    np.testing.assert_array_equal(result.depth, kept[1])
