"""Loss terms against closed forms, oracles and analytic gradients."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch", reason="training packages are not installed")

from coopnet_core.config import BandSettings  # noqa: E402
from coopnet_core.geometry import se3, warp  # noqa: E402
from coopnet_core.losses import consistency, epipolar, photometric, smoothness  # noqa: E402
from coopnet_core.losses import rebalancing as rb  # noqa: E402


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_photometric_error_of_equal_images_is_zero(generator: torch.Generator) -> None:
    image = torch.rand(2, 3, 16, 20, generator=generator)
    torch.testing.assert_close(
        photometric.photometric_error(image, image), torch.zeros(2, 1, 16, 20), atol=1e-6, rtol=0
    )


def test_photometric_error_of_flat_images_has_a_closed_form() -> None:
    a = torch.full((1, 1, 8, 8), 0.2, dtype=torch.float64)
    b = torch.full_like(a, 0.6)
    luminance = (2 * 0.2 * 0.6 + 1e-4) / (0.2**2 + 0.6**2 + 1e-4)
    expected = 0.85 * (1 - luminance) / 2 + 0.15 * 0.4
    error = photometric.photometric_error(a, b)
    torch.testing.assert_close(error, torch.full_like(error, expected), atol=1e-5, rtol=0)


def test_ssim_of_one_window_by_hand(generator: torch.Generator) -> None:
    a = torch.rand(1, 1, 3, 3, generator=generator, dtype=torch.float64)
    b = torch.rand(1, 1, 3, 3, generator=generator, dtype=torch.float64)
    covariance = ((a - a.mean()) * (b - b.mean())).mean()
    top = (2 * a.mean() * b.mean() + 1e-4) * (2 * covariance + 9e-4)
    bottom = (a.mean() ** 2 + b.mean() ** 2 + 1e-4) * (
        a.var(correction=0) + b.var(correction=0) + 9e-4
    )
    torch.testing.assert_close(photometric.ssim(a, b)[0, 0, 1, 1], top / bottom)


def test_masked_mean_of_an_empty_mask_is_zero_with_zero_gradient() -> None:
    error = torch.rand(1, 1, 4, 4, requires_grad=True)
    loss = photometric.masked_mean(error, torch.zeros(1, 1, 4, 4, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert error.grad is not None
    assert error.grad.abs().sum() == 0


def test_smoothness_of_planes() -> None:
    image = torch.full((1, 1, 8, 10), 0.5)
    ramp = torch.arange(10.0).expand(1, 1, 8, 10) + 1
    # A flat picture gives weight 1: mean |d| over the mean of the ramp, along u only.
    expected = 1 / ramp.mean().item()
    assert smoothness.depth_smoothness_loss(ramp, image).item() == pytest.approx(expected, rel=1e-5)
    flow = torch.cat([ramp, 2 * ramp], dim=1)
    # Affine flow has no second derivative.
    assert smoothness.flow_smoothness_loss(flow, image).item() == pytest.approx(0, abs=1e-7)


def test_smoothness_does_not_depend_on_depth_scale_and_fades_at_edges(
    generator: torch.Generator,
) -> None:
    inverse = torch.rand(1, 1, 8, 10, generator=generator) + 0.5
    flat = torch.full((1, 1, 8, 10), 0.5)
    busy = torch.rand(1, 1, 8, 10, generator=generator)
    base = smoothness.depth_smoothness_loss(inverse, flat)
    torch.testing.assert_close(smoothness.depth_smoothness_loss(inverse * 7, flat), base)
    assert smoothness.depth_smoothness_loss(inverse, busy) < base


def test_flow_smoothness_has_the_expected_value_for_a_parabola() -> None:
    image = torch.full((1, 1, 6, 10), 0.5)
    u = torch.arange(10.0)
    flow = torch.zeros(1, 2, 6, 10)
    flow[:, 0] = u**2  # second difference 2, divided by the width 10; v is 0: mean over both
    expected = (2 / 10) / 2
    assert smoothness.flow_smoothness_loss(flow, image).item() == pytest.approx(expected, rel=1e-5)


def test_epipolar_error_vanishes_for_rigid_flow_and_measures_pixels(
    generator: torch.Generator,
) -> None:
    depth = torch.rand(1, 1, 12, 16, generator=generator, dtype=torch.float64) * 5 + 3
    K = torch.tensor([[[20.0, 0, 7.5], [0, 20, 5.5], [0, 0, 1]]], dtype=torch.float64)
    T = se3.matrix_from_vector(
        torch.tensor([[0.02, -0.01, 0.03, 0.4, 0.1, 0.8]], dtype=torch.float64)
    )
    flow = warp.rigid_flow(depth, T, K)
    assert epipolar.epipolar_error(flow, T, K).max() < 1e-9
    # A pure sideways step has horizontal epipolar lines: the error is the vertical offset.
    T = torch.eye(4, dtype=torch.float64)[None].clone()
    T[0, 0, 3] = -1
    flow = warp.rigid_flow(depth, T, K)
    flow[:, 1] += 2.5
    error = epipolar.epipolar_error(flow, T, K)
    torch.testing.assert_close(error, torch.full_like(error, 2.5))


def test_epipolar_error_does_not_depend_on_the_length_of_the_translation() -> None:
    flow = torch.ones(1, 2, 6, 8, dtype=torch.float64)
    K = torch.tensor([[[20.0, 0, 3.5], [0, 20, 2.5], [0, 0, 1]]], dtype=torch.float64)
    vector = torch.tensor([[0.01, 0.02, 0, 0.3, 0.1, 0.5]], dtype=torch.float64)
    longer = vector.clone()
    longer[:, 3:] *= 40
    torch.testing.assert_close(
        epipolar.epipolar_error(flow, se3.matrix_from_vector(vector), K),
        epipolar.epipolar_error(flow, se3.matrix_from_vector(longer), K),
    )


def test_epipolar_gradient_is_finite_without_motion() -> None:
    vector = torch.zeros(1, 6, requires_grad=True)
    flow = torch.ones(1, 2, 6, 8, requires_grad=True)
    K = torch.tensor([[[20.0, 0, 3.5], [0, 20, 2.5], [0, 0, 1]]])
    epipolar.epipolar_error(flow, se3.matrix_from_vector(vector), K).mean().backward()
    assert vector.grad is not None
    assert flow.grad is not None
    assert torch.isfinite(vector.grad).all()
    assert torch.isfinite(flow.grad).all()


def test_flow_consistency_measures_the_way_back() -> None:
    flow = torch.zeros(1, 2, 8, 12)
    flow[:, 0] = 2
    mask = torch.ones(1, 1, 8, 12, dtype=torch.bool)
    assert consistency.flow_consistency_loss(flow, -flow, mask).item() == pytest.approx(0, abs=1e-6)
    assert consistency.flow_consistency_loss(flow, flow * 0, mask).item() == pytest.approx(2)


# --- The band -------------------------------------------------------------------------------------


@pytest.mark.parametrize("estimate", [rb.histogram_mode, rb.half_sample_mode])
def test_modes_find_the_peak_and_ignore_a_heavy_tail(
    estimate: object, generator: torch.Generator
) -> None:
    peak = torch.randn(40000, generator=generator) * 0.02 + 0.03
    tail = -torch.rand(12000, generator=generator) * 0.5
    mode = estimate(torch.cat([peak, tail]))  # type: ignore[operator]
    assert mode.item() == pytest.approx(0.03, abs=0.008)
    # The mean is far away: what the band must not be centred on.
    assert torch.cat([peak, tail]).mean().item() < -0.03


def test_mode_of_constant_values() -> None:
    values = torch.full((500,), 0.25)
    assert rb.histogram_mode(values).item() == 0.25
    assert rb.half_sample_mode(values).item() == 0.25


def test_shortest_interval_by_hand() -> None:
    values = torch.tensor([0.0, 5.0, 5.1, 5.2, 9.0])
    low, high = rb.shortest_interval(values, 0.6)
    assert (low.item(), high.item()) == pytest.approx((5.0, 5.2))


@pytest.mark.parametrize(("kappa", "share"), [(0.5, 0.383), (1.0, 0.683), (2.0, 0.954)])
def test_band_of_a_gaussian_keeps_the_textbook_share(
    kappa: float, share: float, generator: torch.Generator
) -> None:
    delta = torch.randn(2, 1, 200, 200, generator=generator) * 0.05 + 0.1
    valid = torch.ones_like(delta, dtype=torch.bool)
    band = rb.BandEstimator(BandSettings(kappa=kappa))(delta, valid)
    kept = rb.band_mask(delta, valid, band)
    assert kept.float().mean().item() == pytest.approx(share, abs=0.02)
    assert band.centre.tolist() == pytest.approx([0.1, 0.1], abs=0.01)


def test_band_leaves_out_the_moving_block_and_invalid_pixels(generator: torch.Generator) -> None:
    delta = torch.randn(1, 1, 64, 64, generator=generator) * 0.01
    delta[..., 20:30, 20:30] += 0.5
    valid = torch.ones_like(delta, dtype=torch.bool)
    valid[..., :5, :] = False
    band = rb.BandEstimator(BandSettings(kappa=3))(delta, valid)
    kept = rb.band_mask(delta, valid, band)
    assert not kept[..., 20:30, 20:30].any()
    assert not kept[..., :5, :].any()
    assert kept[..., 40:, :].float().mean() > 0.95


def test_scopes_differ_as_documented(generator: torch.Generator) -> None:
    delta = torch.randn(2, 1, 64, 64, generator=generator) * 0.01
    delta[1] += 1.0
    valid = torch.ones_like(delta, dtype=torch.bool)
    per_image = rb.BandEstimator(BandSettings(scope="image"))(delta, valid)
    assert per_image.centre.tolist() == pytest.approx([0.0, 1.0], abs=0.01)
    batch = rb.BandEstimator(BandSettings(scope="batch"))(delta, valid)
    assert batch.centre[0] == batch.centre[1]
    running = rb.BandEstimator(BandSettings(scope="running", momentum=0.5))
    running(delta[:1], valid[:1])
    second = running(delta[1:], valid[1:])
    assert second.centre.item() == pytest.approx(0.5, abs=0.02)
    resumed = rb.BandEstimator(BandSettings(scope="running", momentum=0.5))
    resumed.load_state_dict(running.state_dict())
    assert resumed.running == running.running


def test_too_few_pixels_keep_everything_valid() -> None:
    delta = torch.randn(1, 1, 8, 8)
    valid = torch.zeros_like(delta, dtype=torch.bool)
    valid[..., 0, :4] = True
    band = rb.BandEstimator(BandSettings())(delta, valid)
    assert torch.equal(rb.band_mask(delta, valid, band), valid)


def test_statistics_by_hand() -> None:
    delta = torch.tensor([[-0.2, -0.1, 0.0, 0.3, 0.5]]).view(1, 1, 1, 5)
    valid = torch.tensor([[True, True, True, True, False]]).view(1, 1, 1, 5)
    kept = torch.tensor([[False, True, False, True, False]]).view(1, 1, 1, 5)
    band = rb.Band(torch.tensor([0.1]), torch.tensor([math.inf]))
    numbers = rb.ratios(rb.delta_statistics(delta, valid, kept, band))
    assert numbers == pytest.approx(
        {
            "p_positive": 1 / 4,
            "epsilon": 0.15,
            "kept": 2 / 4,
            "valid": 0.8,
            "mode": 0.1,
            "half_width": 0.0,
        }
    )
