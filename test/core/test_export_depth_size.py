"""The depth network may work at a smaller size than the bundle's input."""

from __future__ import annotations

import argparse

import pytest

torch = pytest.importorskip("torch", reason="export packages are not installed")

from coopnet_core.cli.export import image_size  # noqa: E402
from coopnet_core.export.graphs import DepthGraph  # noqa: E402
from coopnet_core.networks import build_networks  # noqa: E402


def test_depth_is_computed_at_the_network_size_and_given_at_the_input_size() -> None:
    torch.manual_seed(0)
    network = build_networks("small").depth.eval()
    seen = []
    network.encoder.stem.register_forward_hook(lambda _, args, __: seen.append(args[0].shape))
    image = torch.rand(1, 3, 128, 416)
    with torch.no_grad():
        (depth,) = DepthGraph(network, (320, 96))(image)
        (plain,) = DepthGraph(network)(image)
    assert [tuple(shape[2:]) for shape in seen] == [(96, 320), (128, 416)]
    assert depth.shape == plain.shape == (1, 1, 128, 416)
    assert torch.isfinite(depth).all()
    # The same scene at another size: the same depth, up to what the size changes.
    torch.testing.assert_close(depth.median(), plain.median(), rtol=0.05, atol=0)


def test_sizes_on_the_command_line() -> None:
    assert image_size("320x96") == (320, 96)
    with pytest.raises(argparse.ArgumentTypeError, match="multiples of 32"):
        image_size("320x100")
