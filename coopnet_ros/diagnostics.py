"""What /diagnostics says: counters and causes, collected from every thread of the node."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass, field

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from coopnet_core.inference.metric_scale import ScaleState, ScaleStatus
from coopnet_core.inference.pipeline import Tracking
from coopnet_core.process import resident_mb
from coopnet_ros.model import Model

OK = DiagnosticStatus.OK
WARN = DiagnosticStatus.WARN
ERROR = DiagnosticStatus.ERROR


@dataclass
class _Window:
    """What happened since the last message."""

    start_s: float = field(default_factory=time.monotonic)
    received: int = 0
    published: int = 0
    latencies_ms: list[float] = field(default_factory=list)
    stages_ms: dict[str, list[float]] = field(default_factory=dict)
    refusals: Counter[str] = field(default_factory=Counter)
    resets: list[str] = field(default_factory=list)


class Monitor:
    """Counts what goes in and out of the node, and remembers why something was refused.

    All methods may be called from any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._window = _Window()
        self._received = 0
        self._dropped = 0
        self._refused = 0
        self._resets = 0
        self._last_refusal = ""
        self._last_reset = ""
        self._tracking = Tracking.INITIALISING
        self._tracking_reason = ""
        self._scale: ScaleState | None = None
        self._last_image_s: float | None = None

    def image_received(self, *, is_dropped: bool) -> None:
        """Count an image; ``is_dropped`` when an older one, not yet processed, gave way."""
        with self._lock:
            self._received += 1
            self._window.received += 1
            self._dropped += is_dropped
            self._last_image_s = time.monotonic()

    def image_refused(self, cause: str) -> None:
        """Count an image that could not be used."""
        with self._lock:
            self._refused += 1
            self._last_refusal = cause
            self._window.refusals[cause] += 1

    def frame_published(self, latency_ms: float, stages_ms: dict[str, float]) -> None:
        """Count a processed frame, with its time from callback to the last publish."""
        with self._lock:
            self._window.published += 1
            self._window.latencies_ms.append(latency_ms)
            for stage, duration in stages_ms.items():
                self._window.stages_ms.setdefault(stage, []).append(duration)

    def reset_happened(self, cause: str) -> None:
        """Note that odometry started again."""
        with self._lock:
            self._resets += 1
            self._last_reset = cause
            self._window.resets.append(cause)

    def tracking_is(self, tracking: Tracking, reason: str = "") -> None:
        """Note the state of tracking after a frame, and why it is lost."""
        with self._lock:
            self._tracking, self._tracking_reason = tracking, reason

    def scale_is(self, scale: ScaleState) -> None:
        """Note the metric scale after a frame."""
        with self._lock:
            self._scale = scale

    def seconds_without_image(self, since_s: float) -> float:
        """Return the time since the last image, or since ``since_s`` (monotonic) if later."""
        with self._lock:
            last = since_s if self._last_image_s is None else max(since_s, self._last_image_s)
        return time.monotonic() - last

    def statuses(
        self,
        name: str,
        *,
        image_topic: str,
        camera_info: str,
        input_problem: str,
        mounting: str,
        odometry_problems: list[str],
        scale_problem: str,
    ) -> list[DiagnosticStatus]:
        """Return the input, processing, odometry and scale statuses, and start a new period.

        Args:
            name: Name of the node; each status is called ``NAME: PART``.
            image_topic: Where images come from.
            camera_info: The last camera_info in words.
            input_problem: Why no image comes, empty when all is well.
            mounting: Where the camera's pose on the base comes from.
            odometry_problems: What stands in the way of odometry, empty strings apart.
            scale_problem: What stands in the way of metric scale, empty when nothing does.
        """
        with self._lock:
            window, self._window = self._window, _Window()
            period_s = max(time.monotonic() - window.start_s, 1e-3)
            return [
                self._input_status(name, window, period_s, image_topic, camera_info, input_problem),
                self._processing_status(name, window, period_s),
                self._odometry_status(name, window, mounting, odometry_problems),
                _scale_status(name, self._scale, scale_problem),
            ]

    def _input_status(
        self,
        name: str,
        window: _Window,
        period_s: float,
        topic: str,
        camera_info: str,
        problem: str,
    ) -> DiagnosticStatus:
        level, message = OK, "receiving"
        if window.refusals:
            level = WARN
            most = window.refusals.most_common(3)
            message = "; ".join(f"refused {count}: {cause}" for cause, count in most)
        elif problem:
            level, message = WARN, problem
        values = {
            "image topic": topic,
            "camera_info": camera_info,
            "rate in [Hz]": f"{window.received / period_s:.2f}",
            "received": str(self._received),
            "dropped for a newer one": str(self._dropped),
            "refused": str(self._refused),
            "last refusal": self._last_refusal,
        }
        return make_status(f"{name}: input", level, message, values)

    def _processing_status(self, name: str, window: _Window, period_s: float) -> DiagnosticStatus:
        values = {"rate out [Hz]": f"{window.published / period_s:.2f}"}
        memory_mb = resident_mb()
        if memory_mb is not None:
            values["memory [MB]"] = f"{memory_mb:.0f}"
        if window.latencies_ms:
            values["latency mean [ms]"] = f"{_mean(window.latencies_ms):.1f}"
            values["latency max [ms]"] = f"{max(window.latencies_ms):.1f}"
        for stage, durations in window.stages_ms.items():
            values[f"{stage} [ms]"] = f"{_mean(durations):.1f}"
        message = "processing" if window.published else "no frame in this period"
        return make_status(f"{name}: processing", OK, message, values)

    def _odometry_status(
        self, name: str, window: _Window, mounting: str, problems: list[str]
    ) -> DiagnosticStatus:
        said = [f"reset: {'; '.join(dict.fromkeys(window.resets))}"] if window.resets else []
        said += [problem for problem in problems if problem]
        if self._tracking is Tracking.LOST:
            said.append(f"lost: {self._tracking_reason}" if self._tracking_reason else "lost")
        level, message = (WARN, "; ".join(said)) if said else (OK, self._tracking.name.lower())
        values = {
            "tracking": self._tracking.name.lower(),
            "resets": str(self._resets),
            "last reset": self._last_reset,
            "camera mounting": mounting,
        }
        return make_status(f"{name}: odometry", level, message, values)


def _scale_status(name: str, scale: ScaleState | None, problem: str) -> DiagnosticStatus:
    name = f"{name}: scale"
    if scale is None:
        return make_status(name, OK, problem or "no frame yet", {})
    level, message = OK, f"{scale.source}, {scale.status.value}"
    if scale.reason:
        message += f": {scale.reason}"
    if not scale.is_metric:
        level = WARN
        message = f"no metric scale, the unit of depth and odometry is arbitrary; {message}"
    elif scale.status is ScaleStatus.WAITING:
        level = WARN
    if problem:
        level, message = WARN, problem
    values = {
        "source": scale.source,
        "metric": str(scale.is_metric).lower(),
        "factor": f"{scale.factor:.4f}",
        "variance": f"{scale.variance:.3g}",
        "standard deviation [%]": f"{100 * scale.relative_sigma:.1f}",
        "observations": str(scale.num_observations),
        "state": scale.status.value,
        "reason": scale.reason,
    }
    return make_status(name, level, message, values)


def model_status(name: str, model: Model | None, problem: str) -> DiagnosticStatus:
    """Return the status of the model.

    Args:
        name: Name of the node.
        model: What runs; None for nothing.
        problem: Why nothing runs, or why another bundle was refused; empty when all is well.
    """
    name = f"{name}: model"
    if model is None:
        return make_status(name, ERROR, problem, {})
    info = model.bundle.info
    level, message = OK, "running"
    if problem:
        level, message = WARN, problem
    values = {
        "bundle": model.bundle.version,
        "path": str(model.bundle.path),
        "device": model.device,
        "input size": f"{model.bundle.width}x{model.bundle.height}",
        "metric": str(info.depth.metric).lower(),
        "weights licence": info.training.license,
    }
    return make_status(name, level, message, values, hardware_id=model.bundle.version)


def make_status(
    name: str, level: bytes, message: str, values: dict[str, str], hardware_id: str = ""
) -> DiagnosticStatus:
    """Return a DiagnosticStatus; ``values`` become its key-value pairs, in order."""
    pairs = [KeyValue(key=key, value=value) for key, value in values.items()]
    return DiagnosticStatus(
        name=name, level=level, message=message, hardware_id=hardware_id, values=pairs
    )


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
