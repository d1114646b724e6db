"""The perception node under load: latency, drops and memory, and what the node itself costs.

    python test/ros/load.py --minutes 30 --out OUT

First one image at a time: from topic to topic, and how much of that is not the pipeline. Then
images at ``--times`` the rate that the node can process. OUT gets ``load.json`` and ``load.png``.
The exit status is 0 when the overhead, the latency under overload and the memory are within their
limits.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import matplotlib as mpl
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from process_memory import anonymous_mb, growth_mb, resident_mb
from ros_harness import START_NS, Harness, stamp_of

from coopnet_core.data.bag_reader import Bag
from coopnet_core.data.images import decode_image
from coopnet_core.geometry.intrinsics import Intrinsics
from coopnet_ros.camera_info import camera_info_from_intrinsics
from coopnet_ros.dds import enlarge_shared_memory
from coopnet_ros.image_messages import image_from_array
from coopnet_ros.outputs import TOPICS

ROOT = Path(__file__).resolve().parents[2]
# KITTI's camera.
CAMERA = Intrinsics(1242, 375, 721.5, 721.5, 609.6, 172.9)
# What robots listen to; pictures for people are left out.
LISTENED = [topic for topic in TOPICS if not topic.endswith(("/preview", "/path"))]
# Everything that `processing` names beside these is time of the pipeline.
NODE_STAGES = frozenset({"decode", "publish"})
NUM_ALONE = 80

MAX_OVERHEAD_MS = 10.0
# Of the 99th percentile of latency to the median of processing.
MAX_LATENCY_RATIO = 2.0
MAX_GROWTH_MB = 10.0
MIN_MINUTES_FOR_GROWTH = 3.0


class Clock:
    """When each image was sent, and when each topic answered it."""

    def __init__(self, harness: Harness) -> None:
        self.sent_s: dict[int, float] = {}
        self.answered_s: dict[str, dict[int, float]] = {topic: {} for topic in LISTENED}
        for topic in LISTENED:
            name = harness.resolve("coopnet" + topic.removeprefix("~"))
            harness.node.create_subscription(TOPICS[topic], name, self._note(topic), 50)

    def _note(self, topic: str) -> Any:
        def note(msg: Any) -> None:
            self.answered_s[topic][stamp_of(msg)] = time.monotonic()

        return note

    def latencies_ms(self, topic: str, since_s: float = 0.0) -> np.ndarray:
        """Return the time of each answer since its image was sent."""
        answered_s = dict(self.answered_s[topic])
        return np.array(
            [
                (end_s - self.sent_s[stamp]) * 1e3
                for stamp, end_s in answered_s.items()
                if self.sent_s[stamp] >= since_s
            ]
        )


def pictures(bag: Path) -> list[np.ndarray]:
    """Return the frames of a bag in gray, at the size of ``CAMERA``."""
    with Bag(bag) as reader:
        frames = [
            decode_image(bytes(reader.deserialize(message).data), "frame")
            for message in reader.messages()
            if message.topic.endswith("/image/compressed")
        ]
    size = (CAMERA.width, CAMERA.height)
    frames = [cv2.resize(frame, size, interpolation=cv2.INTER_CUBIC) for frame in frames]
    # There and back, so that the camera never jumps.
    return frames + frames[-2:0:-1]


class Camera:
    """Publishes pictures with stamps that advance in real time."""

    def __init__(self, harness: Harness, clock: Clock, frames: list[np.ndarray]) -> None:
        self._publisher, self._clock = harness.image_publisher, clock
        self._info = camera_info_from_intrinsics(CAMERA, harness.header(START_NS))
        self._harness = harness
        # As colour, what most cameras send.
        self._messages = [
            image_from_array(cv2.cvtColor(frame, cv2.COLOR_GRAY2RGB), "rgb8", harness.header(0))
            if frame.ndim == 2
            else image_from_array(frame, "rgb8", harness.header(0))
            for frame in frames
        ]
        self.num_sent = 0

    def start(self) -> None:
        """Send until the first answer: best effort loses what comes before all is connected."""
        answers = self._clock.answered_s["~/odom"]

        def is_answered() -> bool:
            self._harness.info_publisher.publish(self._info)
            self.send()
            time.sleep(0.5)
            return bool(answers)

        self._harness.until(is_answered, "the first odometry")
        time.sleep(1.0)

    def send(self) -> tuple[int, float]:
        """Send the next picture; return its stamp and how long the call took, in seconds."""
        msg = self._messages[self.num_sent % len(self._messages)]
        self.num_sent += 1
        start_s = time.monotonic()
        stamp_ns = START_NS + int(start_s * 1e9)
        msg.header = self._harness.header(stamp_ns)
        self._clock.sent_s[stamp_ns] = start_s
        self._publisher.publish(msg)
        return stamp_ns, time.monotonic() - start_s


def processing(harness: Harness, since: int) -> Iterator[dict[str, float]]:
    """Yield the numbers of each status `processing` with frames in it."""
    name = f"{harness.namespace}/coopnet: processing".lstrip("/")
    for array in list(harness.received["/diagnostics"])[since:]:
        for status in array.status:
            if status.name == name and status.message == "processing":
                yield {
                    pair.key.removesuffix(" [ms]"): float(pair.value)
                    for pair in status.values
                    if pair.key.endswith(" [ms]")
                }


def pipeline_ms(numbers: dict[str, float]) -> float:
    """Return the pipeline's share of a status `processing`."""
    return sum(
        value
        for stage, value in numbers.items()
        if stage not in NODE_STAGES and not stage.startswith("latency")
    )


def measure_alone(harness: Harness, clock: Clock, camera: Camera) -> dict[str, Any]:
    """Send one image at a time, and say where its time goes."""
    rows: list[dict[str, float]] = []
    for index in range(NUM_ALONE + 10):
        since = len(harness.received["/diagnostics"])
        stamp_ns, publish_s = camera.send()
        topics = [t for t in LISTENED if index > 0 or ("flow" not in t and "motion" not in t)]
        # Where tracking is lost there is no mask.
        topics = [topic for topic in topics if topic != "~/motion/mask"]
        harness.until(
            lambda topics=topics, stamp=stamp_ns: all(
                stamp in clock.answered_s[topic] for topic in topics
            ),
            "every output of an image",
        )
        found: list[dict[str, float]] = []

        def has_come(found: list[dict[str, float]] = found, since: int = since) -> bool:
            found[:] = processing(harness, since)
            return bool(found)

        harness.until(has_come, "the diagnostics of an image")
        numbers = found[0]
        sent_s = clock.sent_s[stamp_ns]
        ends_ms = {
            topic: (clock.answered_s[topic].get(stamp_ns, np.nan) - sent_s) * 1e3
            for topic in LISTENED
        }
        stages = sum(v for k, v in numbers.items() if not k.startswith("latency"))
        rows.append(
            {
                "topic to topic, odometry": ends_ms["~/odom"],
                "topic to topic, last output": float(np.nanmax(list(ends_ms.values()))),
                "pipeline": pipeline_ms(numbers),
                "camera: publish()": publish_s * 1e3,
                "node: decode": numbers["decode"],
                "node: publish": numbers["publish"],
                "node: callback to worker, rest": numbers["latency mean"] - stages,
                "on the way: DDS, taking, receipt": float(np.nanmax(list(ends_ms.values())))
                - publish_s * 1e3
                - numbers["latency mean"],
            }
        )
    rows = rows[10:]
    for row in rows:
        row["overhead, odometry"] = row["topic to topic, odometry"] - row["pipeline"]
        row["overhead, last output"] = row["topic to topic, last output"] - row["pipeline"]
    return {key: _percentiles([row[key] for row in rows]) for key in rows[0]}


@contextmanager
def memory_sampled(pid: int, samples: list[dict[str, float]]) -> Iterator[None]:
    """Note a process's memory every second."""
    is_over, start_s = threading.Event(), time.monotonic()

    def sample() -> None:
        while not is_over.wait(1.0):
            samples.append(
                {
                    "t_s": round(time.monotonic() - start_s, 1),
                    "resident_mb": round(resident_mb(pid), 2),
                    "anonymous_mb": round(anonymous_mb(pid), 2),
                }
            )

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def measure_overload(
    harness: Harness, clock: Clock, camera: Camera, rate_hz: float, minutes: float
) -> dict[str, Any]:
    """Send images at a rate that the node cannot keep up with."""
    samples: list[dict[str, float]] = []
    since, first = len(harness.received["/diagnostics"]), camera.num_sent
    before = _counts(harness)
    start_s = time.monotonic()
    end_s = start_s + 60 * minutes
    with memory_sampled(harness.pid, samples):
        next_s = start_s
        while (now_s := time.monotonic()) < end_s:
            if now_s < next_s:
                time.sleep(next_s - now_s)
                continue
            camera.send()
            # A camera that is late does not catch up.
            next_s = max(next_s + 1 / rate_hz, now_s)
    duration_s = time.monotonic() - start_s
    time.sleep(2.0)
    counts = {key: value - before[key] for key, value in _counts(harness).items()}
    latencies_ms = clock.latencies_ms("~/odom", start_s)
    statuses = list(processing(harness, since))
    # The times of a status are means of its period; what a frame takes is the sum of its stages.
    frames_ms = [sum(v for k, v in n.items() if not k.startswith("latency")) for n in statuses]
    seconds = np.array([stamp - START_NS for stamp in clock.answered_s["~/odom"]]) / 1e9 - start_s
    return {
        "minutes": minutes,
        "rate asked [Hz]": rate_hz,
        "rate sent [Hz]": (camera.num_sent - first) / duration_s,
        "rate out [Hz]": latencies_ms.size / duration_s,
        **counts,
        "latency of odometry [ms]": _percentiles(latencies_ms),
        "processing of a frame [ms]": _percentiles(frames_ms),
        "latency p99 / processing p50": float(
            np.percentile(latencies_ms, 99) / np.median(frames_ms)
        ),
        # On a machine that is busy with other things both are slow at the same time.
        "latency p99 / processing p99": float(
            np.percentile(latencies_ms, 99) / np.percentile(frames_ms, 99)
        ),
        "memory growth [MB]": growth_mb([s["anonymous_mb"] for s in samples]),
        "memory": samples,
        "latencies": [
            [round(float(t), 2), round(float(ms), 1)]
            for t, ms in zip(seconds[seconds >= 0], latencies_ms, strict=False)
        ][:: max(1, latencies_ms.size // 2000)],
    }


def _counts(harness: Harness) -> dict[str, int]:
    """Return the counters of the status `input`."""
    status = harness.received["/diagnostics"][-1].status[0]
    values = {pair.key: pair.value for pair in status.values}
    keys = ("received", "dropped for a newer one", "refused")
    return {key: int(values[key]) for key in keys}


def _percentiles(values: Any) -> dict[str, float]:
    array = np.asarray(values, float)
    numbers = {f"p{q}": float(np.nanpercentile(array, q)) for q in (50, 90, 99)}
    return {**{k: round(v, 2) for k, v in numbers.items()}, "max": round(float(array.max()), 2)}


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw memory and latency over time."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    overload = result["overload"]
    figure, (above, below) = plt.subplots(2, 1, figsize=(9, 6), sharex=True, layout="constrained")
    minutes = [sample["t_s"] / 60 for sample in overload["memory"]]
    for key, label in (("resident_mb", "resident"), ("anonymous_mb", "of its own")):
        above.plot(minutes, [sample[key] for sample in overload["memory"]], label=label)
    above.set(ylabel="memory of the node [MB]", ylim=(0, None))
    above.set_title(
        f"{CAMERA.width}x{CAMERA.height} at {overload['rate sent [Hz]']:.1f} Hz, "
        f"{overload['rate out [Hz]']:.1f} Hz processed"
    )
    above.legend(loc="lower right")
    times, latencies = np.array(overload["latencies"]).T
    below.plot(times / 60, latencies, ".", markersize=2, label="an image")
    processing_ms = overload["processing of a frame [ms]"]["p50"]
    for factor, style in ((1, "-"), (MAX_LATENCY_RATIO, "--")):
        label = "processing, median" if factor == 1 else f"{factor:g} x processing"
        below.axhline(factor * processing_ms, color="k", linestyle=style, linewidth=1, label=label)
    below.set(xlabel="time [min]", ylabel="image to odometry [ms]", ylim=(0, None))
    below.legend(loc="upper right")
    figure.savefig(path, dpi=110)


def verdicts(result: dict[str, Any]) -> dict[str, bool]:
    """Hold the figures to their limits."""
    overload = result["overload"]
    found = {
        f"overhead at most {MAX_OVERHEAD_MS:g} ms (median, last output)": result["alone"][
            "overhead, last output"
        ]["p50"]
        <= MAX_OVERHEAD_MS,
        f"p99 latency under {MAX_LATENCY_RATIO:g} x processing": overload[
            "latency p99 / processing p50"
        ]
        < MAX_LATENCY_RATIO,
        "nothing refused": overload["refused"] == 0,
    }
    if overload["minutes"] >= MIN_MINUTES_FOR_GROWTH:
        flat = f"memory grew by less than {MAX_GROWTH_MB:g} MB"
        found[flat] = overload["memory growth [MB]"] < MAX_GROWTH_MB
    return found


def main() -> int:
    """Run from the command line; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=2.0, help="of overload")
    parser.add_argument("--times", type=float, default=3.0, help="how much too fast")
    parser.add_argument("--bundle", default="", help="empty for the included one")
    parser.add_argument("--threads", type=int, default=0, help="of the networks; 0: every core")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    # As the node does, and as docs/interface.md asks of cameras.
    enlarge_shared_memory(os.environ)
    with tempfile.TemporaryDirectory() as folder, Harness(Path(folder)) as harness:
        clock = Clock(harness)
        camera = Camera(harness, clock, pictures(ROOT / "demo" / "kitti_03"))
        harness.start_node(
            bundle=options.bundle,
            num_threads=options.threads,
            image_reliability="best_effort",
            # On a busy machine an image can be late; the work shall be the same.
            max_gap_s=60.0,
            diagnostics_period_s=0.1,
        )
        harness.wait_for_node()
        camera.start()
        alone = measure_alone(harness, clock, camera)
        rate_hz = options.times * 1e3 / (alone["pipeline"]["p50"] + alone["node: decode"]["p50"])
        overload = measure_overload(harness, clock, camera, rate_hz, options.minutes)
        problems = [text for text in ("Traceback", "internal error") if text in harness.log()]
    result: dict[str, Any] = {
        "image": f"{CAMERA.width}x{CAMERA.height} rgb8",
        "cores": len(os.sched_getaffinity(0)),
        "threads": options.threads,
        "alone": alone,
        "overload": overload,
    }
    result["passed"] = {**verdicts(result), "a clean log": not problems}
    (options.out / "load.json").write_text(json.dumps(result, indent=1))
    draw(result, options.out / "load.png")
    for key, numbers in alone.items():
        print(f"alone     {key:34} p50 {numbers['p50']:6.1f} ms, p99 {numbers['p99']:6.1f} ms")
    for key, value in overload.items():
        if key not in ("memory", "latencies"):
            print(f"overload  {key:34} {value if isinstance(value, dict) else round(value, 2)}")
    for name, is_passed in result["passed"].items():
        print(f"{'ok' if is_passed else 'FAILED':9} {name}")
    return 0 if all(result["passed"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
