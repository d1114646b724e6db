"""The perception node: camera images in; depth, flow, motion mask and odometry out."""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType, JumpThreshold, TimeJump
from rclpy.duration import Duration
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from std_srvs.srv import Trigger

from coopnet_core.errors import ConfigError, CoopNetError
from coopnet_core.process import keep_memory_flat
from coopnet_ros import frames, parameters, transforms
from coopnet_ros.camera_input import CameraInput
from coopnet_ros.dds import enlarge_shared_memory, log_profile
from coopnet_ros.diagnostics import Monitor, model_status
from coopnet_ros.frame_processing import FrameProcessor
from coopnet_ros.model import Model, load_model, read_bundle
from coopnet_ros.mounting import MountingFinder
from coopnet_ros.odom_transform import OdomTransform
from coopnet_ros.outputs import Outputs
from coopnet_ros.stop_flag import StopFlag
from coopnet_ros.wheel_odometry import WheelOdometry

RCLError = rclpy_implementation.RCLError

# What rclpy raises when a publisher or subscription cannot be made as the parameters ask.
_ROS_ERRORS = (ParameterException, RuntimeError, ValueError)

_LOADER_PATIENCE_S = 10.0

# A clock goes back by less when its source is adjusted.
_MIN_JUMP_BACK = Duration(nanoseconds=-1_000_000)


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
        self._model_problem = "not configured"
        self._outputs: Outputs | None = None
        self._worker: threading.Thread | None = None
        self._loader: threading.Thread | None = None
        self._camera = CameraInput(self, self._settings, self._monitor)
        send, send_static = transforms.make_broadcasters(self)
        self._odom_transform = OdomTransform(self, self._get_settings, send)
        tf = transforms.listen(self, self._odom_transform.hear)
        self._mounting = MountingFinder(self, self._get_settings, tf, send_static)
        self._wheels = None
        if self._settings.scale_mode == "odometry":
            self._wheels = WheelOdometry(self, self._settings.image_reliability)
        self._processor = FrameProcessor(
            self,
            self._get_settings,
            self._camera,
            self._mounting,
            self._odom_transform,
            self._wheels,
            self._monitor,
        )
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        # A steady clock: a paused simulation must not silence the diagnostics.
        self.create_timer(
            self._settings.diagnostics_period_s,
            self._publish_diagnostics,
            clock=Clock(clock_type=ClockType.STEADY_TIME),
        )
        self._jump_handle = self.get_clock().create_jump_callback(
            JumpThreshold(min_forward=None, min_backward=_MIN_JUMP_BACK, on_clock_change=False),
            post_callback=self._on_clock_jump,
        )
        self.create_service(Trigger, "~/reset", self._on_reset)
        self.add_on_set_parameters_callback(self._on_set_parameters)
        service = self._service_change_state
        service.callback = functools.partial(self._on_change_state, service.callback)

    def _get_settings(self) -> parameters.Settings:
        return self._settings

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
        try:
            frames.base_from_camera(self._settings.camera_xyz_rpy)
            parameters.scale_config(self._settings)
            model = self._load(self._settings.bundle)
        except CoopNetError as error:
            self._model_problem = str(error)
            self.get_logger().error(f"cannot configure: {error}")
            return TransitionCallbackReturn.FAILURE
        try:
            self._outputs = Outputs(self, self._settings)
        except _ROS_ERRORS as error:
            self._model_problem = f"cannot publish: {error}"
            self.get_logger().error(f"cannot configure, no publishers (QoS overrides?): {error}")
            return TransitionCallbackReturn.FAILURE
        self._processor.equip(model, self._outputs)
        self._model_problem = ""
        self.get_logger().info(
            f"bundle {model.bundle.version} ready in {model.load_s:.1f} s: "
            f"{model.bundle.width}x{model.bundle.height}, {model.device}"
        )
        return super().on_configure(state)

    @_logged
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe to the camera and start the worker."""
        try:
            if self._wheels is not None:
                self._wheels.open()
            mailbox = self._camera.open()
        except _ROS_ERRORS as error:
            self.stop_worker()
            self.get_logger().error(f"cannot activate, no subscription (QoS overrides?): {error}")
            return TransitionCallbackReturn.FAILURE
        self._mounting.give_tf_time()
        self._worker = threading.Thread(target=self._processor.run, args=(mailbox,), daemon=True)
        self._worker.start()
        camera = self._camera
        self.get_logger().info(f"listening to {camera.image_topic} and {camera.info_topic}")
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
        self._camera.close()
        if self._wheels is not None:
            self._wheels.close()
        if self._worker is not None:
            self._worker.join()
        self._worker = None

    def wait_for_loader(self) -> None:
        """Wait for a bundle that is being loaded, for a moment."""
        if self._loader is not None:
            # A library that is at work while the program ends under it can crash. An engine takes
            # minutes to build, though, and nobody waits that long.
            self._loader.join(timeout=_LOADER_PATIENCE_S)

    def _release(self) -> None:
        self._processor.release()
        self._model_problem = "not configured"
        if self._outputs is not None:
            self._outputs.destroy()
            self._outputs = None

    # Callbacks

    def _on_reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success = self._processor.reset("~/reset was called", forget_mounting=True)
        response.message = (
            "odometry starts anew at the next image"
            if response.success
            else f"nothing to reset: {self._model_problem}"
        )
        return response

    def _on_clock_jump(self, jump: TimeJump) -> None:
        """Start anew when ROS time goes back: a bag starts over, or a simulation is reset."""
        back_s = -jump.delta.nanoseconds / 1e9
        self._mounting.time_went_back()
        self._processor.reset(f"the clock went back by {back_s:.3f} s", forget_mounting=False)

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
        problem = parameters.problem(values)
        if problem:
            return SetParametersResult(successful=False, reason=problem)
        is_loading = (
            "bundle" in values
            and self._processor.model is not None
            and threading.current_thread() is not self._loader
        )
        if is_loading:
            try:
                read_bundle(values["bundle"])
            except CoopNetError as error:
                self._refuse_bundle(error)
                return SetParametersResult(successful=False, reason=str(error))
        known = {field.name for field in dataclasses.fields(self._settings)}
        self._settings = dataclasses.replace(
            self._settings, **{name: value for name, value in values.items() if name in known}
        )
        if is_loading:
            self._loader = threading.Thread(
                target=self._change_bundle, args=(values["bundle"],), daemon=True
            )
            self._loader.start()
        return SetParametersResult(successful=True)

    # Bundles; another one in a thread of its own: the camera goes on while its networks are loaded

    def _load(self, path: str) -> Model:
        settings = self._settings
        return load_model(
            path,
            settings.num_threads,
            settings.max_gap_s,
            settings.device,
            settings.precision,
        )

    def _refuse_bundle(self, error: Exception) -> None:
        self._model_problem = f"refused bundle: {error}"
        self.get_logger().error(f"bundle refused, the old one keeps running: {error}")

    def _change_bundle(self, path: str) -> None:
        try:
            model = self._load(path)
        except CoopNetError as error:
            self._refuse_bundle(error)
            running = self._processor.model
            if running is not None and self._settings.bundle == path:
                # The parameter says what runs; this thread's word loads nothing.
                self.set_parameters([Parameter("bundle", value=running.path)])
            return
        # Asked for yet another one meanwhile, or cleaned up.
        if self._settings.bundle != path or not self._processor.exchange(model):
            return
        self._model_problem = ""
        self._monitor.reset_happened(f"bundle changed to {model.bundle.version}")
        self.get_logger().info(f"bundle {model.bundle.version} ready in {model.load_s:.1f} s")

    # Diagnostics

    def _publish_diagnostics(self) -> None:
        name = str(self.get_fully_qualified_name()).lstrip("/")
        mounting = self._mounting.known
        statuses = self._monitor.statuses(
            name,
            image_topic=self._camera.image_topic,
            camera_info=self._camera.describe_info(),
            input_problem=self._camera.problem(self._settings.no_image_warning_s),
            mounting=mounting.source if mounting is not None else "not known yet",
            odometry_problems=[self._mounting.problem, self._odom_transform.problem()],
            scale_problem="" if self._wheels is None else self._wheels.problem(),
        )
        statuses.append(model_status(name, self._processor.model, self._model_problem))
        msg = DiagnosticArray(status=statuses)
        msg.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(msg)


def main(args: list[str] | None = None) -> int:
    """Run the node until ROS shuts down; return the exit status."""
    # The core has no ROS logger; what builds engines says there, for minutes, how far it is.
    logging.basicConfig(format="%(message)s")
    logging.getLogger("coopnet_core").setLevel(logging.INFO)
    keep_memory_flat()
    # Python's part in a signal: no KeyboardInterrupt in the middle of cleaning up. The handlers of
    # rclpy, in front of it, end the spinning. Python's alone would run on the alternate stack that
    # a library has set up, too small for the registers of AVX-512: the kernel kills the process.
    StopFlag()
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
        node.wait_for_loader()
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
