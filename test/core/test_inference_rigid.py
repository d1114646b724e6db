"""Quaternions and rotation matrices."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from coopnet_core.errors import InputError
from coopnet_core.inference import rigid


@pytest.mark.parametrize(
    "axis_angle",
    [
        (0, 0, 0),
        (1e-9, 0, 0),
        (3.1, 0, 0),
        (0, 3.1, 0),
        (0, 0, 3.1),
        (np.pi, 0, 0),
        (0, np.pi, 0),
        (0.3, -0.2, 1.0),
    ],
)
def test_quaternions_survive_the_round_trip(axis_angle: tuple[float, float, float]) -> None:
    R = cv2.Rodrigues(np.array(axis_angle, np.float64))[0]
    q = rigid.quaternion_from_rotation(R)
    assert q[3] >= 0
    assert np.linalg.norm(q) == pytest.approx(1.0)
    np.testing.assert_allclose(rigid.rotation_from_quaternion(*q), R, atol=1e-12)


def test_a_quaternion_is_axis_and_half_angle() -> None:
    quarter_left = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    half = np.sqrt(0.5)
    np.testing.assert_allclose(rigid.quaternion_from_rotation(quarter_left), [0, 0, half, half])
    np.testing.assert_allclose(
        rigid.rotation_from_quaternion(0, 0, -2, -2), quarter_left, atol=1e-15
    )


def test_a_zero_quaternion_is_refused() -> None:
    with pytest.raises(InputError, match="is no rotation"):
        rigid.rotation_from_quaternion(0, 0, 0, 0)


def test_the_adjoint_moves_a_twist_to_the_other_frame() -> None:
    T_a_b = rigid.exp(np.array([1.0, -2.0, 0.5, 0.3, 0.2, -0.4]))
    twist = 1e-6 * np.array([3.0, 1.0, -2.0, 0.5, 2.0, 1.0])
    in_a = rigid.exp(rigid.adjoint(T_a_b) @ twist)
    np.testing.assert_allclose(in_a @ T_a_b, T_a_b @ rigid.exp(twist), atol=1e-10)


def test_the_nearest_rigid_motion_is_no_reflection() -> None:
    T = rigid.exp(np.array([1.0, 2.0, 3.0, 0.3, -0.2, 3.1]))
    noisy = T + 1e-6 * np.arange(16).reshape(4, 4)
    found = rigid.nearest_rigid(noisy)
    np.testing.assert_allclose(found[:3], T[:3], atol=2e-5)
    np.testing.assert_allclose(found[:3, :3] @ found[:3, :3].T, np.eye(3), atol=1e-14)
    mirrored = rigid.nearest_rigid(np.diag([1.0, 1.0, -1.0, 1.0]))
    assert np.linalg.det(mirrored[:3, :3]) == pytest.approx(1)
