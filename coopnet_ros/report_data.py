"""Read a recording of the perception node and measure it: rates, latencies, odometry, mask."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from coopnet_core.data.bag_reader import IMAGE_TYPES, Bag, BagMessage, describe_topics
from coopnet_core.data.ros_images import array_from_image, rgb_from_compressed
from coopnet_core.errors import DataError
from coopnet_core.evaluation.odometry_metrics import (
    OdometryMetrics,
    align,
    odometry_metrics,
    relative_to_first,
    stands_still,
)
from coopnet_core.inference import rigid
from coopnet_core.inference.egomotion import LOST_VARIANCE
from coopnet_core.inference.rendering import depth_range
from coopnet_ros import bag_messages
from coopnet_ros.images import rgb_from_image

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

NODE = "/coopnet"
DEPTH, FLOW, MASK, ODOMETRY = "depth/image", "flow/image", "motion/mask", "odom"
OUTPUTS = (DEPTH, FLOW, MASK, ODOMETRY)
TRUTH_TOPIC = "/ground_truth/odom"

# Flow and mask compare two images, so the first one has none.
_NEEDS_PREVIOUS = (FLOW, MASK)


@dataclass(frozen=True)
class Stream:
    """What came on one topic.

    Attributes:
        topic: Topic name.
        stamps_ns: Header stamps, nanoseconds, in the order of arrival.
        times_ns: When the recorder received each message, nanoseconds.
    """

    topic: str
    stamps_ns: Int64
    times_ns: Int64

    def rate_hz(self) -> float:
        """Mean rate of arrival; NaN with fewer than two messages."""
        if len(self.times_ns) < 2:
            return float("nan")
        return float((len(self.times_ns) - 1) / ((self.times_ns[-1] - self.times_ns[0]) / 1e9))


@dataclass(frozen=True)
class Latency:
    """Time from an input image to the output with its stamp, both as the recorder received them.

    Attributes:
        values_ms: One per output message that has an input, milliseconds.
        seconds: Stamp of each, seconds from the first input's stamp.
        missing: Input images without this output.
    """

    values_ms: Float64
    seconds: Float64
    missing: int

    def percentile(self, percent: float) -> float:
        """Return a percentile in milliseconds; NaN without values."""
        if not len(self.values_ms):
            return float("nan")
        return float(np.percentile(self.values_ms, percent))


@dataclass(frozen=True)
class Trajectory:
    """Poses of the base at header stamps.

    Attributes:
        stamps_ns: (N,) nanoseconds.
        poses: (N, 4, 4) T_odom_base.
        lost: (N,) bool, where the node says that tracking was lost.
    """

    stamps_ns: Int64
    poses: Float64
    lost: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Odometry:
    """The estimated trajectory beside the true one, at common stamps.

    Attributes:
        seconds: (N,) since the first input image's stamp.
        estimate: (N, 4, 4), aligned to the truth.
        truth: (N, 4, 4), in the frame of its first pose.
        metrics: Errors after the alignment, whose name and scale are in it.
        unaligned: The same errors without any alignment.
    """

    seconds: Float64
    estimate: Float64
    truth: Float64
    metrics: OdometryMetrics
    unaligned: OdometryMetrics


@dataclass(frozen=True)
class Run:
    """Everything of a recording but its pictures.

    Attributes:
        path: The recording.
        image: The input images.
        image_size: Their width and height.
        outputs: Streams of the node's outputs by short name (``depth/image``), those that came.
        output_size: Width and height of the depth image; None without one.
        latencies: By short name.
        trajectory: The node's odometry; None without one.
        odometry: Scored against the truth; None where either is missing or too short.
        mask_share: (M, 2) seconds and share of the pixels that the motion mask covers.
        depth_near: Depth that the pictures draw brightest.
        depth_far: Depth that the pictures draw darkest.
        flow_full_px: Flow length that the pictures draw with full saturation.
        facts: What the node says about itself in its diagnostics (bundle, device, metric, ...).
    """

    path: Path
    image: Stream
    image_size: tuple[int, int]
    outputs: dict[str, Stream]
    output_size: tuple[int, int] | None
    latencies: dict[str, Latency]
    trajectory: Trajectory | None
    odometry: Odometry | None
    mask_share: Float64
    depth_near: float
    depth_far: float
    flow_full_px: float
    facts: dict[str, str]

    @property
    def start_stamp_ns(self) -> int:
        """Header stamp of the first input image."""
        return int(self.image.stamps_ns.min())

    @property
    def dropped(self) -> int:
        """Input images for which the node published no depth."""
        return (
            self.latencies[DEPTH].missing if DEPTH in self.latencies else len(self.image.times_ns)
        )


@dataclass(frozen=True)
class Frame:
    """The pictures of one input image.

    Attributes:
        stamp_ns: Header stamp.
        image: (H, W) or (H, W, 3) RGB, uint8.
        depth: (h, w) float32, NaN where invalid; None when there is none.
        flow: (h, w, 2) float32; None when there is none.
        mask: (h, w) bool; None when there is none.
    """

    stamp_ns: int
    image: npt.NDArray[np.uint8]
    depth: npt.NDArray[np.float32] | None
    flow: npt.NDArray[np.float32] | None
    mask: npt.NDArray[np.bool_] | None


def read_run(
    path: Path | str,
    node: str = NODE,
    image_topic: str | None = None,
    truth_topic: str = TRUTH_TOPIC,
) -> Run:
    """Read and measure a recording.

    Args:
        path: Bag with the input images and the outputs of the node, recorded together.
        node: Name of the perception node.
        image_topic: Input images; None takes the only image topic that is not the node's own.
        truth_topic: Odometry to compare with; it may be missing.

    Returns:
        The measurements.

    Raises:
        DataError: The bag is missing or damaged, has no or several input image topics, or none of
            the node's outputs.
        InputError: An image message is damaged or has an encoding that cannot be read.
    """
    collected = _Collected()
    with Bag(path) as bag:
        image_topic = input_topic(bag, node, image_topic)
        names = {f"{node}/{output}": output for output in OUTPUTS}
        present = [topic for topic in names if topic in bag.topics and bag.topics[topic].count]
        if not present:
            raise DataError(
                f"recording {path} has no output of {node} (expected {', '.join(names)}), "
                f"it has: {describe_topics(bag.topics.values())}"
            )
        extra = [t for t in (truth_topic, "/diagnostics") if t in bag.topics]
        for message in bag.messages([image_topic, *present, *extra]):
            content = bag.deserialize(message)
            if message.topic == image_topic:
                collected.add_image(message, content)
            elif message.topic == truth_topic:
                collected.truth.append((bag_messages.stamp_ns(content), *_pose(content)))
            elif message.topic == "/diagnostics":
                collected.add_diagnostics(content)
            else:
                collected.add_output(names[message.topic], message, content)
    return collected.run(Path(path), image_topic, {names[t]: t for t in present})


def read_frames(
    run: Run, node: str = NODE, stamps_ns: frozenset[int] | None = None
) -> Iterator[Frame]:
    """Read the pictures of a recording, one frame at a time.

    Args:
        run: Its measurements.
        node: Name of the perception node.
        stamps_ns: Header stamps to read; None reads all.

    Yields:
        The frames that have every kind of picture which the recording has, in the order of stamps.

    Raises:
        DataError: The bag is damaged.
        InputError: An image message is damaged or has an encoding that cannot be read.
    """
    kinds = [kind for kind in (DEPTH, FLOW, MASK) if kind in run.outputs]
    topics = {f"{node}/{kind}": kind for kind in kinds} | {run.image.topic: "image"}
    waiting: dict[int, dict[str, Any]] = {}
    with Bag(run.path) as bag:
        for message in bag.messages(list(topics)):
            content = bag.deserialize(message)
            stamp_ns = bag_messages.stamp_ns(content)
            if stamps_ns is not None and stamp_ns not in stamps_ns:
                continue
            parts = waiting.setdefault(stamp_ns, {})
            parts[topics[message.topic]] = content
            if len(parts) == len(topics):
                del waiting[stamp_ns]
                yield _frame(stamp_ns, parts)


def frame_stamps(run: Run) -> list[int]:
    """Return the header stamps of the frames that ``read_frames`` has, ascending."""
    common = set(run.image.stamps_ns.tolist())
    for kind in (DEPTH, FLOW, MASK):
        if kind in run.outputs:
            common &= set(run.outputs[kind].stamps_ns.tolist())
    return sorted(common)


def input_topic(bag: Bag, node: str, image_topic: str | None) -> str:
    """Return the topic of the input images.

    Args:
        bag: The recording.
        node: Name of the perception node, whose own images are left out.
        image_topic: The topic if it is known.

    Raises:
        DataError: It is not in the bag; or there is none, or several to choose from.
    """
    candidates = [
        topic
        for topic in bag.topics.values()
        if topic.msgtype in IMAGE_TYPES and topic.count and not topic.name.startswith(f"{node}/")
    ]
    if image_topic is not None:
        candidates = [topic for topic in candidates if topic.name == image_topic]
    if len(candidates) != 1:
        what = "several input image topics" if candidates else "no input images"
        if image_topic is not None:
            what += f" on {image_topic}"
        raise DataError(
            f"recording {bag.path} has {what}: name one with --image-topic; "
            f"it has: {describe_topics(bag.topics.values())}"
        )
    return candidates[0].name


class _Collected:
    """Measurements while the bag is read."""

    def __init__(self) -> None:
        self.arrivals: dict[str, list[tuple[int, int]]] = {"image": []}
        self.image_size = (0, 0)
        self.output_size: tuple[int, int] | None = None
        self.odometry: list[tuple[int, Float64, bool]] = []
        self.truth: list[tuple[int, Float64, bool]] = []
        self.depth_ranges: list[tuple[float, float]] = []
        self.flow_lengths: list[float] = []
        self.mask_shares: list[tuple[int, float]] = []
        self.facts: dict[str, str] = {}

    def add_image(self, message: BagMessage, content: Any) -> None:
        self.arrivals["image"].append((bag_messages.stamp_ns(content), message.stamp_ns))
        if self.image_size == (0, 0):
            height, width = _picture(content).shape[:2]
            self.image_size = (width, height)

    def add_output(self, kind: str, message: BagMessage, content: Any) -> None:
        stamp_ns = bag_messages.stamp_ns(content)
        self.arrivals.setdefault(kind, []).append((stamp_ns, message.stamp_ns))
        if kind == ODOMETRY:
            self.odometry.append((stamp_ns, *_pose(content)))
            return
        pixels = array_from_image(content)
        if kind == DEPTH:
            self.output_size = (pixels.shape[1], pixels.shape[0])
            self.depth_ranges.append(depth_range(pixels[::2, ::2]))
        elif kind == FLOW:
            length = np.linalg.norm(pixels[::4, ::4], axis=-1)
            length = length[np.isfinite(length)]
            if length.size:
                self.flow_lengths.append(float(np.quantile(length, 0.99)))
        elif kind == MASK:
            self.mask_shares.append((stamp_ns, float(np.mean(pixels > 0))))

    def add_diagnostics(self, content: Any) -> None:
        for status in content.status:
            if str(status.name).endswith(": model"):
                self.facts = {str(pair.key): str(pair.value) for pair in status.values}

    def run(self, path: Path, image_topic: str, topics: dict[str, str]) -> Run:
        image = _stream(image_topic, self.arrivals["image"])
        outputs = {kind: _stream(topic, self.arrivals[kind]) for kind, topic in topics.items()}
        start_ns = int(image.stamps_ns.min())
        shares = [((stamp_ns - start_ns) / 1e9, share) for stamp_ns, share in self.mask_shares]
        near, far = (
            (float(v) for v in np.median(self.depth_ranges, axis=0))
            if self.depth_ranges
            else (1.0, 2.0)
        )
        trajectory = _trajectory(self.odometry)
        return Run(
            path=path,
            image=image,
            image_size=self.image_size,
            outputs=outputs,
            output_size=self.output_size,
            latencies={kind: _latency(image, out, kind) for kind, out in outputs.items()},
            trajectory=trajectory,
            odometry=_score(trajectory, _trajectory(self.truth), start_ns),
            mask_share=np.array(shares, np.float64).reshape(-1, 2),
            depth_near=near,
            depth_far=far,
            flow_full_px=max(1.0, float(np.quantile(self.flow_lengths or [1.0], 0.8))),
            facts=self.facts,
        )


def _stream(topic: str, arrivals: list[tuple[int, int]]) -> Stream:
    table = np.array(arrivals, np.int64).reshape(-1, 2)
    return Stream(topic, table[:, 0], table[:, 1])


def _latency(image: Stream, output: Stream, kind: str) -> Latency:
    arrived = dict(zip(image.stamps_ns.tolist(), image.times_ns.tolist(), strict=True))
    origin_ns = min(arrived)
    pairs = [
        (stamp_ns - origin_ns, time_ns - arrived[stamp_ns])
        for stamp_ns, time_ns in zip(
            output.stamps_ns.tolist(), output.times_ns.tolist(), strict=True
        )
        if stamp_ns in arrived
    ]
    table = np.array(pairs, np.float64).reshape(-1, 2)
    expected = set(arrived)
    if kind in _NEEDS_PREVIOUS:
        expected.discard(min(arrived))
    return Latency(
        values_ms=table[:, 1] / 1e6,
        seconds=table[:, 0] / 1e9,
        missing=len(expected - set(output.stamps_ns.tolist())),
    )


def _pose(message: Any) -> tuple[Float64, bool]:
    """Return T_odom_base and whether tracking is lost."""
    pose = message.pose.pose
    q = [float(getattr(pose.orientation, axis)) for axis in "xyzw"]
    T_odom_base = np.eye(4)
    # Where nobody filled the orientation in, the positions still make a path.
    if any(q):
        T_odom_base[:3, :3] = rigid.rotation_from_quaternion(*q)
    T_odom_base[:3, 3] = [pose.position.x, pose.position.y, pose.position.z]
    # ROS has no flag for "lost": the variance says it.
    return T_odom_base, float(message.pose.covariance[0]) >= LOST_VARIANCE


def _trajectory(rows: list[tuple[int, Float64, bool]]) -> Trajectory | None:
    if not rows:
        return None
    rows = sorted(rows, key=lambda row: row[0])
    return Trajectory(
        np.array([row[0] for row in rows], np.int64),
        np.stack([row[1] for row in rows]),
        np.array([row[2] for row in rows], np.bool_),
    )


def _score(estimate: Trajectory | None, truth: Trajectory | None, start_ns: int) -> Odometry | None:
    if estimate is None or truth is None:
        return None
    common, own, true = np.intersect1d(estimate.stamps_ns, truth.stamps_ns, return_indices=True)
    if len(common) < 2:
        return None
    poses = relative_to_first(estimate.poses[own])
    expected = relative_to_first(truth.poses[true])
    if stands_still(poses):
        # Nothing to fit a scale to: the camera has not moved, or the node says so.
        aligned = poses
        metrics = odometry_metrics(poses, expected, "none")
    else:
        aligned, _ = align(poses, expected, "scale")
        metrics = odometry_metrics(poses, expected, "scale")
    return Odometry(
        seconds=(common - start_ns) / 1e9,
        estimate=aligned,
        truth=expected,
        metrics=metrics,
        unaligned=odometry_metrics(poses, expected, "none"),
    )


def _picture(content: Any) -> npt.NDArray[np.uint8]:
    is_compressed = hasattr(content, "format")
    return rgb_from_compressed(content) if is_compressed else rgb_from_image(content)


def _frame(stamp_ns: int, parts: dict[str, Any]) -> Frame:
    def pixels(kind: str) -> npt.NDArray[Any] | None:
        return array_from_image(parts[kind]) if kind in parts else None

    depth, flow, mask = pixels(DEPTH), pixels(FLOW), pixels(MASK)
    return Frame(
        stamp_ns,
        _picture(parts["image"]),
        None if depth is None else depth.astype(np.float32),
        None if flow is None else flow.astype(np.float32),
        None if mask is None else mask > 0,
    )
