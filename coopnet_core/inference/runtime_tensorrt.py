"""Networks on an NVIDIA GPU through TensorRT or TensorRT-RTX engines.

The CUDA layer and the engine contexts are tested with stand-ins; see docs/deployment.md for what
was never run on a GPU.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Sequence
from pathlib import Path

from coopnet_core.errors import EngineError
from coopnet_core.inference.bundle import NETWORK_NAMES, Bundle, NetworkName, Precision
from coopnet_core.inference.engines import cache, verify
from coopnet_core.inference.engines.builder import BuildOptions
from coopnet_core.inference.engines.cache import CachedEngine
from coopnet_core.inference.engines.cuda import Cuda
from coopnet_core.inference.engines.execution import EngineNetwork
from coopnet_core.inference.engines.library import EngineLibrary, bundle_signature
from coopnet_core.inference.engines.prepare import find_existing, find_or_build
from coopnet_core.inference.preprocess import Pair
from coopnet_core.inference.runtime import FloatArray, Runtime
from coopnet_core.inference.signature import check_inputs

_log = logging.getLogger(__name__)


class TensorRtRuntime(Runtime):
    """A ``Runtime`` with one engine per network.

    An engine that was not verified yet is compared with its ONNX file on the CPU before it is
    used; one that disagrees is deleted from the cache.

    Args:
        bundle: The checked bundle.
        library: TensorRT or TensorRT-RTX.
        cuda: The GPU. The runtime frees it at its end.
        options: Exactly these engines. None: those that were built last for this bundle, GPU and
            precision, whatever DLA core and workspace they were built with.
        precision: Of the arithmetic, where ``options`` does not say.
        cache_dir: Folder of the engines.
        is_build_allowed: Whether to build a missing engine, which can take minutes. Exact
            ``options`` are always built.
        pairs: Frames to verify on; None: a synthetic texture.

    Raises:
        EngineError: An engine is missing and may not be built, does not build or run, or disagrees
            with its ONNX file.
        BundleError: The bundle has no file of this precision.
    """

    def __init__(
        self,
        bundle: Bundle,
        library: EngineLibrary,
        cuda: Cuda,
        options: BuildOptions | None = None,
        *,
        precision: Precision = "float32",
        cache_dir: Path | None = None,
        is_build_allowed: bool = True,
        pairs: Sequence[Pair] | None = None,
    ) -> None:
        # A node that loads another bundle drops this one, and its GPU memory must go with it.
        weakref.finalize(self, cuda.close)
        self._bundle, self._library, self._cuda = bundle, library, cuda
        self._cache_dir = cache_dir if cache_dir is not None else cache.default_cache_dir()
        self._precision: Precision = options.precision if options is not None else precision
        self.engines: dict[NetworkName, CachedEngine] = {}
        self._networks: dict[NetworkName, EngineNetwork] = {}
        for name in NETWORK_NAMES:
            engine = self._find(name, options, is_build_allowed)
            self._networks[name] = EngineNetwork(
                library,
                engine.path,
                bundle_signature(name, bundle.height, bundle.width),
                cuda,
                dla_core=engine.side.key.dla_core,
            )
            self.engines[name] = self._verified(name, engine, pairs)

    @property
    def description(self) -> str:
        """One line for diagnostics: library, version, device, precision."""
        device = self._cuda.device
        return (
            f"{self._library.label}, {device.name} (compute capability "
            f"{device.compute_capability}), {self._precision}"
        )

    def run(self, network: NetworkName, *inputs: FloatArray) -> Sequence[FloatArray]:
        """Run one network; see ``Runtime``."""
        check_inputs(network, inputs, self._bundle.height, self._bundle.width)
        return self._networks[network].run(*inputs)

    def _find(
        self, network: NetworkName, options: BuildOptions | None, is_build_allowed: bool
    ) -> CachedEngine:
        wanted = options or BuildOptions(precision=self._precision)
        place = (self._cache_dir, self._bundle, network, self._library, self._cuda.device, wanted)
        if options is None:
            try:
                return find_existing(*place)
            except EngineError:
                if not is_build_allowed:
                    raise
        return find_or_build(*place)[0]

    def _verified(
        self, network: NetworkName, engine: CachedEngine, pairs: Sequence[Pair] | None
    ) -> CachedEngine:
        if engine.side.verification is not None:
            return engine
        try:
            result = verify.verify_network(
                network,
                self._networks[network].run,
                self._bundle,
                pairs if pairs is not None else verify.synthetic_pairs(self._bundle),
                self._precision,
            )
        except EngineError:
            cache.remove(engine)
            raise
        try:
            return cache.record(engine, result)
        except EngineError as error:  # a folder that may only be read
            _log.warning("the %s engine is verified again at the next start: %s", network, error)
            return engine
