"""Rigid flow and flow consistency against a world with exact answers."""

from __future__ import annotations

import numpy as np
from synthetic_world import MOVER_ID, camera, motion, render_pair

from coopnet_core.geometry.intrinsics import Intrinsics
from coopnet_core.inference.projection import RigidFlow, is_consistent, rigid_flow, sample

STEP = motion(forward=1.0, right=0.1, yaw=0.03, pitch=0.01)


def flow_of(depth: np.ndarray, T: np.ndarray, intrinsics: Intrinsics) -> RigidFlow:
    """Rigid flow of a whole image."""
    height, width = depth.shape
    return rigid_flow(np.arange(width)[None], np.arange(height)[:, None], depth, T, intrinsics)


def consistency_of(flow: np.ndarray, back: np.ndarray) -> np.ndarray:
    """Check all pixels of an image."""
    v, u = (places.ravel() for places in np.indices(flow.shape[:2]))
    return is_consistent(u, v, flow[v, u], back, 0.5, 0.05).reshape(flow.shape[:2])


def test_rigid_flow_is_the_flow_of_a_static_world() -> None:
    pair = render_pair(STEP)
    rigid = flow_of(pair.cur.depth, pair.T_prev_cur, pair.intrinsics)
    v, u = np.indices(pair.cur.depth.shape)
    np.testing.assert_allclose(rigid.u - u, pair.flow_cur_prev[..., 0], atol=2e-3)
    np.testing.assert_allclose(rigid.v - v, pair.flow_cur_prev[..., 1], atol=2e-3)


def test_rigid_flow_of_points_is_that_of_the_image() -> None:
    pair = render_pair(STEP)
    rigid = flow_of(pair.cur.depth, pair.T_prev_cur, pair.intrinsics)
    u, v = np.array([3, 200, 17]), np.array([0, 64, 100])
    points = rigid_flow(u, v, pair.cur.depth[v, u], pair.T_prev_cur, pair.intrinsics)
    for of_points, of_image in zip(points, rigid, strict=True):
        np.testing.assert_array_equal(of_points, of_image[v, u])


def test_no_motion_is_no_flow() -> None:
    pair = render_pair(STEP)
    rigid = flow_of(pair.cur.depth, np.eye(4), pair.intrinsics)
    v, u = np.indices(pair.cur.depth.shape)
    np.testing.assert_allclose(rigid.u - u, 0, atol=1e-4)
    np.testing.assert_allclose(rigid.v - v, 0, atol=1e-4)
    np.testing.assert_allclose(rigid.by_log_depth_u, 0, atol=1e-4)
    np.testing.assert_allclose(rigid.by_log_depth_v, 0, atol=1e-4)
    assert rigid.is_visible.all()


def test_sensitivity_is_the_derivative_by_log_depth() -> None:
    pair = render_pair(STEP)
    rigid = flow_of(pair.cur.depth, STEP, pair.intrinsics)
    factor = np.float32(1.002)
    nearer = flow_of(pair.cur.depth / factor, STEP, pair.intrinsics)
    farther = flow_of(pair.cur.depth * factor, STEP, pair.intrinsics)
    by_u, by_v = (
        (far - near) / (2 * np.log(factor))
        for far, near in zip(farther[:2], nearer[:2], strict=True)
    )
    np.testing.assert_allclose(rigid.by_log_depth_u, by_u, atol=0.05, rtol=0.02)
    np.testing.assert_allclose(rigid.by_log_depth_v, by_v, atol=0.05, rtol=0.02)


def test_invalid_depth_and_points_out_of_view_are_not_visible() -> None:
    camera_small = Intrinsics(8, 4, 8.0, 8.0, 3.5, 1.5)
    depth = np.full((4, 8), 10.0, np.float32)
    depth[0, 0] = np.nan
    # Two units at depth 10 and focal length 8 are 1.6 pixels.
    visible = flow_of(depth, motion(right=2.0), camera_small).is_visible
    assert not visible[0, 0]
    assert not visible[:, 7].any()
    assert visible[1:, :6].all()
    assert not flow_of(depth, motion(forward=-11.0), camera_small).is_visible.any()


def test_consistency_fails_where_something_is_hidden() -> None:
    pair = render_pair(motion(), mover_step=(0.6, 0.0, 0.0))
    consistent = consistency_of(pair.flow_cur_prev, pair.flow_prev_cur)
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
    consistent = consistency_of(flow, -flow)
    assert consistent[:, :54].all()
    assert not consistent[:, 54:].any()


def test_samples_are_bilinear_and_end_with_the_image() -> None:
    image = np.array([[0, 10], [20, 30]], np.float32)
    found = sample(image, np.array([0.5, 1.0, -4.0]), np.array([0.5, 0.25, 1.0]))
    np.testing.assert_allclose(found, [15, 15, 20])
    assert sample(np.stack([image, image], axis=-1), np.zeros(0), np.zeros(0)).shape == (0, 2)
    many = np.zeros(40_000)
    assert sample(image, many, many).shape == (40_000,)
