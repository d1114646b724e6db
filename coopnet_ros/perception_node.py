"""The perception node: camera images in; depth, flow, motion mask and odometry out."""

from __future__ import annotations

import dataclasses
import functools
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import ReliabilityPolicy
from rclpy.subscription import Subscription
from rclpy.topic_endpoint_info import TopicEndpointInfo
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header
from std_srvs.srv import Trigger

from coopnet_core.errors import ConfigError, CoopNetError, InputError
from coopnet_core.inference.pipeline import FramePipeline, FrameResult, PipelineConfig
from coopnet_ros import frames, parameters, qos, transforms
from coopnet_ros.camera_info import calibration_from_camera_info, rectify
from coopnet_ros.dds import enlarge_shared_memory, log_profile
from coopnet_ros.diagnostics import ERROR, OK, WARN, Monitor, make_status
from coopnet_ros.images import rgb_from_compressed, rgb_from_image
from coopnet_ros.mailbox import Mailbox
from coopnet_ros.model import Model, load_model, read_bundle
from coopnet_ros.odometry import BaseOdometry, transform_message
from coopnet_ros.outputs import Outputs

RCLError = rclpy_implementation.RCLError

# What rclpy raises when a publisher or subscription cannot be made as the parameters ask.
_ROS_ERRORS = (ParameterException, RuntimeError, ValueError)

_LOG_PERIOD_S = 5.0
# How long after the first image camera_mounting 'auto' waits for TF.
_TF_WAIT_S = 2.0


class _Arrival(NamedTuple):
    """An image message and when it came."""

    msg: Image | CompressedImage
    received_s: float


@dataclasses.dataclass
class _Mounting:
    """Where the camera sits on the base.

    ``is_makeshift``: taken from the parameter because TF is silent; TF replaces it when it speaks.
    """

    camera_frame: str
    source: str
    odometry: BaseOdometry
    is_makeshift: bool = False


def _logged(
    transition: Callable[[PerceptionNode, LifecycleState], TransitionCallbackReturn],
) -> Callable[[PerceptionNode, LifecycleState], TransitionCallbackReturn]:
    """Put what goes wrong in a transition into the log: rclpy drops it without a word."""

    @functools.wraps(transition)
    def call(node: PerceptionNode, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            return transition(node, state)
        except Exception:
            node.get_logger().error(traceback.format_exc())
            raise

    return call


class PerceptionNode(LifecycleNode):  # type: ignore[misc]  # rclpy ships no types
    """Lifecycle node around the frame pipeline.

    The camera's callbacks only put the newest image into a mailbox; a worker thread takes it from
    there, so that nothing ever queues. One thread spins it: rclpy's executor with several wakes
    twice per message, and each time looks at every publisher and service of the node, which cost a
    third of a core. What takes long, another bundle, has a thread of its own.

    Raises:
        ConfigError: A parameter has a wrong type or value.
    """

    def __init__(self) -> None:
        super().__init__(parameters.NODE_NAME)
        self._settings = parameters.declare(self)
        self._monitor = Monitor()
        # Held by whoever uses or replaces what processing needs: worker, reset, bundle change.
        self._lock = threading.Lock()
        self._model: Model | None = None
        self._model_problem = "not configured"
        self._outputs: Outputs | None = None
        self._mounting: _Mounting | None = None
        self._mounting_problem = ""
        self._tf_deadline_s: float | None = None
        self._last_stamp_ns: int | None = None
        self._camera_info: CameraInfo | None = None
        self._mailbox: Mailbox[_Arrival] | None = None
        self._worker: threading.Thread | None = None
        self._loader: threading.Thread | None = None
        self._camera_subscriptions: list[Subscription] = []
        self._active_since_s = 0.0

        image_topic = self.resolve_topic_name("image")
        self._is_compressed = self._settings.image_transport == "compressed"
        self._image_topic = image_topic + ("/compressed" if self._is_compressed else "")
        self._info_topic = self.resolve_topic_name("camera_info")
        self._is_named_rectified = image_topic.rpartition("/")[2].startswith("image_rect")
        self._lookup = transforms.make_lookup(self)
        self._send_transform, self._send_static_transform = transforms.make_broadcasters(self)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        # A steady clock: a paused simulation must not silence the diagnostics.
        self.create_timer(
            self._settings.diagnostics_period_s,
            self._publish_diagnostics,
            clock=Clock(clock_type=ClockType.STEADY_TIME),
        )
        self.create_service(Trigger, "~/reset", self._on_reset)
        self.add_on_set_parameters_callback(self._on_set_parameters)
        service = self._service_change_state
        service.callback = functools.partial(self._on_change_state, service.callback)

    # Lifecycle

    def start(self) -> None:
        """Configure and activate, if the parameter ``autostart`` says so."""
        if not self._settings.autostart:
            return
        if self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()

    @_logged
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the bundle and warm it up; FAILURE, with the cause in the log, if that fails."""
        settings = self._settings
        try:
            frames.base_from_camera(settings.camera_xyz_rpy)
            model = load_model(
                settings.bundle,
                settings.num_threads,
                settings.max_gap_s,
                settings.device,
                settings.precision,
            )
        except CoopNetError as error:
            self._model_problem = str(error)
            self.get_logger().error(f"cannot configure: {error}")
            return TransitionCallbackReturn.FAILURE
        try:
            self._outputs = Outputs(self, settings)
        except _ROS_ERRORS as error:
            self._model_problem = f"cannot publish: {error}"
            self.get_logger().error(f"cannot configure, no publishers (QoS overrides?): {error}")
            return TransitionCallbackReturn.FAILURE
        with self._lock:
            self._model, self._model_problem = model, ""
        self.get_logger().info(
            f"bundle {model.bundle.version} ready in {model.load_s:.1f} s: "
            f"{model.bundle.width}x{model.bundle.height}, {model.device}"
        )
        return super().on_configure(state)

    @_logged
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe to the camera and start the worker."""
        image_type = CompressedImage if self._is_compressed else Image
        try:
            for msg_type, topic, callback in (
                (CameraInfo, self._info_topic, self._on_camera_info),
                (image_type, self._image_topic, self._on_image),
            ):
                subscription = self.create_subscription(
                    msg_type,
                    topic,
                    callback,
                    # A profile for each: rclpy writes overrides into the one that it is given.
                    qos.input_qos(self._settings.image_reliability),
                    qos_overriding_options=qos.overridable(),
                )
                self._camera_subscriptions.append(subscription)
        except _ROS_ERRORS as error:
            self.stop_worker()
            self.get_logger().error(f"cannot activate, no subscription (QoS overrides?): {error}")
            return TransitionCallbackReturn.FAILURE
        self._camera_info = None
        self._tf_deadline_s = None
        self._active_since_s = time.monotonic()
        mailbox = self._mailbox = Mailbox()
        self._worker = threading.Thread(target=self._work, args=(mailbox,), daemon=True)
        self._worker.start()
        self.get_logger().info(f"listening to {self._image_topic} and {self._info_topic}")
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe and stop the worker."""
        self.stop_worker()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Let go of the bundle and the outputs."""
        result = super().on_cleanup(state)
        self._release()
        return result

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop everything."""
        self.stop_worker()
        result = super().on_shutdown(state)
        self._release()
        return result

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Go back to unconfigured after a transition that went wrong."""
        self.stop_worker()
        self._release()
        return TransitionCallbackReturn.SUCCESS

    def stop_worker(self) -> None:
        """Unsubscribe from the camera and wait for the frame in progress."""
        for subscription in self._camera_subscriptions:
            self.destroy_subscription(subscription)
        self._camera_subscriptions = []
        if self._mailbox is not None and self._worker is not None:
            self._mailbox.close()
            self._worker.join()
        self._mailbox = self._worker = None

    def _release(self) -> None:
        with self._lock:
            self._model, self._model_problem = None, "not configured"
            self._mounting, self._last_stamp_ns = None, None
        if self._outputs is not None:
            self._outputs.destroy()
            self._outputs = None

    # Callbacks

    def _on_camera_info(self, msg: CameraInfo) -> None:
        self._camera_info = msg

    def _on_image(self, msg: Image | CompressedImage) -> None:
        mailbox = self._mailbox  # none when a message was on its way at deactivation
        if mailbox is not None:
            is_dropped = mailbox.put(_Arrival(msg, time.monotonic()))
            self._monitor.image_received(is_dropped=is_dropped)

    def _on_reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        with self._lock:
            response.success = self._model is not None
            if self._model is None:
                response.message = f"nothing to reset: {self._model_problem}"
                return response
            self._model.pipeline.reset("~/reset was called")
            self._mounting, self._last_stamp_ns = None, None
        response.message = "odometry starts anew at the next image"
        return response

    def _on_change_state(
        self,
        change: Callable[[ChangeState.Request, ChangeState.Response], ChangeState.Response],
        request: ChangeState.Request,
        response: ChangeState.Response,
    ) -> ChangeState.Response:
        """Answer a request for an impossible transition, at which rclpy raises."""
        try:
            return change(request, response)
        except RCLError as error:
            self.get_logger().error(f"request refused: {error}")
            response.success = False
            return response

    def _on_set_parameters(self, changed: list[Parameter]) -> SetParametersResult:
        values = {parameter.name: parameter.value for parameter in changed}
        known = {field.name for field in dataclasses.fields(self._settings)}
        is_loading = (
            "bundle" in values
            and self._model is not None
            and threading.current_thread() is not self._loader
        )
        if is_loading:
            try:
                read_bundle(values["bundle"])
            except CoopNetError as error:
                self._refuse_bundle(error)
                return SetParametersResult(successful=False, reason=str(error))
        self._settings = dataclasses.replace(
            self._settings, **{name: value for name, value in values.items() if name in known}
        )
        if is_loading:
            self._loader = threading.Thread(
                target=self._change_bundle, args=(values["bundle"],), daemon=True
            )
            self._loader.start()
        return SetParametersResult(successful=True)

    def _refuse_bundle(self, error: Exception) -> None:
        with self._lock:
            self._model_problem = f"refused bundle: {error}"
        self.get_logger().error(f"bundle refused, the old one keeps running: {error}")

    # Another bundle, in a thread of its own: the camera goes on while its networks are loaded

    def _change_bundle(self, path: str) -> None:
        settings = self._settings
        try:
            model = load_model(
                path,
                settings.num_threads,
                settings.max_gap_s,
                settings.device,
                settings.precision,
            )
        except CoopNetError as error:
            self._refuse_bundle(error)
            with self._lock:
                running = self._model
            if running is not None and self._settings.bundle == path:
                # The parameter says what runs; this thread's word loads nothing.
                self.set_parameters([Parameter("bundle", value=running.path)])
            return
        with self._lock:
            if self._model is None or self._settings.bundle != path:
                return  # cleaned up, or asked for yet another one meanwhile
            # The robot has not moved because its model has changed.
            model.pipeline = FramePipeline(
                model.bundle,
                model.runtime,
                PipelineConfig(max_gap_s=settings.max_gap_s),
                self._model.pipeline.T_odom_cam,
            )
            self._model, self._model_problem = model, ""
        self._monitor.reset_happened(f"bundle changed to {model.bundle.version}")
        self.get_logger().info(f"bundle {model.bundle.version} ready in {model.load_s:.1f} s")

    # Processing, in the worker's thread

    def _work(self, mailbox: Mailbox[_Arrival]) -> None:
        while (arrival := mailbox.take()) is not None:
            try:
                with self._lock:
                    self._process(arrival)
            except CoopNetError as error:
                self._refuse(str(error))
            except Exception as error:  # noqa: BLE001 - one image must not end the node
                if not self.context.ok():
                    return  # publishing fails while ROS shuts down
                self._refuse(f"internal error, {type(error).__name__}: {error}")
                self.get_logger().error(traceback.format_exc(), throttle_duration_sec=_LOG_PERIOD_S)

    def _refuse(self, cause: str) -> None:
        self._monitor.image_refused(cause)
        self.get_logger().warning(f"image refused: {cause}", throttle_duration_sec=_LOG_PERIOD_S)

    def _process(self, arrival: _Arrival) -> None:
        model, outputs, info = self._model, self._outputs, self._camera_info
        if model is None or outputs is None:
            return
        msg = arrival.msg
        header = msg.header
        stamp_ns = header.stamp.sec * 1_000_000_000 + header.stamp.nanosec
        if stamp_ns == self._last_stamp_ns:
            raise InputError(
                "the stamp does not advance (it is that of the image before): the "
                "driver must stamp every image, and only one may publish on the topic"
            )
        start_s = time.monotonic()
        image = rgb_from_compressed(msg) if self._is_compressed else rgb_from_image(msg)
        if info is None:
            raise InputError(
                f"no camera_info yet on {self._info_topic}, publishers there: "
                + qos.describe_publishers(self.get_publishers_info_by_topic(self._info_topic))
            )
        calibration = calibration_from_camera_info(info, image.shape[1], image.shape[0])
        valid: npt.NDArray[np.bool_] | None = None
        if self._settings.rectify:
            if any(calibration.D) and self._is_named_rectified:
                self.get_logger().warning(
                    f"{self._image_topic} is called rectified, but its camera_info has a lens "
                    "distortion, which is undone now: if the picture is rectified already, set "
                    "rectify to false",
                    once=True,
                )
            image, valid = rectify(image, calibration)
        # Before the step: a pose whose start nobody knew would come with a covariance of nothing.
        known, self._mounting = self._mounting, self._find_mounting(header)
        mounting = self._mounting
        if mounting is not None and mounting is not known and self._last_stamp_ns is not None:
            model.pipeline.reset(f"camera mounting from {mounting.source}")
        ready_s = time.monotonic()
        result = model.pipeline.step(image, stamp_ns, calibration.intrinsics(), outputs.wanted())
        step_s = time.monotonic()
        previous_ns = stamp_ns if self._last_stamp_ns is None else self._last_stamp_ns
        self._last_stamp_ns = stamp_ns
        if result.reset_reason is not None:
            self._monitor.reset_happened(result.reset_reason)
            self.get_logger().warning(f"odometry reset: {result.reset_reason}")
        reason = "" if result.egomotion is None else result.egomotion.reason
        self._monitor.tracking_is(result.tracking, reason)
        if mounting is not None:
            dt_s = (stamp_ns - previous_ns) / 1e9
            self._publish_odometry(result, header, dt_s, mounting.odometry, outputs)
        outputs.publish_maps(result, image, header, calibration, valid)
        end_s = time.monotonic()
        stages_ms = {
            "decode": (ready_s - start_s) * 1e3,
            **{name: value for name, value in result.timings_ms.items() if name != "total"},
            "publish": (end_s - step_s) * 1e3,
        }
        self._monitor.frame_published((end_s - arrival.received_s) * 1e3, stages_ms)

    def _publish_odometry(
        self,
        result: FrameResult,
        header: Header,
        dt_s: float,
        odometry: BaseOdometry,
        outputs: Outputs,
    ) -> None:
        if result.reset_reason is not None and np.array_equal(result.T_odom_cam, np.eye(4)):
            odometry.restart()
            outputs.restart_path()
        state = odometry.step(result, dt_s)
        settings = self._settings
        if settings.publish_tf:
            self._send_transform(
                transform_message(
                    state.T_odom_base, header.stamp, settings.odom_frame, settings.base_frame
                )
            )
        outputs.publish_odometry(state, header, settings.path_period_s)

    def _find_mounting(self, header: Header) -> _Mounting | None:
        """Return where the camera sits on the base: what is known already, or what TF says now."""
        settings, camera_frame, mounting = self._settings, header.frame_id, self._mounting
        if mounting is not None and mounting.camera_frame != camera_frame:
            mounting = None
        if mounting is not None and not mounting.is_makeshift:
            return mounting
        base_frame, is_makeshift = settings.base_frame, False
        T_base_cam, source = None, f"TF {base_frame} <- {camera_frame}"
        if settings.camera_mounting != "parameter":
            T_base_cam = self._lookup(base_frame, camera_frame)
        if T_base_cam is None and mounting is not None:
            return mounting
        if T_base_cam is None:
            if settings.camera_mounting != "parameter":
                is_makeshift = settings.camera_mounting == "auto" and self._has_waited_for_tf()
                self._mounting_problem = (
                    ("camera_xyz_rpy is taken for now" if is_makeshift else "no odometry yet")
                    + f": TF has no transform {base_frame} <- {camera_frame or '(empty)'}; "
                    "publish it, or set camera_mounting to parameter"
                )
                self.get_logger().warning(
                    self._mounting_problem, throttle_duration_sec=_LOG_PERIOD_S
                )
                if not is_makeshift:
                    return None
            T_base_cam = frames.base_from_camera(settings.camera_xyz_rpy)
            source = f"parameter camera_xyz_rpy {list(settings.camera_xyz_rpy)}"
        if not is_makeshift:
            self._mounting_problem = ""
        # Only who has chosen the parameter has said that nobody else publishes this transform: a
        # second parent of the camera's frame breaks the tree of the whole robot.
        if (
            settings.camera_mounting == "parameter"
            and settings.publish_tf
            and camera_frame not in ("", base_frame)
        ):
            self._send_static_transform(
                transform_message(T_base_cam, header.stamp, base_frame, camera_frame)
            )
        self.get_logger().info(f"camera mounting from {source}")
        return _Mounting(camera_frame, source, BaseOdometry(T_base_cam), is_makeshift)

    def _has_waited_for_tf(self) -> bool:
        """Return whether TF has had its time since the first image after activation."""
        now_s = time.monotonic()
        if self._tf_deadline_s is None:
            self._tf_deadline_s = now_s + _TF_WAIT_S
        return now_s >= self._tf_deadline_s

    # Diagnostics

    def _publish_diagnostics(self) -> None:
        info, mounting = self._camera_info, self._mounting
        statuses = self._monitor.statuses(
            self._status_name,
            image_topic=self._image_topic,
            camera_info=f"{info.width}x{info.height}, fx {info.k[0]:g}" if info else "none yet",
            input_problem=self._input_problem(),
            mounting=mounting.source if mounting is not None else "not known yet",
            mounting_problem=self._mounting_problem,
        )
        msg = DiagnosticArray(status=[*statuses, self._model_status()])
        msg.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(msg)

    def _input_problem(self) -> str:
        """Return why no image comes, empty when all is well or none is asked for."""
        subscriptions = list(self._camera_subscriptions)
        if not subscriptions:
            return "not active"
        silence_s = self._monitor.seconds_without_image(self._active_since_s)
        if silence_s < self._settings.no_image_warning_s:
            return ""
        publishers = self.get_publishers_info_by_topic(self._image_topic)
        problem = (
            f"no image for {silence_s:.0f} s on {self._image_topic}, "
            f"publishers there: {qos.describe_publishers(publishers)}"
        )
        hint = self._input_hint(subscriptions[-1].qos_profile.reliability, publishers)
        self.get_logger().warning(problem + hint, throttle_duration_sec=_LOG_PERIOD_S)
        return problem + hint

    def _input_hint(
        self, reliability: ReliabilityPolicy, publishers: list[TopicEndpointInfo]
    ) -> str:
        """Return what to do about the usual reasons why no image comes."""
        if publishers:
            expected = "sensor_msgs/msg/" + ("CompressedImage" if self._is_compressed else "Image")
            types = {endpoint.topic_type for endpoint in publishers}
            if expected not in types:
                return f"; they send {', '.join(sorted(types))}, expected {expected}"
            reliable = ReliabilityPolicy.RELIABLE
            if reliability == reliable and not any(
                endpoint.qos_profile.reliability == reliable for endpoint in publishers
            ):
                return "; a reliable subscription receives nothing from best-effort publishers"
            return ""
        base, other = self._image_topic, "raw"
        if self._is_compressed:
            base = base.removesuffix("/compressed")
        else:
            base, other = base + "/compressed", "compressed"
        if self.count_publishers(base):
            return f"; there is one on {base}: set image_transport to {other}"
        return "; remap `image`, or check that the camera driver runs"

    def _model_status(self) -> DiagnosticStatus:
        name, model = f"{self._status_name}: model", self._model
        if model is None:
            return make_status(name, ERROR, self._model_problem, {})
        info = model.bundle.info
        level, message = OK, "running"
        if not info.depth.metric:
            level, message = WARN, "depth has no metric scale: its unit is arbitrary"
        if self._model_problem:
            level, message = WARN, self._model_problem
        values = {
            "bundle": model.bundle.version,
            "path": str(model.bundle.path),
            "device": model.device,
            "input size": f"{model.bundle.width}x{model.bundle.height}",
            "metric": str(info.depth.metric).lower(),
            "weights licence": info.training.license,
        }
        return make_status(name, level, message, values, hardware_id=model.bundle.version)

    @property
    def _status_name(self) -> str:
        return str(self.get_fully_qualified_name()).lstrip("/")


def main(args: list[str] | None = None) -> int:
    """Run the node until ROS shuts down; return the exit status."""
    profile = enlarge_shared_memory(os.environ)
    rclpy.init(args=args)
    try:
        node = PerceptionNode()
    except ConfigError as error:
        print(f"coopnet: {error}", file=sys.stderr)
        rclpy.try_shutdown()
        return 1
    log_profile(node.get_logger(), profile)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        node.start()
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        node.stop_worker()
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
