"""A bundle made ready to run: checked, loaded, warmed up."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from coopnet_core.errors import BundleError, CoopNetError
from coopnet_core.inference.bundle import (
    NETWORK_NAMES,
    Bundle,
    Precision,
    default_bundle_path,
    load_bundle,
)
from coopnet_core.inference.pipeline import FramePipeline, PipelineConfig
from coopnet_core.inference.runtime import Runtime
from coopnet_core.inference.runtime_choice import choose_runtime
from coopnet_core.inference.signature import run_on_pair


@dataclass
class Model:
    """What a configured node runs.

    Attributes:
        path: As it was asked for.
        bundle: The checked bundle.
        runtime: Its networks, loaded.
        device: One line: library, version, device, and why this one.
        pipeline: Takes frames.
        load_s: Seconds that loading and warming up took.
    """

    path: str
    bundle: Bundle
    runtime: Runtime
    device: str
    pipeline: FramePipeline
    load_s: float


def read_bundle(path: str) -> Bundle:
    """Read and check a bundle without loading its networks.

    Args:
        path: Directory of the bundle; empty for the included one.

    Raises:
        BundleError: The bundle is missing, damaged or not readable.
    """
    with _as_bundle_error(path):
        return load_bundle(Path(path) if path else default_bundle_path())


def load_model(
    path: str,
    num_threads: int,
    max_gap_s: float,
    device: str = "cpu",
    precision: Precision = "float32",
) -> Model:
    """Load a bundle and run its networks once, so that the first frame is not the slow one.

    Args:
        path: Directory of the bundle; empty for the included one.
        num_threads: CPU threads of the networks; 0 takes every core.
        max_gap_s: Longest time between two frames that are compared.
        device: One of ``runtime.DEVICES``.
        precision: Which of the bundle's files run.

    Returns:
        The model, ready for its first frame.

    Raises:
        BundleError: The bundle is missing, damaged, not readable, has no such precision, or its
            networks do not run.
        RuntimeUnavailableError: A library that the device needs is not installed.
        EngineError: An engine or the GPU does not work, or disagrees with the CPU.
    """
    start_s = time.monotonic()
    bundle = read_bundle(path)
    with _as_bundle_error(path):
        chosen = choose_runtime(bundle, device, num_threads, precision)
        runtime = chosen.runtime
        image = np.zeros((1, 3, bundle.height, bundle.width), np.float32)
        for network in NETWORK_NAMES:
            run_on_pair(runtime, network, image, image)
    pipeline = FramePipeline(bundle, runtime, PipelineConfig(max_gap_s=max_gap_s))
    load_s = time.monotonic() - start_s
    return Model(path, bundle, runtime, chosen.description, pipeline, load_s)


@contextmanager
def _as_bundle_error(path: str) -> Iterator[None]:
    try:
        yield
    except CoopNetError:
        raise
    # The file system's and the runtime's errors share no base class, and a bundle that a user names
    # while the node runs must never end it.
    except Exception as error:
        raise BundleError(
            f"bundle {path or '(included)'} cannot be used: {type(error).__name__}: {error}"
        ) from error
