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

CONFIG = MotionMaskConfig()
DRIVE = motion(forward=0.8, yaw=0.01)


def mask_of(pair: Pair, config: MotionMaskConfig = CONFIG) -> npt.NDArray[np.bool_]:
    """Estimate the camera's motion from the pair, then the mask."""
    ego = estimate_egomotion(frame_pair(pair), [np.eye(4)], EgomotionConfig())
    assert ego.T_prev_cur is not None
    return motion_mask(frame_pair(pair), ego.T_prev_cur, config)


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
    flow[80:84, 200:204] = 5
    wrong = replace(frame_pair(pair), flow_cur_prev=flow)
    everything = MotionMaskConfig(
        consistency_px=100, open_px=0, close_px=0, min_area_px=0, min_error_ratio=0
    )
    speck, patch = 2 * 2, 4 * 4
    assert motion_mask(wrong, np.eye(4), everything).sum() == speck + patch
    large = replace(everything, min_area_px=5)
    assert motion_mask(wrong, np.eye(4), large).sum() == patch
    small = replace(everything, min_area_px=0, open_px=3)
    assert motion_mask(wrong, np.eye(4), small).sum() == patch - 4
    cleaned = replace(CONFIG, consistency_px=100, min_error_ratio=0)
    assert motion_mask(wrong, np.eye(4), cleaned).sum() == 0


def test_the_threshold_grows_with_flow() -> None:
    slow = render_pair(motion(yaw=0.002), mover_step=None)
    fast = render_pair(motion(yaw=0.12), mover_step=None)
    counts = []
    for pair in (slow, fast):
        off = replace(frame_pair(pair), flow_cur_prev=pair.flow_cur_prev + np.float32(1.5))
        config = replace(CONFIG, consistency_px=100, min_error_ratio=0.0)
        counts.append(motion_mask(off, pair.T_prev_cur, config).mean())
    assert counts[0] > 0.95
    assert counts[1] < 0.05
