"""A camera, a listener and the perception node in a process of its own, over real DDS.

Each ``Harness`` has a domain and a namespace of its own, so tests that run side by side do not hear
each other::

    with Harness(tmp_path) as harness:
        harness.start_node(bundle=path)
        harness.listen("coopnet/odom", Odometry)
        harness.wait_for_node()
        harness.send_image(stamp_ns, image)
        odom = harness.wait_for("coopnet/odom")
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np
import rclpy
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rcl_interfaces.srv import GetParameters, SetParameters
from rclpy.exceptions import InvalidHandle
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from coopnet_core.geometry.intrinsics import Intrinsics
from coopnet_ros.camera_info import camera_info_from_intrinsics
from coopnet_ros.dds import stay_on_this_machine
from coopnet_ros.demo_processes import free_domain_id
from coopnet_ros.image_messages import image_from_array

ROOT = Path(__file__).resolve().parents[2]
CAMERA_FRAME = "camera_optical_frame"
WIDTH, HEIGHT = 128, 64
INTRINSICS = Intrinsics(WIDTH, HEIGHT, 128.0, 128.0, 63.5, 31.5)
START_NS = 1_700_000_000_000_000_000
PERIOD_NS = 100_000_000
# An upper bound for a machine that is busy with other things.
TIMEOUT_S = 60.0


class Harness:
    """The test's own node, in a thread, and the node under test, in a process."""

    def __init__(
        self, folder: Path, beside: Harness | None = None, *, has_camera: bool = True
    ) -> None:
        """Join the ROS graph: one of its own, or that of the harness ``beside``."""
        self.domain = beside.domain if beside else free_domain_id()
        self.namespace = beside.namespace if beside else f"/t{secrets.token_hex(4)}"
        self.received: dict[str, list[Any]] = {}
        self._clients: dict[str, Any] = {}
        self._log = folder / f"node_{secrets.token_hex(4)}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._context = rclpy.Context()
        stay_on_this_machine(os.environ)
        rclpy.init(context=self._context, domain_id=self.domain)
        self.node = rclpy.create_node(
            "test", namespace=self.namespace, context=self._context, use_global_arguments=False
        )
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self.listen("/diagnostics", DiagnosticArray)
        self._thread.start()
        if not has_camera:
            return
        reliable = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
        self.image_publisher = self.node.create_publisher(Image, "image", reliable)
        self.compressed_publisher = self.node.create_publisher(
            CompressedImage, "image/compressed", reliable
        )
        self.info_publisher = self.node.create_publisher(CameraInfo, "camera_info", reliable)

    def __enter__(self) -> Harness:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop_node()
        self._context.try_shutdown()
        self._thread.join(timeout=5)
        self.node.destroy_node()

    def _spin(self) -> None:
        while self._context.ok():
            try:
                self._executor.spin()
            except ExternalShutdownException:
                return
            except InvalidHandle:
                continue  # a test has destroyed a publisher in its own thread

    # The node under test

    def start_node(
        self,
        *,
        arguments: tuple[str, ...] = (),
        program: tuple[str, ...] = ("-m", "coopnet_ros.perception_node"),
        **values: Any,
    ) -> None:
        """Start the perception node; keywords are parameters."""
        values = {
            "image_reliability": "reliable",
            "diagnostics_period_s": 0.2,
            # Nothing to wait for: tests have no TF, but for those of it.
            "camera_mounting": "parameter",
            **values,
        }
        command = [sys.executable, *program, "--ros-args"]
        command += ["-r", f"__ns:={self.namespace}", *arguments]
        for name, value in values.items():
            command += ["-p", f"{name}:={_yaml(value)}"]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command, cwd=ROOT, env=self.environment(), stdout=log, stderr=subprocess.STDOUT
            )

    def environment(self) -> dict[str, str]:
        """Return the environment of processes that this harness shall hear."""
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        return {
            **os.environ,
            "ROS_DOMAIN_ID": str(self.domain),
            "PYTHONPATH": path,
            "OMP_NUM_THREADS": "1",
        }

    def stop_node(self) -> int:
        """Interrupt the node and return its exit status."""
        if self._process is None:
            return 0
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        try:
            return self._process.wait(timeout=TIMEOUT_S)
        finally:
            self._process.kill()
            self._process = None

    def wait_for_exit(self) -> int:
        """Wait until the node ends by itself and return its exit status."""
        assert self._process is not None
        return self._process.wait(timeout=TIMEOUT_S)

    @property
    def pid(self) -> int:
        """Process id of the node."""
        assert self._process is not None
        return self._process.pid

    def node_is_alive(self) -> bool:
        """Return whether the node's process runs."""
        return self._process is not None and self._process.poll() is None

    def log(self) -> str:
        """Return what the node has printed."""
        return self._log.read_text(errors="replace")

    def wait_for_node(self) -> None:
        """Wait until the node listens to the camera and publishes to every listener."""
        self.until(
            lambda: (
                self.info_publisher.get_subscription_count() > 0
                and (
                    self.image_publisher.get_subscription_count()
                    + self.compressed_publisher.get_subscription_count()
                )
                > 0
                and all(
                    self.node.count_publishers(self.resolve(topic)) > 0 for topic in self.received
                )
            ),
            "the node to listen and publish",
        )

    # Input

    def header(self, stamp_ns: int, frame_id: str = CAMERA_FRAME) -> Header:
        """Return a header."""
        seconds, nanoseconds = divmod(stamp_ns, 1_000_000_000)
        return Header(stamp=Time(sec=seconds, nanosec=nanoseconds), frame_id=frame_id)

    def send_info(self, intrinsics: Intrinsics = INTRINSICS) -> None:
        """Publish a CameraInfo and wait until the node knows it."""
        self.send_info_message(camera_info_from_intrinsics(intrinsics, self.header(START_NS)))

    def send_info_message(self, info: CameraInfo) -> None:
        """Publish a CameraInfo message and wait until the node knows it."""
        since = len(self.received["/diagnostics"])
        self.info_publisher.publish(info)
        known = f"{info.width}x{info.height}, fx {info.k[0]:g}"
        self.until(
            lambda: any(
                pair.value == known
                for array in self.received["/diagnostics"][since:]
                for status in array.status
                for pair in status.values
            ),
            "the node to know the camera_info",
        )

    def send_image(
        self, stamp_ns: int, image: np.ndarray, encoding: str = "rgb8", frame_id: str = CAMERA_FRAME
    ) -> None:
        """Publish an Image."""
        header = self.header(stamp_ns, frame_id)
        self.image_publisher.publish(image_from_array(image, encoding, header))

    def send_jpeg(self, stamp_ns: int, image: np.ndarray, *, num_bytes: int | None = None) -> None:
        """Publish a JPEG of an RGB picture, cut off after ``num_bytes``."""
        encoded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()
        msg = CompressedImage(header=self.header(stamp_ns), format="jpeg", data=encoded[:num_bytes])
        self.compressed_publisher.publish(msg)

    # Output

    def resolve(self, topic: str) -> str:
        """Return the full name of a topic."""
        return topic if topic.startswith("/") else f"{self.namespace}/{topic}"

    def listen(self, topic: str, msg_type: type, qos: QoSProfile | int = 50) -> None:
        """Keep every message of a topic in ``received[topic]``."""
        messages = self.received.setdefault(topic, [])
        self.node.create_subscription(msg_type, self.resolve(topic), messages.append, qos)

    def wait_for(
        self, topic: str, condition: Callable[[Any], bool] = lambda _: True, since: int = 0
    ) -> Any:
        """Wait for a message that fulfils a condition and return it."""
        found: list[Any] = []

        def look() -> bool:
            found[:] = [m for m in self.received[topic][since:] if condition(m)]
            return bool(found)

        self.until(look, f"a message on {topic}")
        return found[0]

    def wait_for_stamp(self, topic: str, stamp_ns: int) -> Any:
        """Wait for the message of a topic that carries a stamp and return it."""
        return self.wait_for(topic, lambda m: stamp_of(m) == stamp_ns)

    def wait_for_status(self, part: str, text: str) -> DiagnosticStatus:
        """Wait until the node's status ``part`` has ``text`` in its message and return it."""
        name = f"{self.namespace}/coopnet: {part}".lstrip("/")
        found: list[DiagnosticStatus] = []
        seen: set[str] = set()

        def look() -> bool:
            for array in list(self.received["/diagnostics"]):
                for status in array.status:
                    if status.name == name:
                        seen.add(status.message)
                        if text in status.message:
                            found.append(status)
            return bool(found)

        try:
            self.until(look, f"'{text}' in status '{name}'")
        except AssertionError as error:
            raise AssertionError(f"{error}\nseen instead: {sorted(seen)}") from None
        return found[-1]

    def call(self, name: str, service_type: Any, request: Any) -> Any:
        """Call a service of the node and return the response."""
        future = self.ask(name, service_type, request)
        self.until(future.done, f"an answer of {name}")
        return future.result()

    def ask(self, name: str, service_type: Any, request: Any) -> Any:
        """Call a service of the node and return the future of the response."""
        client = self._clients.get(name)
        if client is None:
            client = self.node.create_client(service_type, self.resolve(name))
            self._clients[name] = client
        self.until(client.service_is_ready, f"service {name}")
        return client.call_async(request)

    def set_parameter(self, name: str, value: Any) -> Any:
        """Set a parameter of the node and return the result."""
        parameters = [Parameter(name, value=value).to_parameter_msg()]
        request = SetParameters.Request(parameters=parameters)
        return self.call("coopnet/set_parameters", SetParameters, request).results[0]

    def get_parameter(self, name: str) -> str:
        """Return a text parameter of the node."""
        request = GetParameters.Request(names=[name])
        answer = self.call("coopnet/get_parameters", GetParameters, request)
        return str(answer.values[0].string_value)

    def until(self, condition: Callable[[], bool], what: str, timeout_s: float = TIMEOUT_S) -> None:
        """Wait until a condition holds; fail with the node's log if it does not."""
        end_s = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > end_s:
                raise AssertionError(
                    f"waited {timeout_s:g} s for {what}; node's log:\n{self.log()}"
                )
            time.sleep(0.01)


def stamp_of(msg: Any) -> int:
    """Return the stamp of a message in nanoseconds."""
    return int(msg.header.stamp.sec) * 1_000_000_000 + int(msg.header.stamp.nanosec)


def _yaml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (str, Path)):
        return f"'{value}'"
    return str(value)
