"""Rigid flow and flow consistency against a world with exact answers."""

from __future__ import annotations

import numpy as np
from synthetic_world import MOVER_ID, camera, motion, render_pair

from coopnet_core.geometry.intrinsics import Intrinsics
from coopnet_core.inference.projection import is_consistent, rigid_flow

STEP = motion(forward=1.0, right=0.1, yaw=0.03, pitch=0.01)


def test_rigid_flow_is_the_flow_of_a_static_world() -> None:
    pair = render_pair(STEP)
    rigid = rigid_flow(pair.cur.depth, pair.T_prev_cur, pair.intrinsics)
    np.testing.assert_allclose(rigid.flow, pair.flow_cur_prev, atol=2e-3)


def test_no_motion_is_no_flow() -> None:
    pair = render_pair(STEP)
    rigid = rigid_flow(pair.cur.depth, np.eye(4), pair.intrinsics)
    np.testing.assert_allclose(rigid.flow, 0, atol=1e-4)
    np.testing.assert_allclose(rigid.per_log_depth, 0, atol=1e-4)
    assert rigid.is_visible.all()


def test_sensitivity_is_the_derivative_by_log_depth() -> None:
    pair = render_pair(STEP)
    rigid = rigid_flow(pair.cur.depth, STEP, pair.intrinsics)
    factor = np.float32(1.002)
    nearer = rigid_flow(pair.cur.depth / factor, STEP, pair.intrinsics).flow
    farther = rigid_flow(pair.cur.depth * factor, STEP, pair.intrinsics).flow
    difference = (farther - nearer) / (2 * np.log(factor))
    np.testing.assert_allclose(rigid.per_log_depth, difference, atol=0.05, rtol=0.02)


def test_invalid_depth_and_points_out_of_view_are_not_visible() -> None:
    camera_small = Intrinsics(8, 4, 8.0, 8.0, 3.5, 1.5)
    depth = np.full((4, 8), 10.0, np.float32)
    depth[0, 0] = np.nan
    # Two units at depth 10 and focal length 8 are 1.6 pixels.
    visible = rigid_flow(depth, motion(right=2.0), camera_small).is_visible
    assert not visible[0, 0]
    assert not visible[:, 7].any()
    assert visible[1:, :6].all()
    assert not rigid_flow(depth, motion(forward=-11.0), camera_small).is_visible.any()


def test_consistency_fails_where_something_is_hidden() -> None:
    pair = render_pair(motion(), mover_step=(0.6, 0.0, 0.0))
    consistent = is_consistent(pair.flow_cur_prev, pair.flow_prev_cur, 0.5, 0.05)
    static = pair.flow_cur_prev[..., 0] == 0
    # Behind the mover in the previous frame: visible now, hidden then.
    hidden = (pair.prev.object_id == MOVER_ID) & (pair.cur.object_id != MOVER_ID)
    assert hidden.sum() > 100
    assert consistent[hidden].mean() < 0.02
    seen = static & ~hidden
    assert consistent[seen].mean() > 0.99
    # The mover itself is seen in both, up to its border.
    assert consistent[pair.cur.object_id == MOVER_ID].mean() > 0.9


def test_consistency_fails_outside_of_the_image() -> None:
    intrinsics = camera(64, 32)
    flow = np.zeros((intrinsics.height, intrinsics.width, 2), np.float32)
    flow[..., 0] = 10
    consistent = is_consistent(flow, -flow, 0.5, 0.05)
    assert consistent[:, :54].all()
    assert not consistent[:, 54:].any()
