"""One image after the other through the pipeline, and out onto the topics."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable

import numpy as np
from rclpy.lifecycle import LifecycleNode
from std_msgs.msg import Header

from coopnet_core.errors import CoopNetError, InputError
from coopnet_core.inference.metric_scale import MetricScale
from coopnet_core.inference.pipeline import FramePipeline, FrameResult, PipelineConfig
from coopnet_ros.camera_input import Arrival, CameraInput
from coopnet_ros.diagnostics import Monitor
from coopnet_ros.mailbox import Mailbox
from coopnet_ros.model import Model
from coopnet_ros.mounting import Mounting, MountingFinder
from coopnet_ros.odom_transform import OdomTransform
from coopnet_ros.odometry import BaseOdometry
from coopnet_ros.outputs import Outputs
from coopnet_ros.parameters import Settings, scale_config
from coopnet_ros.wheel_odometry import WheelOdometry

_LOG_PERIOD_S = 5.0


class FrameProcessor:
    """Takes images from a mailbox and publishes what the pipeline makes of them.

    Its methods may be called from any thread; they wait for the frame in progress.

    Args:
        node: Logs.
        settings: Returns the parameters as they are now.
        camera: Decodes and rectifies.
        mounting: Finds where the camera sits.
        odom_transform: Publishes TF.
        wheels: Wheel odometry, where metric scale comes from it.
        monitor: Told what happens to each image.
    """

    def __init__(
        self,
        node: LifecycleNode,
        settings: Callable[[], Settings],
        camera: CameraInput,
        mounting: MountingFinder,
        odom_transform: OdomTransform,
        wheels: WheelOdometry | None,
        monitor: Monitor,
    ) -> None:
        self._node = node
        self._settings = settings
        self._camera = camera
        self._mounting = mounting
        self._odom_transform = odom_transform
        self._wheels = wheels
        self._monitor = monitor
        self._lock = threading.Lock()
        self._model: Model | None = None
        self._outputs: Outputs | None = None
        self._odometry: BaseOdometry | None = None
        self._last_stamp_ns: int | None = None

    @property
    def model(self) -> Model | None:
        """What runs; None while nothing is loaded."""
        return self._model

    def equip(self, model: Model, outputs: Outputs) -> None:
        """Take what processing needs."""
        with self._lock:
            self._model, self._outputs = model, outputs
            self._take_scale(model)

    def release(self) -> None:
        """Let go of the model and the outputs, and forget everything."""
        with self._lock:
            if self._model is not None:
                self._monitor.reset_happened("cleanup")
            self._model = self._outputs = None
            self._start_over()

    def exchange(self, model: Model) -> bool:
        """Go on with another model from where the robot is; False when none runs any more."""
        with self._lock:
            if self._model is None:
                return False
            # The robot has not moved because its model has changed.
            model.pipeline = FramePipeline(
                model.bundle,
                model.runtime,
                PipelineConfig(max_gap_s=self._settings().max_gap_s),
                self._model.pipeline.T_odom_cam,
            )
            self._model = model
            self._take_scale(model)
        return True

    def reset(self, cause: str, *, forget_mounting: bool) -> bool:
        """Go back to the origin with the next image; False when no model is loaded."""
        with self._lock:
            if self._model is None:
                return False
            self._model.pipeline.reset(cause)
            self._last_stamp_ns = None
            if forget_mounting:
                self._start_over()
        return True

    def _take_scale(self, model: Model) -> None:
        """Let metric scale start anew: for another bundle, or a camera that sits elsewhere."""
        mounting = self._mounting.known
        # A makeshift mounting is a guess, and a degree of pitch is a tenth of the height.
        is_known = mounting is not None and not mounting.is_makeshift
        rotation = mounting.T_base_cam[:3, :3] if mounting is not None and is_known else None
        config = scale_config(self._settings())
        model.pipeline.use_scale(MetricScale(config, model.bundle.metric, rotation))

    def _start_over(self) -> None:
        self._mounting.forget()
        self._odometry, self._last_stamp_ns = None, None

    def run(self, mailbox: Mailbox[Arrival]) -> None:
        """Process what arrives until the mailbox is closed; no image ends it."""
        while (arrival := mailbox.take()) is not None:
            try:
                with self._lock:
                    self._process(arrival)
            except CoopNetError as error:
                self._refuse(str(error))
            except Exception as error:  # noqa: BLE001 - one image must not end the node
                if not self._node.context.ok():
                    return  # publishing fails while ROS shuts down
                self._refuse(f"internal error, {type(error).__name__}: {error}")
                self._node.get_logger().error(
                    traceback.format_exc(), throttle_duration_sec=_LOG_PERIOD_S
                )

    def _refuse(self, cause: str) -> None:
        self._monitor.image_refused(cause)
        self._node.get_logger().warning(
            f"image refused: {cause}", throttle_duration_sec=_LOG_PERIOD_S
        )

    def _process(self, arrival: Arrival) -> None:
        model, outputs = self._model, self._outputs
        if model is None or outputs is None:
            return
        header = arrival.msg.header
        stamp_ns = header.stamp.sec * 1_000_000_000 + header.stamp.nanosec
        if stamp_ns == self._last_stamp_ns:
            raise InputError(
                "the stamp does not advance (it is that of the image before): the "
                "driver must stamp every image, and only one may publish on the topic"
            )
        start_s = time.monotonic()
        picture = self._camera.read(arrival.msg)
        if self._last_stamp_ns is not None and stamp_ns < self._last_stamp_ns:
            self._mounting.time_went_back()
        # Before the step: a pose whose start nobody knew would come with a covariance of nothing.
        self._find_mounting(model, header)
        ready_s = time.monotonic()
        intrinsics = picture.calibration.intrinsics()
        # Everything that is published about this frame comes from this one result.
        previous_ns = stamp_ns if self._last_stamp_ns is None else self._last_stamp_ns
        result = model.pipeline.step(
            picture.image,
            stamp_ns,
            intrinsics,
            outputs.wanted(),
            self._wheel_distance(previous_ns, stamp_ns),
        )
        step_s = time.monotonic()
        self._last_stamp_ns = stamp_ns
        self._report(result)
        self._publish_odometry(result, header, (stamp_ns - previous_ns) / 1e9, outputs)
        outputs.publish_maps(result, picture, header)
        end_s = time.monotonic()
        stages_ms = {
            "decode": (ready_s - start_s) * 1e3,
            **{name: value for name, value in result.timings_ms.items() if name != "total"},
            "publish": (end_s - step_s) * 1e3,
        }
        self._monitor.frame_published((end_s - arrival.received_s) * 1e3, stages_ms)

    def _wheel_distance(self, from_ns: int, to_ns: int) -> float | None:
        mounting = self._mounting.known
        if self._wheels is None or mounting is None or to_ns <= from_ns:
            return None
        return self._wheels.distance(from_ns, to_ns, mounting.T_base_cam)

    def _find_mounting(self, model: Model, header: Header) -> None:
        known = self._mounting.known
        mounting: Mounting | None = self._mounting.find(header)
        if mounting is known:
            return
        self._odometry = None if mounting is None else BaseOdometry(mounting.T_base_cam)
        self._take_scale(model)
        if mounting is not None and self._last_stamp_ns is not None:
            model.pipeline.reset(f"camera mounting from {mounting.source}")

    def _report(self, result: FrameResult) -> None:
        if result.reset_reason is not None:
            self._monitor.reset_happened(result.reset_reason)
            self._node.get_logger().warning(f"odometry reset: {result.reset_reason}")
        reason = "" if result.egomotion is None else result.egomotion.reason
        self._monitor.tracking_is(result.tracking, reason)
        if result.scale is not None:
            self._monitor.scale_is(result.scale)

    def _publish_odometry(
        self, result: FrameResult, header: Header, dt_s: float, outputs: Outputs
    ) -> None:
        odometry = self._odometry
        if odometry is None:
            return
        if result.reset_reason is not None and np.array_equal(result.T_odom_cam, np.eye(4)):
            odometry.restart()
            outputs.restart_path()
        state = odometry.step(result, dt_s)
        self._odom_transform.send(state.T_odom_base, header.stamp)
        outputs.publish_odometry(state, header, self._settings().path_period_s)
