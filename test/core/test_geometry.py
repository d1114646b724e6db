"""Geometry against closed forms, round trips, analytic gradients and kornia."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training packages are not installed")

from coopnet_core.errors import CalibrationError, ShapeError  # noqa: E402
from coopnet_core.geometry import camera, occlusion, sample, se3, warp  # noqa: E402
from coopnet_core.geometry.canonical import depth_from_canonical  # noqa: E402
from coopnet_core.geometry.intrinsics import Intrinsics  # noqa: E402

SIZE = (2, 3, 24, 40)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def intrinsics_matrix(batch: int = 2, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    K = torch.tensor([[30.0, 0, 19.2], [0, 28.0, 11.7], [0, 0, 1]], dtype=dtype)
    return K.expand(batch, 3, 3).clone()


def random_transform(generator: torch.Generator, batch: int = 2) -> torch.Tensor:
    return se3.matrix_from_vector(torch.randn(batch, 6, generator=generator) * 0.3)


def test_rotation_agrees_with_matrix_exponential(generator: torch.Generator) -> None:
    for scale in (1e-9, 1e-4, 0.1, 1.0, 3.0):
        axis_angle = torch.randn(4, 3, generator=generator, dtype=torch.float64) * scale
        expected = torch.linalg.matrix_exp(se3.skew(axis_angle))
        torch.testing.assert_close(
            se3.rotation_from_axis_angle(axis_angle), expected, atol=1e-10, rtol=0
        )


def test_rotation_has_the_right_gradient_at_zero() -> None:
    for scale in (0.0, 1e-6, 0.5):
        axis_angle = torch.full((1, 3), scale, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(se3.rotation_from_axis_angle, axis_angle)


def test_inverse_undoes_a_transform(generator: torch.Generator) -> None:
    T = random_transform(generator)
    torch.testing.assert_close(se3.invert(T) @ T, torch.eye(4).expand(2, 4, 4), atol=1e-6, rtol=0)


def test_project_undoes_unproject(generator: torch.Generator) -> None:
    depth = torch.rand(2, 1, 24, 40, generator=generator) * 9 + 1
    K = intrinsics_matrix()
    pixels, projected_depth = camera.project(camera.unproject(depth, K), K)
    torch.testing.assert_close(
        pixels, camera.pixel_grid(24, 40, depth).expand(2, -1, -1, -1), atol=1e-4, rtol=0
    )
    torch.testing.assert_close(projected_depth, depth)


def test_unproject_and_project_agree_with_kornia(generator: torch.Generator) -> None:
    kornia = pytest.importorskip("kornia", reason="kornia is only an oracle")
    depth = torch.rand(2, 1, 24, 40, generator=generator) * 9 + 1
    K = intrinsics_matrix()
    theirs = kornia.geometry.depth.depth_to_3d_v2(depth[:, 0], K)
    ours = camera.unproject(depth, K).movedim(1, -1)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-5)


def test_depth_warp_agrees_with_kornia(generator: torch.Generator) -> None:
    kornia = pytest.importorskip("kornia", reason="kornia is only an oracle")
    image = torch.rand(*SIZE, generator=generator)
    depth = torch.rand(2, 1, 24, 40, generator=generator) * 3 + 5
    T, K = random_transform(generator) * 0.1 + torch.eye(4) * 0.9, intrinsics_matrix()
    T[:, :3, :3] = torch.eye(3)
    theirs = kornia.geometry.depth.warp_frame_depth(image, depth, T, K)
    ours = warp.warp_by_depth(image, depth, T, K)
    inside = ours.visible_mask.expand_as(image)
    assert inside.float().mean() > 0.5
    torch.testing.assert_close(ours.image[inside], theirs[inside], atol=1e-4, rtol=0)


def test_identity_warps_return_the_image_exactly(generator: torch.Generator) -> None:
    image = torch.rand(*SIZE, generator=generator)
    by_flow = warp.warp_by_flow(image, torch.zeros(2, 2, 24, 40))
    assert by_flow.visible_mask.all()
    torch.testing.assert_close(by_flow.image, image, atol=1e-5, rtol=0)
    depth = torch.full((2, 1, 24, 40), 7.0)
    identity = torch.eye(4).expand(2, 4, 4)
    by_depth = warp.warp_by_depth(image, depth, identity, intrinsics_matrix())
    torch.testing.assert_close(by_depth.image, image, atol=1e-4, rtol=0)


def test_flow_warp_shifts_by_whole_pixels(generator: torch.Generator) -> None:
    image = torch.rand(*SIZE, generator=generator)
    flow = torch.zeros(2, 2, 24, 40)
    flow[:, 0], flow[:, 1] = 3, -2
    result = warp.warp_by_flow(image, flow)
    torch.testing.assert_close(result.image[:, :, 2:, :-3], image[:, :, :-2, 3:], atol=1e-4, rtol=0)
    expected = torch.zeros(24, 40, dtype=torch.bool)
    expected[2:, :-3] = True
    assert torch.equal(result.visible_mask[0, 0], expected)


def test_rigid_flow_of_a_sideways_step_is_the_disparity() -> None:
    depth = torch.rand(2, 1, 24, 40, generator=torch.Generator().manual_seed(3)) * 5 + 2
    T = torch.eye(4).repeat(2, 1, 1)
    T[:, 0, 3] = -0.5  # p_src = p_tgt - (0.5, 0, 0): the source camera stands to the right
    flow = warp.rigid_flow(depth, T, intrinsics_matrix())
    torch.testing.assert_close(flow[:, :1], -30.0 * 0.5 / depth, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(flow[:, 1:], torch.zeros_like(depth), atol=1e-4, rtol=0)


def test_points_behind_the_camera_are_not_visible() -> None:
    T = torch.eye(4)[None].clone()
    T[0, 2, 3] = -10.0
    result = warp.warp_by_depth(
        torch.rand(1, 3, 24, 40), torch.full((1, 1, 24, 40), 5.0), T, intrinsics_matrix(1)
    )
    assert not result.visible_mask.any()


def test_warps_pass_gradcheck() -> None:
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(1, 1, 6, 8, generator=generator, dtype=torch.float64)
    depth = torch.rand(1, 1, 6, 8, generator=generator, dtype=torch.float64) + 4
    vector = torch.tensor([[0.01, -0.02, 0.013, 0.11, 0.07, 0.05]], dtype=torch.float64)
    K = torch.tensor([[[7.0, 0, 3.6], [0, 6.5, 2.4], [0, 0, 1]]], dtype=torch.float64)

    def rebuild(depth: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
        return warp.warp_by_depth(image, depth, se3.matrix_from_vector(vector), K).image

    assert torch.autograd.gradcheck(rebuild, (depth.requires_grad_(), vector.requires_grad_()))


def test_scaled_intrinsics_see_the_same_rays() -> None:
    K = intrinsics_matrix(1)
    half = camera.scale_intrinsics(K, 0.5, 0.5)
    ray_full = camera.unproject(torch.ones(1, 1, 24, 40), K)
    ray_half = camera.unproject(torch.ones(1, 1, 12, 20), half)
    pooled = torch.nn.functional.avg_pool2d(ray_full, 2)
    torch.testing.assert_close(ray_half, pooled, atol=1e-5, rtol=0)
    numpy_half = Intrinsics(40, 24, 30, 28, 19.2, 11.7).resized(20, 12).matrix()
    np.testing.assert_allclose(half[0].numpy(), numpy_half, atol=1e-5)


def test_inverse_intrinsics() -> None:
    K = intrinsics_matrix()
    torch.testing.assert_close(camera.invert_intrinsics(K), torch.linalg.inv(K))


def test_occlusion_behind_a_moving_block() -> None:
    # A block of 8 columns moves right by 4: in the target, what it covers next is about to vanish.
    flow_forward = torch.zeros(1, 2, 16, 32)
    flow_forward[:, 0, :, 8:16] = 4
    flow_backward = torch.zeros(1, 2, 16, 32)
    flow_backward[:, 0, :, 12:20] = -4
    occluded = occlusion.occlusion_mask(flow_forward, flow_backward)
    expected = torch.zeros(16, 32, dtype=torch.bool)
    expected[:, 16:20] = True
    assert torch.equal(occluded[0, 0], expected)


def test_consistent_flow_is_not_occluded() -> None:
    flow = torch.zeros(1, 2, 16, 32)
    flow[:, 0] = 2.5
    assert not occlusion.occlusion_mask(flow, -flow)[..., :-3].any()


def test_resized_flow_scales_its_vectors() -> None:
    flow = torch.zeros(1, 2, 8, 16)
    flow[:, 0], flow[:, 1] = 3, -1
    doubled = sample.resize_flow(flow, 32, 32)
    assert doubled.shape == (1, 2, 32, 32)
    torch.testing.assert_close(doubled[0, :, 10, 10], torch.tensor([6.0, -4.0]))


def test_canonical_depth_is_proportional_to_the_focal_length() -> None:
    assert depth_from_canonical(10.0, 300.0, 600) == pytest.approx(5.0)
    depth = depth_from_canonical(np.full((2, 2), 8.0), 416.0, 416)
    np.testing.assert_allclose(depth, 8.0)


@pytest.mark.parametrize(
    ("fx", "cx", "name"),
    [
        (0.0, 5.0, "fx"),
        (-1.0, 5.0, "fx"),
        (float("nan"), 5.0, "fx"),
        # Finite, but the sum of their squares is not.
        (1e300, 5.0, "fx"),
        (1e-300, 5.0, "fx"),
        (40.0, -1e300, "cx"),
    ],
)
def test_impossible_cameras_are_refused(fx: float, cx: float, name: str) -> None:
    with pytest.raises(CalibrationError, match=name):
        Intrinsics(40, 24, fx, 28, cx, 11)


def test_flipping_and_cropping_twice_comes_back() -> None:
    original = Intrinsics(40, 24, 30, 28, 19.2, 11.7)
    assert original.flipped().flipped() == original
    assert original.cropped(3, 2, 20, 10).cropped(-3, -2, 40, 24) == original


def test_shapes_are_checked_by_name() -> None:
    with pytest.raises(ShapeError, match=r"K must have shape \(2, 3, 3\), got \(1, 3, 3\)"):
        camera.unproject(torch.ones(2, 1, 4, 4), torch.eye(3)[None])
    with pytest.raises(ShapeError, match="depth_tgt"):
        warp.warp_by_depth(
            torch.ones(1, 3, 8, 8), torch.ones(1, 1, 4, 4), torch.eye(4)[None], intrinsics_matrix(1)
        )
    with pytest.raises(ShapeError, match="coords_px"):
        sample.sample(torch.ones(1, 3, 4, 4), torch.ones(1, 4, 4, 2))
