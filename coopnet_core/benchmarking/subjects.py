"""What is timed: the networks of a bundle, the pipeline around them, and a torch baseline."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from coopnet_core.benchmarking.timing import Parts, Subject
from coopnet_core.data.image_folder import read_sequence
from coopnet_core.data.images import read_image_sized
from coopnet_core.errors import DataError, RuntimeUnavailableError
from coopnet_core.geometry.intrinsics import Intrinsics
from coopnet_core.inference.bundle import Bundle, NetworkName, Precision
from coopnet_core.inference.pipeline import FramePipeline, Tracking
from coopnet_core.inference.preprocess import ImageArray, prepare_image
from coopnet_core.inference.runtime import FloatArray, Runtime
from coopnet_core.inference.signature import inputs_of_pair

MAX_FRAMES = 60
SEED = 0
SYNTHETIC_SHIFT_PX = 4
# The size of KITTI's colour images, which the included bundle is for.
SYNTHETIC_CAMERA = Intrinsics(1242, 375, 720.0, 720.0, 620.5, 187.0)
FRAME_NS = 100_000_000


@dataclass(frozen=True, eq=False)
class Frames:
    """Decoded camera images that the pipeline is timed on.

    Attributes:
        description: Where they come from, for the report.
        images: Two or more, uint8, (H, W) or (H, W, 3) RGB, in time order.
        intrinsics: Their camera.
    """

    description: str
    images: tuple[ImageArray, ...]
    intrinsics: Intrinsics


def read_frames(folder: Path, calibration: Path | None = None) -> Frames:
    """Read the first images of a folder into memory, up to ``MAX_FRAMES``.

    Args:
        folder: Folder of consecutive images.
        calibration: Camera's file; None takes ``calibration.yaml`` in the folder.

    Returns:
        The frames.

    Raises:
        DataError: The folder is missing, has fewer than two images, or one cannot be read.
        CalibrationError: The calibration is missing or does not fit.
    """
    sequence = read_sequence(folder, calibration)
    if len(sequence) < 2:
        raise DataError(
            f"{folder} has {len(sequence)} image, but odometry and flow need two or more "
            "consecutive ones: give another folder"
        )
    camera = sequence.intrinsics
    paths = sequence.paths[:MAX_FRAMES]
    images = tuple(read_image_sized(path, camera.width, camera.height) for path in paths)
    return Frames(f"{folder}, {len(paths)} of {len(sequence)} images", images, camera)


def synthetic_frames(num_frames: int = MAX_FRAMES, seed: int = SEED) -> Frames:
    """Make a smooth random texture that slides sideways, the same for the same seed.

    Args:
        num_frames: How many.
        seed: Of the texture.

    Returns:
        RGB frames of ``SYNTHETIC_CAMERA``.
    """
    camera = SYNTHETIC_CAMERA
    width = camera.width + SYNTHETIC_SHIFT_PX * (num_frames - 1)
    rng = np.random.default_rng(seed)
    texture = np.zeros((camera.height, width, 3), np.float32)
    cells = (6, 24, 96)
    for rows in cells:
        coarse = rng.uniform(0, 255, (rows, 4 * rows, 3)).astype(np.float32)
        texture += cv2.resize(coarse, (width, camera.height), interpolation=cv2.INTER_LINEAR)
    image = (texture / len(cells)).astype(np.uint8)
    starts = [SYNTHETIC_SHIFT_PX * number for number in range(num_frames)]
    images = tuple(np.ascontiguousarray(image[:, x : x + camera.width]) for x in starts)
    return Frames(
        f"synthetic moving texture (seed {seed}); give --frames for times on real images",
        images,
        camera,
    )


class TimedRuntime(Runtime):
    """A ``Runtime`` that adds up the time spent in another one."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.elapsed_ms = 0.0

    @property
    def description(self) -> str:
        """That of the other one."""
        return self._runtime.description

    def run(self, network: NetworkName, *inputs: FloatArray) -> Sequence[FloatArray]:
        """Run one network; see ``Runtime``."""
        start = time.perf_counter()
        results = self._runtime.run(network, *inputs)
        self.elapsed_ms += (time.perf_counter() - start) * 1e3
        return results


class PipelineCall:
    """Feeds the pipeline one frame per call.

    The frames go forth and back without end: starting over would reset the pipeline, and the frame
    after a reset has neither flow nor odometry.

    Args:
        bundle: The model.
        runtime: Runs its networks.
        frames: Two or more.
    """

    def __init__(self, bundle: Bundle, runtime: Runtime, frames: Frames) -> None:
        self._frames = frames
        self._runtime = TimedRuntime(runtime)
        self._pipeline = FramePipeline(bundle, self._runtime)
        self._num_calls = 0
        self._num_tracked = 0

    def __call__(self) -> Parts:
        """Process the next frame.

        Returns:
            Milliseconds per stage, ``total``, and ``networks``: what was spent inside the runtime.
        """
        place = forth_and_back(self._num_calls, len(self._frames.images))
        self._runtime.elapsed_ms = 0.0
        result = self._pipeline.step(
            self._frames.images[place], self._num_calls * FRAME_NS, self._frames.intrinsics
        )
        self._num_calls += 1
        self._num_tracked += result.tracking is Tracking.TRACKING
        return {**result.timings_ms, "networks": self._runtime.elapsed_ms}

    @property
    def tracked_share(self) -> float:
        """Share of the frames behind the first whose motion was found, 0 to 1."""
        return self._num_tracked / max(self._num_calls - 1, 1)


def forth_and_back(number: int, length: int) -> int:
    """Return the place of a call in 0, 1, ..., length - 1, length - 2, ..., 1, 0, 1, ..."""
    place = number % (2 * length - 2)
    return min(place, 2 * length - 2 - place)


ARITHMETIC: dict[Precision, str] = {
    "float16": "float16 arithmetic",
    "int8": "int8 convolutions, float32 between them",
}


def bundle_subjects(
    label: str,
    bundle: Bundle,
    runtime: Runtime,
    frames: Frames,
    precision: Precision = "float32",
) -> list[Subject]:
    """Make the subjects of a bundle: its networks and the pipeline.

    Args:
        label: Begins the subjects' names.
        bundle: The model.
        runtime: Runs its networks; all subjects share it.
        frames: For the pipeline; the networks get the first two.
        precision: What the runtime runs, for the report.

    Returns:
        ``LABEL NETWORK`` for each network, and ``LABEL pipeline``.
    """
    src, tgt = (
        prepare_image(image, bundle.width, bundle.height, bundle.color)[0]
        for image in frames.images[:2]
    )

    def network_call(name: NetworkName) -> Callable[[], Parts]:
        arrays = inputs_of_pair(name, tgt, src, runtime.flow_features)

        def call() -> Parts:
            runtime.run(name, *arrays)
            return {}

        return call

    texts: dict[NetworkName, str] = {
        name: ARITHMETIC.get(precision, network.precision)
        for name, network in bundle.info.networks.items()
    }
    together = " / ".join(dict.fromkeys(texts.values()))
    inner = depth_sizes(bundle)[-1]
    note = "" if inner == (bundle.width, bundle.height) else f"inside at {inner[0]}x{inner[1]}"
    entries: list[tuple[str, str, str, Callable[[], Parts]]] = [
        (name, text, note if name == "depth" else "", network_call(name))
        for name, text in texts.items()
    ]
    entries.append(("pipeline", together, "", PipelineCall(bundle, runtime, frames)))
    return [
        Subject(
            name=f"{label} {name}",
            width=bundle.width,
            height=bundle.height,
            runtime=runtime.description,
            precision=precision,
            call=call,
            note=text,
        )
        for name, precision, text, call in entries
    ]


def depth_sizes(bundle: Bundle) -> list[tuple[int, int]]:
    """Return (width, height) of the input, and that inside the depth network if it is another."""
    sizes = [(bundle.width, bundle.height)]
    info = bundle.info.depth
    if info.network_width is not None and info.network_height is not None:
        sizes.append((info.network_width, info.network_height))
    return list(dict.fromkeys(sizes))


def torch_depth_subject(name: str, width: int, height: int, threads: int) -> Subject:
    """Make the baseline: the depth network on ResNet-18, in eager torch, float32.

    ResNet-18 under a U-shaped decoder is the depth network of Monodepth2 (Godard et al., ICCV
    2019); it is variant ``base`` here. Its weights are random, which the time does not depend on.

    Args:
        name: Name of the subject.
        width: Width of the input, a multiple of 32.
        height: Height of the input, a multiple of 32.
        threads: Threads of torch, for the whole process.

    Returns:
        The subject.

    Raises:
        RuntimeUnavailableError: torch is not installed.
    """
    try:
        import torch

        from coopnet_core.networks import build_networks
    except ImportError as error:
        raise RuntimeUnavailableError(
            f"the baseline torch-monodepth2 needs the package {error.name}, which cannot be "
            "imported: run scripts/setup.sh dev, or pip install torch, or leave --baseline out"
        ) from error
    torch.set_num_threads(threads)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        network = build_networks("base").depth.eval()
        image = torch.rand(1, 3, height, width)

    def call() -> Parts:
        with torch.inference_mode():
            network(image)
        return {}

    runtime = f"torch {torch.__version__}, CPU, eager, {threads} threads"
    return Subject(name, width, height, runtime, "float32", call)
