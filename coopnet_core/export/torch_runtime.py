"""The networks of a bundle in PyTorch: the reference of every other runtime, and their baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from coopnet_core.errors import BundleError, RuntimeUnavailableError
from coopnet_core.export.graphs import build_graphs
from coopnet_core.inference.bundle import WEIGHTS_FILE, Bundle, NetworkName
from coopnet_core.inference.runtime import FloatArray, Runtime
from coopnet_core.networks import build_networks


class TorchRuntime(Runtime):
    """A ``Runtime`` of torch modules.

    Args:
        graphs: As ``graphs.build_graphs`` makes them.
        device: Where they run.
    """

    def __init__(self, graphs: Mapping[NetworkName, nn.Module], device: str = "cpu") -> None:
        self._device = torch.device(device)
        self._graphs = {name: graph.to(self._device) for name, graph in graphs.items()}

    @property
    def description(self) -> str:
        """One line: library, version, device, threads."""
        place = f"CPU, eager, {torch.get_num_threads()} threads"
        if self._device.type == "cuda":
            place = f"{torch.cuda.get_device_name(self._device)}, eager"
        return f"torch {torch.__version__}, {place}, float32"

    def run(self, network: NetworkName, *inputs: FloatArray) -> Sequence[FloatArray]:
        """Run one network; see ``Runtime``."""
        with torch.inference_mode():
            arrays = (torch.from_numpy(array).to(self._device) for array in inputs)
            return [result.cpu().numpy() for result in self._graphs[network](*arrays)]


def load_torch_runtime(bundle: Bundle, num_threads: int = 0) -> TorchRuntime:
    """Load the weights of a bundle into torch, on the GPU where there is one.

    Args:
        bundle: The checked bundle.
        num_threads: Threads of torch, for the whole process; 0 leaves torch's choice.

    Raises:
        BundleError: The weights do not fit the networks of the bundle's variant.
        RuntimeUnavailableError: ``safetensors`` is not installed.
    """
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise RuntimeUnavailableError(
            f"device torch needs the safetensors package ({error}): "
            "install it with 'pip install safetensors'"
        ) from error
    if num_threads:
        torch.set_num_threads(num_threads)
    path = bundle.path / WEIGHTS_FILE
    networks = build_networks(bundle.info.variant)
    try:
        networks.as_module().load_state_dict(load_file(path))
    except (OSError, RuntimeError) as error:
        raise BundleError(
            f"{path} does not hold the weights of variant {bundle.info.variant}: {error}; export "
            "the bundle again, or use another device"
        ) from error
    depth = bundle.info.depth
    size = None
    if depth.network_width is not None and depth.network_height is not None:
        size = (depth.network_width, depth.network_height)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return TorchRuntime(build_graphs(networks, size), device)
