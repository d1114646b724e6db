"""Running a bundle over recorded images and keeping everything that scores need."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from collections.abc import Sequence as AnySequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from coopnet_core.data.images import read_image_sized
from coopnet_core.data.sequence import Sequence
from coopnet_core.evaluation.flow_metrics import resize_flow
from coopnet_core.geometry.canonical import depth_from_canonical
from coopnet_core.geometry.intrinsics import Intrinsics
from coopnet_core.inference.bundle import Bundle, NetworkName
from coopnet_core.inference.pipeline import FramePipeline, FrameResult
from coopnet_core.inference.preprocess import prepare_image
from coopnet_core.inference.runtime import FloatArray, Runtime

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Gray = npt.NDArray[np.uint8]
Progress = Callable[[str], None]


@dataclass(frozen=True)
class FrameOutput:
    """What the networks and the pipeline said about one frame, on the network's grid.

    Attributes:
        gray: (H, W) uint8, the frame.
        intrinsics: Camera of the grid.
        depth: (H, W) float32, every pixel, clamped to the bundle's range of canonical depth.
        flow_cur_prev: (H, W, 2) float32 pixels; None for the first frame.
        flow_prev_cur: (H, W, 2) float32 pixels; None for the first frame.
        T_prev_cur_network: (4, 4) of the pose network alone; None for the first frame.
        result: What the pipeline made of it.
    """

    gray: Gray
    intrinsics: Intrinsics
    depth: Float32
    flow_cur_prev: Float32 | None
    flow_prev_cur: Float32 | None
    T_prev_cur_network: Float64 | None
    result: FrameResult

    @property
    def motion_mask(self) -> Mask | None:
        """The pipeline's mask, (H, W) bool; None for the first frame and where tracking is lost."""
        return self.result.motion_mask


class RecordingRuntime(Runtime):
    """A runtime that passes everything on and keeps the last answer of each network."""

    def __init__(self, runtime: Runtime) -> None:
        """Wrap ``runtime``."""
        self._runtime = runtime
        self.answers: dict[NetworkName, AnySequence[FloatArray]] = {}

    @property
    def description(self) -> str:
        """One line: library, version, device, threads."""
        return self._runtime.description

    def run(self, network: NetworkName, *inputs: FloatArray) -> AnySequence[FloatArray]:
        """Run one network; see ``Runtime``."""
        self.answers[network] = self._runtime.run(network, *inputs)
        return self.answers[network]


def run_sequence(
    bundle: Bundle, runtime: Runtime, sequence: Sequence, progress: Progress | None = None
) -> list[FrameOutput]:
    """Run the frame pipeline over a sequence and keep everything, 3 MB per frame.

    Arguments, results and errors are those of :func:`iterate_sequence`.
    """
    return list(iterate_sequence(bundle, runtime, sequence, progress))


def iterate_sequence(
    bundle: Bundle, runtime: Runtime, sequence: Sequence, progress: Progress | None = None
) -> Iterator[FrameOutput]:
    """Run the frame pipeline over a sequence, frame by frame.

    Args:
        bundle: The bundle.
        runtime: Runs its networks.
        sequence: Images in time order.
        progress: Called with one line now and then.

    Yields:
        One output per frame.

    Raises:
        DataError: An image cannot be read or has another size than its camera.
    """
    recorder = RecordingRuntime(runtime)
    pipeline = FramePipeline(bundle, recorder)
    camera = sequence.intrinsics
    grid = camera.resized(bundle.width, bundle.height)
    for place, (path, stamp_ns) in enumerate(zip(sequence.paths, sequence.stamps_ns, strict=True)):
        if progress is not None and place % 25 == 0:
            progress(f"{sequence.name}: frame {place + 1} of {len(sequence)}")
        image = read_image_sized(path, camera.width, camera.height)
        recorder.answers.clear()
        result = pipeline.step(image, stamp_ns, camera)
        gray = prepare_image(image, bundle.width, bundle.height, bundle.color).gray
        depth = _depth(bundle, recorder.answers["depth"][0], grid)
        flow = recorder.answers.get("flow")
        pose = recorder.answers.get("pose")
        yield FrameOutput(
            gray=gray,
            intrinsics=grid,
            depth=depth,
            flow_cur_prev=None if flow is None else _pixels_last(flow[0]),
            flow_prev_cur=None if flow is None else _pixels_last(flow[1]),
            T_prev_cur_network=None if pose is None else pose[0][0].astype(np.float64),
            result=result,
        )


def run_depth(
    bundle: Bundle, runtime: Runtime, image: npt.NDArray[np.uint8], camera: Intrinsics
) -> Float32:
    """Run the depth network on one image.

    Args:
        bundle: The bundle.
        runtime: Runs its networks.
        image: (H, W) or (H, W, 3) RGB uint8.
        camera: Camera of the image.

    Returns:
        Depth on the network's grid, (H', W') float32, every pixel, clamped to the bundle's range of
        canonical depth.
    """
    network_input = prepare_image(image, bundle.width, bundle.height, bundle.color).network_input
    grid = camera.resized(bundle.width, bundle.height)
    return _depth(bundle, runtime.depth(network_input), grid)


def run_flow(
    bundle: Bundle,
    runtime: Runtime,
    image_tgt: npt.NDArray[np.uint8],
    image_src: npt.NDArray[np.uint8],
) -> Float32:
    """Run the flow network on one pair of any size.

    Args:
        bundle: The bundle.
        runtime: Runs its networks.
        image_tgt: (H, W) or (H, W, 3) RGB uint8.
        image_src: The same size.

    Returns:
        ``flow_tgt_src`` on the network's grid, (H', W', 2) float32 pixels of that grid.
    """
    features_tgt, features_src = (
        runtime.flow_features(prepare_image(image, bundle.width, bundle.height, bundle.color)[0])
        for image in (image_tgt, image_src)
    )
    return _pixels_last(runtime.flow(features_tgt, features_src)[0])


def run_flow_in_strips(
    bundle: Bundle,
    runtime: Runtime,
    image_tgt: npt.NDArray[np.uint8],
    image_src: npt.NDArray[np.uint8],
) -> Float32:
    """Run the flow network on horizontal strips that have the shape of its input.

    A picture that is taller than the network's input is not squeezed that way. Strips overlap by
    half or more; each row is taken from the strip whose middle is nearest.

    Args:
        bundle: The bundle.
        runtime: Runs its networks.
        image_tgt: (H, W) or (H, W, 3) RGB uint8.
        image_src: The same size.

    Returns:
        ``flow_tgt_src`` at the size of the images, (H, W, 2) float32 pixels.
    """
    height, width = image_tgt.shape[:2]
    strip = min(height, round(width * bundle.height / bundle.width))
    num_strips = 1 + math.ceil((height - strip) / (strip / 2))
    tops = np.linspace(0, height - strip, num_strips).round().astype(int)
    nearest = np.abs(np.arange(height)[:, None] - (tops + (strip - 1) / 2)[None]).argmin(axis=1)
    flow = np.zeros((height, width, 2), np.float32)
    for number, top in enumerate(tops):
        rows = slice(top, top + strip)
        part = run_flow(bundle, runtime, image_tgt[rows], image_src[rows])
        full = resize_flow(part, width, strip)
        chosen = np.flatnonzero(nearest == number)
        flow[chosen] = full[chosen - top]
    return flow


def _depth(bundle: Bundle, canonical: FloatArray, grid: Intrinsics) -> Float32:
    limits = bundle.info.depth
    clipped = np.clip(canonical[0, 0], limits.min_canonical, limits.max_canonical)
    depth = depth_from_canonical(clipped, np.float32(grid.fx), grid.width)
    return np.asarray(depth, np.float32)


def _pixels_last(flow: FloatArray) -> Float32:
    return np.ascontiguousarray(flow[0].transpose(1, 2, 0), dtype=np.float32)
