"""The motion mask fires on what moves by itself, and on nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from flow_noise import frame_pair, spoil
from synthetic_world import MOVER_ID, Pair, motion, render_pair

from coopnet_core.inference.egomotion import estimate_egomotion
from coopnet_core.inference.egomotion_config import EgomotionConfig
from coopnet_core.inference.motion_mask import MotionMaskConfig, motion_mask
from coopnet_core.inference.projection import is_consistent, rigid_flow

CONFIG = MotionMaskConfig()
DRIVE = motion(forward=0.8, yaw=0.01)


def mask_of(pair: Pair, config: MotionMaskConfig = CONFIG) -> npt.NDArray[np.bool_]:
    """Estimate the camera's motion from the pair, then the mask."""
    ego = estimate_egomotion(frame_pair(pair), [np.eye(4)], EgomotionConfig())
    assert ego.T_prev_cur is not None
    return motion_mask(
        pair.cur.image,
        pair.prev.image,
        pair.flow_cur_prev,
        rigid_flow(pair.cur.depth, ego.T_prev_cur, pair.intrinsics),
        is_consistent(pair.flow_cur_prev, pair.flow_prev_cur, 0.75, 0.1),
        config,
    )


@pytest.mark.parametrize("step", [(0.5, 0.0, 0.0), (-0.4, 0.0, 0.2), (0.0, 0.0, 1.6)])
def test_a_moving_block_lights_up_and_the_street_stays_dark(
    step: tuple[float, float, float],
) -> None:
    pair = spoil(render_pair(DRIVE, mover_step=step), noise_px=0.15, depth_noise=0.1)
    mask = mask_of(pair)
    is_mover = pair.cur.object_id == MOVER_ID
    assert mask[is_mover].mean() > 0.6
    assert mask[~is_mover].mean() < 0.01


@pytest.mark.parametrize("scale", [0.6, 1.0, 1.7])
def test_a_static_world_stays_dark_with_wrong_depth(scale: float) -> None:
    pair = render_pair(DRIVE, mover_step=(0.0, 0.0, 0.0))
    pair = spoil(pair, noise_px=0.2, depth_noise=0.2, depth_scale=scale, seed=1)
    assert mask_of(pair).mean() < 0.002


def test_a_standing_camera_sees_what_moves() -> None:
    pair = render_pair(np.eye(4), mover_step=(0.3, 0.0, 0.0))
    mask = mask_of(pair)
    is_mover = pair.cur.object_id == MOVER_ID
    assert mask[is_mover].mean() > 0.9
    # The rim may grow by the filter that fills gaps.
    assert mask[~is_mover].mean() < 0.005


def test_occluded_pixels_are_not_marked() -> None:
    pair = render_pair(np.eye(4), mover_step=(0.6, 0.0, 0.0))
    uncovered = (pair.prev.object_id == MOVER_ID) & (pair.cur.object_id != MOVER_ID)
    assert mask_of(pair)[uncovered].mean() < 0.1


def test_wrong_flow_that_the_picture_does_not_support_is_not_motion() -> None:
    pair = render_pair(DRIVE, mover_step=None)
    flow = pair.flow_cur_prev.copy()
    flow[100:125, 150:210] += (6.0, 0.0)
    back = pair.flow_prev_cur.copy()
    back[100:125, 140:230] -= (6.0, 0.0)
    wrong = replace(pair, flow_cur_prev=flow, flow_prev_cur=back)
    assert mask_of(wrong, replace(CONFIG, min_error_ratio=0.0)).sum() > 500
    assert mask_of(wrong).sum() < 50


def test_pixels_without_depth_are_not_marked() -> None:
    pair = render_pair(DRIVE, mover_step=(0.5, 0.0, 0.0))
    depth = pair.cur.depth.copy()
    is_mover = pair.cur.object_id == MOVER_ID
    depth[is_mover] = np.nan
    mask = mask_of(replace(pair, cur=replace(pair.cur, depth=depth)))
    assert mask[is_mover].sum() == 0


def test_specks_are_removed() -> None:
    pair = render_pair(np.eye(4), mover_step=None)
    flow = pair.flow_cur_prev.copy()
    flow[40:42, 100:102] = 5
    flow[80:83, 200:204] = 5
    consistent = np.ones(flow.shape[:2], np.bool_)
    rigid = rigid_flow(pair.cur.depth, np.eye(4), pair.intrinsics)
    images = (pair.cur.image, pair.prev.image)
    everything = MotionMaskConfig(open_px=0, close_px=0, min_area_px=0, min_error_ratio=0)
    assert motion_mask(*images, flow, rigid, consistent, everything).sum() == 4 + 12
    large = replace(everything, min_area_px=5)
    assert motion_mask(*images, flow, rigid, consistent, large).sum() == 12
    assert motion_mask(*images, flow, rigid, consistent, CONFIG).sum() == 0


def test_the_threshold_grows_with_flow() -> None:
    slow = render_pair(motion(yaw=0.002), mover_step=None)
    fast = render_pair(motion(yaw=0.12), mover_step=None)
    counts = []
    for pair in (slow, fast):
        rigid = rigid_flow(pair.cur.depth, pair.T_prev_cur, pair.intrinsics)
        flow = pair.flow_cur_prev + np.float32(1.5)
        consistent = np.ones(flow.shape[:2], np.bool_)
        config = replace(CONFIG, min_error_ratio=0.0)
        images = (pair.cur.image, pair.prev.image)
        counts.append(motion_mask(*images, flow, rigid, consistent, config).mean())
    assert counts[0] > 0.95
    assert counts[1] < 0.05
