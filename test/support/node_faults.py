"""What goes wrong around a camera, as functions: each throws a number of things at a node.

A fault may leave anything behind but a node that is gone: ``Target.recover`` brings back the good
camera, and the node has to answer it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rclpy
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from node_watch import Watch
from rcl_interfaces.srv import SetParameters, SetParametersAtomically
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from ros_harness import CAMERA_FRAME, HEIGHT, INTRINSICS, PERIOD_NS, START_NS, WIDTH, Harness
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_srvs.srv import Trigger
from tiny_bundle import textured_image

from coopnet_core.data.ros_images import ENCODINGS
from coopnet_core.geometry.intrinsics import Intrinsics
from coopnet_ros.camera_info import camera_info_from_intrinsics
from coopnet_ros.image_messages import image_from_array
from coopnet_ros.outputs import TOPICS

# A healthy camera gets its answer within this time, whatever was before.
ANSWER_S = 10.0
# Services keep ten requests that are not answered yet, the rest is lost: so it is in ROS.
MAX_CALLS = 8
PICTURE = textured_image(WIDTH, HEIGHT)
Rng = np.random.Generator


def jpeg(picture: np.ndarray, suffix: str = ".jpg") -> bytes:
    return bytes(cv2.imencode(suffix, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1])


JPEG, PNG = jpeg(PICTURE), jpeg(PICTURE, ".png")


class Target:
    """A node under test, its camera, and who looks at what it publishes.

    Args:
        harness: Of the running node.
        watch: Looks at what it publishes.
        good_bundles: Bundles that work; the node was started with the first one.
        bad_bundles: Bundles that do not.
        neighbour: Command of a process with a camera and listeners of its own; the domain, the
            namespace and the stamp of its first image follow as arguments.
    """

    def __init__(
        self,
        harness: Harness,
        watch: Watch,
        good_bundles: list[Path],
        bad_bundles: list[Path],
        neighbour: tuple[str, ...],
        *,
        is_compressed: bool,
    ) -> None:
        self.harness, self.watch, self.is_compressed = harness, watch, is_compressed
        self.good_bundles, self.bad_bundles = good_bundles, bad_bundles
        self._neighbour = neighbour
        self._stamp_ns = START_NS
        self._lock = threading.Lock()

    # The camera

    def next_stamp(self, num: int = 1) -> int:
        """Return the stamp of the next good image, and leave room for ``num``."""
        with self._lock:
            stamp_ns = self._stamp_ns
            self._stamp_ns += num * PERIOD_NS
        return stamp_ns

    def send(
        self,
        stamp_ns: int | None = None,
        picture: np.ndarray = PICTURE,
        frame_id: str = CAMERA_FRAME,
    ) -> int:
        """Send a picture over the transport that the node listens to; return its stamp."""
        stamp_ns = self.next_stamp() if stamp_ns is None else stamp_ns
        if self.is_compressed:
            data = JPEG if picture is PICTURE else jpeg(picture)
            self.send_message(CompressedImage(format="jpeg", data=data), stamp_ns, frame_id)
        else:
            header = self.harness.header(stamp_ns, frame_id)
            encoding = "mono8" if picture.ndim == 2 else "rgb8"
            self.send_message(image_from_array(picture, encoding, header), stamp_ns, frame_id)
        return stamp_ns

    def send_message(
        self, msg: Image | CompressedImage, stamp_ns: int, frame_id: str = CAMERA_FRAME
    ) -> None:
        """Send any message as an image."""
        self.watch.expect(stamp_ns, frame_id)
        msg.header = self.harness.header(stamp_ns, frame_id)
        is_compressed = isinstance(msg, CompressedImage)
        harness = self.harness
        (harness.compressed_publisher if is_compressed else harness.image_publisher).publish(msg)

    def send_info(self, intrinsics: Intrinsics = INTRINSICS) -> CameraInfo:
        """Send a good calibration."""
        info = camera_info_from_intrinsics(intrinsics, self.harness.header(START_NS))
        self.harness.info_publisher.publish(info)
        return info

    @contextmanager
    def traffic(self, rate_hz: float = 30.0) -> Iterator[None]:
        """Send good images in the background."""
        is_over = threading.Event()

        def drive() -> None:
            while not is_over.wait(1 / rate_hz):
                self.send()

        thread = threading.Thread(target=drive)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()

    # The node

    def signal_node(self, number: signal.Signals) -> None:
        """Send the node's process a signal."""
        os.kill(self.harness.pid, number)

    def state(self) -> int:
        """Return the node's lifecycle state."""
        answer = self._call("get_state", GetState, GetState.Request())
        return int(answer.current_state.id)

    def change_state(self, transition: int) -> bool:
        """Ask for a transition and return whether it has succeeded."""
        request = ChangeState.Request(transition=Transition(id=transition))
        return bool(self._call("change_state", ChangeState, request).success)

    def set_parameters(self, **values: Any) -> list[Any]:
        """Set parameters, each on its own; return the results."""
        parameters = [Parameter(n, value=v).to_parameter_msg() for n, v in values.items()]
        request = SetParameters.Request(parameters=parameters)
        return list(self._call("set_parameters", SetParameters, request).results)

    def ask(self, name: str, service_type: Any, request: Any) -> Any:
        """Call a service of the node and return the future of the response."""
        return self.harness.ask(f"coopnet/{name}", service_type, request)

    def _call(self, name: str, service_type: Any, request: Any) -> Any:
        future = self.ask(name, service_type, request)
        self.until(future.done, f"an answer of {name}")
        return future.result()

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for something that has to come; a stuck node is an AssertionError."""

        def is_over() -> bool:
            return condition() or not self.harness.node_is_alive()

        self.harness.until(is_over, what, ANSWER_S)
        assert self.harness.node_is_alive(), "the node has died"

    def next_status(self, part: str) -> tuple[str, dict[str, str]]:
        """Wait for a status that was made after this call; return its message and values."""
        since, _, _ = self.watch.status(part)
        self.until(lambda: self.watch.status(part)[0] >= since + 2, f"the status {part}")
        return self.watch.status(part)[1:]

    def recover(self) -> float:
        """Bring back a good camera, and hold the node to its answers.

        Returns:
            Seconds from the first good image to its odometry.

        Raises:
            AssertionError: No answer within ``ANSWER_S``: the node is stuck or gone.
        """
        state = self.state()
        if state == State.PRIMARY_STATE_UNCONFIGURED:
            assert self.change_state(Transition.TRANSITION_CONFIGURE), "cannot configure"
            state = self.state()
        if state == State.PRIMARY_STATE_INACTIVE:
            assert self.change_state(Transition.TRANSITION_ACTIVATE), "cannot activate"
        harness = self.harness
        camera = harness.compressed_publisher if self.is_compressed else harness.image_publisher
        self.until(
            lambda: min(p.get_subscription_count() for p in (camera, harness.info_publisher)) > 0,
            "the node to listen",
        )
        info = self.send_info()
        known = f"{info.width}x{info.height}, fx {info.k[0]:g}"
        self.until(
            lambda: self.next_status("input")[1].get("camera_info") == known,
            "the node to know camera_info",
        )
        start_s = time.monotonic()
        stamp_ns = self.send()
        self.until(lambda: self.watch.is_answered("~/odom", [stamp_ns]), "odometry of a good image")
        answer_s = time.monotonic() - start_s
        self.until(self._is_well, "every output of good images, and the speed that they show")
        return answer_s

    def _is_well(self) -> bool:
        """Send a good image; return whether all of its outputs come, and the right odometry.

        One image is not enough: a bundle that was still loading starts anew.
        """
        stamp_ns = self.send()
        # The path has a period of its own.
        missing = [topic for topic in TOPICS if topic != "~/path"]
        end_s = time.monotonic() + 1.0
        while missing and time.monotonic() < end_s:
            missing = [t for t in missing if not self.watch.is_answered(t, [stamp_ns])]
            time.sleep(0.005)
        # The networks say that the camera goes to the left.
        return not missing and self.watch.last["~/odom"].twist.twist.linear.y > 0.5

    # Others on the network

    @contextmanager
    def neighbour(self) -> Iterator[subprocess.Popen[bytes]]:
        """Run a camera with listeners in a process that is killed at the end."""
        first_ns = self.next_stamp(1000)
        stamps = range(first_ns, first_ns + 1000 * PERIOD_NS, PERIOD_NS)
        self.watch.expect_stream(stamps)
        harness = self.harness
        arguments = [str(harness.domain), harness.namespace, str(first_ns)]
        if self.is_compressed:
            arguments.append("compressed")
        process = subprocess.Popen(
            [sys.executable, *self._neighbour, *arguments], env=harness.environment()
        )
        try:
            self.until(lambda: self.watch.is_answered("~/odom", stamps), "the other camera")
            yield process
        finally:
            process.kill()
            process.wait()


def run_neighbour(domain: int, namespace: str, first_ns: int, *, is_compressed: bool) -> None:
    """Be a camera with 20 Hz and listen to every output, until the process is killed."""
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=domain)
    node = rclpy.create_node(
        "neighbour", namespace=namespace, context=context, use_global_arguments=False
    )
    for topic, msg_type in TOPICS.items():
        name = f"{namespace}/coopnet{topic.removeprefix('~')}"
        node.create_subscription(msg_type, name, lambda _: None, 10)
    reliable = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)
    topic = "image/compressed" if is_compressed else "image"
    msg_type = CompressedImage if is_compressed else Image
    camera = node.create_publisher(msg_type, topic, reliable)
    calibration = node.create_publisher(CameraInfo, "camera_info", reliable)
    executor = rclpy.executors.SingleThreadedExecutor(context=context)
    executor.add_node(node)
    count = 0
    while context.ok():
        header = Harness.header(None, first_ns + count * PERIOD_NS)  # type: ignore[arg-type]
        calibration.publish(camera_info_from_intrinsics(INTRINSICS, header))
        if is_compressed:
            camera.publish(CompressedImage(header=header, format="jpeg", data=JPEG))
        else:
            camera.publish(image_from_array(PICTURE, "rgb8", header))
        count += camera.get_subscription_count() > 0
        executor.spin_once(timeout_sec=0.05)


# Faults: each returns how many things it has thrown


def stamps(target: Target, rng: Rng) -> int:
    """Backwards, gaps, the same again, zero, far future."""
    num = int(rng.integers(5, 30))
    stamp_ns = target.next_stamp()
    for _ in range(num):
        choices = [
            stamp_ns - int(rng.integers(1, 10**11)),
            stamp_ns + int(rng.integers(1, 10**11)),
            stamp_ns + 1,
            stamp_ns,
            0,
            (2**31 - 1) * 10**9 + 999_999_999,
            target.next_stamp(),
        ]
        stamp_ns = max(0, choices[int(rng.integers(len(choices)))])
        target.send(min(stamp_ns, choices[5]))
        time.sleep(float(rng.uniform(0, 0.03)))
    return num


def sizes(target: Target, rng: Rng) -> int:
    """Pictures of any size, with or without a calibration that fits."""
    num = int(rng.integers(3, 12))
    for _ in range(num):
        limit = int(rng.choice([4, 64, 700, 2000]))
        width, height = (int(number) for number in rng.integers(1, limit, 2))
        picture = cv2.resize(PICTURE, (width, height))
        if rng.random() < 0.3:
            picture = picture[..., 0]
        if rng.random() < 0.7:
            center = ((width - 1) / 2, (height - 1) / 2)
            target.send_info(Intrinsics(width, height, float(width), float(width), *center))
            time.sleep(0.02)
        target.send(picture=picture)
        time.sleep(float(rng.uniform(0, 0.1)))
    return num


def encodings(target: Target, rng: Rng) -> int:
    """Every encoding there is, and some that are not; step, size and data that do not fit."""
    num = int(rng.integers(5, 25))
    names = [*ENCODINGS, "bayer_rggb8", "yuv422", "nv21", "64FC4", "", "RGB8", "größe8"]
    for _ in range(num):
        msg = Image(encoding=str(rng.choice(names)), width=WIDTH, height=HEIGHT)
        code, channels = ENCODINGS.get(msg.encoding, ("u1", 3))
        msg.step = WIDTH * channels * np.dtype(code).itemsize
        msg.is_bigendian = int(rng.integers(0, 2))
        msg.data = rng.bytes(msg.step * HEIGHT)
        damage = rng.integers(0, 8)
        if damage == 0:
            msg.step = int(rng.choice([0, 1, msg.step - 1, msg.step + 7, 2**32 - 1]))
        elif damage == 1:
            msg.data = msg.data[: int(rng.integers(0, len(msg.data)))]
        elif damage == 2:
            msg.width = int(rng.choice([0, 1, WIDTH + 1, 2**32 - 1]))
        elif damage == 3:
            msg.height = int(rng.choice([0, 1, HEIGHT + 1, 2**32 - 1]))
        target.send_message(msg, target.next_stamp())
        time.sleep(float(rng.uniform(0, 0.03)))
    return num


def damaged_jpeg(target: Target, rng: Rng) -> int:
    """Cut off, bits turned over, headers that lie, and what is no JPEG at all."""
    num = int(rng.integers(10, 40))
    formats = ["jpeg", "png", "", "rgb8; jpeg compressed bgr8", "32FC1; compressedDepth png"]
    for _ in range(num):
        data = bytearray(PNG if rng.random() < 0.3 else JPEG)
        damage = rng.integers(0, 6)
        if damage == 0:
            data = data[: int(rng.integers(0, len(data)))]
        elif damage == 1:
            for position in rng.integers(2, len(data), int(rng.integers(1, 20))):
                data[position] ^= 1 << int(rng.integers(0, 8))
        elif damage == 2:  # cut off, and the end marker behind
            data = data[: int(rng.integers(2, len(data)))] + b"\xff\xd9"
        elif damage == 3:  # a size that nobody has
            frame = data.find(b"\xff\xc0")
            if frame > 0:
                data[frame + 5 : frame + 9] = rng.bytes(4)
        elif damage == 4:
            data = bytearray(rng.choice([b"", b"GIF89a", b"\xff\xd8", b"\x89PNG\r\n\x1a\n"]))
        msg = CompressedImage(format=str(rng.choice(formats)), data=bytes(data))
        target.send_message(msg, target.next_stamp())
        time.sleep(float(rng.uniform(0, 0.03)))
    return num


def calibrations(target: Target, rng: Rng) -> int:
    """Other cameras, and impossible ones: zeros, NaN, wrong models, binning, regions."""
    num = int(rng.integers(5, 20))
    odd = [0.0, -1.0, 1e-300, 1e-3, 1e6, 1e9, 1e300, float("nan"), float("inf")]
    for _ in range(num):
        focal = float(rng.choice([10.0, 100.0, 128.0, 1e4]))
        center = (float(rng.uniform(0, WIDTH)), float(rng.uniform(0, HEIGHT)))
        intrinsics = Intrinsics(WIDTH, HEIGHT, focal, focal, *center)
        info = camera_info_from_intrinsics(intrinsics, target.harness.header(START_NS))
        damage = rng.integers(0, 9)
        if damage in (0, 1, 2):
            numbers = [info.k, info.p, info.r][int(damage)]
            numbers[int(rng.integers(0, len(numbers)))] = float(rng.choice(odd))
        elif damage == 3:
            info.d = [float(value) for value in rng.normal(0, 0.3, int(rng.integers(0, 15)))]
            models = ["plumb_bob", "rational_polynomial", "equidistant", "", "thin_prism"]
            info.distortion_model = str(rng.choice(models))
        elif damage == 4:
            info.d = [float(value) for value in rng.choice(odd, 5)]
        elif damage == 5:
            info.width, info.height = (int(n) for n in rng.choice([0, 1, WIDTH, 2**32 - 1], 2))
        elif damage == 6:
            info.binning_x, info.binning_y = (int(n) for n in rng.choice([0, 1, 2, 2**32 - 1], 2))
        elif damage == 7:
            info.roi.x_offset, info.roi.y_offset = (
                int(n) for n in rng.choice([0, 5, 2**32 - 1], 2)
            )
            info.roi.width, info.roi.height = (int(n) for n in rng.choice([1, WIDTH, 2**32 - 1], 2))
        target.harness.info_publisher.publish(info)
        time.sleep(0.02)
        for _ in range(int(rng.integers(1, 4))):
            target.send()
            time.sleep(float(rng.uniform(0, 0.03)))
    return num


def frames(target: Target, rng: Rng) -> int:
    """Images of several cameras on one topic."""
    num = int(rng.integers(3, 12))
    for _ in range(num):
        names = [CAMERA_FRAME, "other_camera", "", "base_link", "odom", "/slash", "käme ra"]
        target.send(frame_id=str(rng.choice(names)))
        time.sleep(float(rng.uniform(0, 0.05)))
    return num


def no_camera_info(target: Target, rng: Rng) -> int:
    """Images before the first calibration."""
    assert target.change_state(Transition.TRANSITION_DEACTIVATE)
    assert target.change_state(Transition.TRANSITION_ACTIVATE)
    num = int(rng.integers(3, 12))
    for _ in range(num):
        target.send()
        time.sleep(float(rng.uniform(0, 0.05)))
    return num


def camera_restarts(target: Target, rng: Rng) -> int:
    """A camera in another process that is killed, or stands still before; and comes back."""
    num = int(rng.integers(1, 3))
    for _ in range(num):
        with target.neighbour() as process:
            time.sleep(float(rng.uniform(0.1, 0.5)))
            if rng.random() < 0.5:
                # Its listeners are reliable and answer no more, until they are gone for good.
                process.send_signal(signal.SIGSTOP)
                with target.traffic():
                    time.sleep(float(rng.uniform(0.2, 1.0)))
    return num


def stopped_process(target: Target, rng: Rng) -> int:
    """SIGSTOP and SIGCONT while images come."""
    num = int(rng.integers(1, 6))
    with target.traffic():
        for _ in range(num):
            target.signal_node(signal.SIGSTOP)
            time.sleep(float(rng.choice([0.01, 0.2, 1.5])))
            target.signal_node(signal.SIGCONT)
            time.sleep(float(rng.choice([0.0, 0.01, 0.2])))
    return num


# name, value, whether the node must take it
_SETTINGS: tuple[tuple[str, Any, bool], ...] = (
    ("path_period_s", 0.0, True),
    ("path_period_s", 0.5, True),
    ("path_period_s", 60.5, False),
    ("path_period_s", float("nan"), False),
    ("path_period_s", "0.5", False),
    ("no_image_warning_s", 0.5, True),
    ("no_image_warning_s", 5.0, True),
    ("no_image_warning_s", -1.0, False),
    ("no_image_warning_s", float("inf"), False),
    ("odom_frame", "other", False),
    ("camera_mounting", "tf", False),
    ("camera_xyz_rpy", [1.0], False),
    ("max_gap_s", 2.0, False),
    ("num_threads", 1, False),
    ("no_such_parameter", 1, False),
    ("use_sim_time", "yes", False),
)


def parameters(target: Target, rng: Rng) -> int:
    """Good and bad values in quick succession, alone and together."""
    num = int(rng.integers(10, 40))
    with target.traffic():
        for _ in range(num):
            name, value, is_good = _SETTINGS[int(rng.integers(len(_SETTINGS)))]
            if rng.random() < 0.2:
                both = [Parameter(name, value=value), Parameter("path_period_s", value=0.1)]
                request = SetParametersAtomically.Request(
                    parameters=[parameter.to_parameter_msg() for parameter in both]
                )
                future = target.ask("set_parameters_atomically", SetParametersAtomically, request)
                target.until(future.done, "an answer of set_parameters_atomically")
                result = future.result().result
            else:
                (result,) = target.set_parameters(**{name: value})
            if result.successful != is_good:
                verb = "refused" if is_good else "taken"
                target.watch.violations.append(f"{name}={value!r} was {verb}: {result.reason}")
        target.set_parameters(path_period_s=0.0, no_image_warning_s=5.0)
    return num


def bundles(target: Target, rng: Rng) -> int:
    """Other bundles in quick succession, and some that cannot be used."""
    num = int(rng.integers(2, 8))
    bad = [*target.bad_bundles, Path("/nowhere"), Path("~nobody/bundle"), Path("/dev/null")]
    with target.traffic():
        for _ in range(num):
            paths = target.good_bundles if rng.random() < 0.6 else bad
            path = str(paths[int(rng.integers(len(paths)))])
            target.set_parameters(bundle=path)
            time.sleep(float(rng.choice([0.0, 0.05, 0.5])))

        # The parameter says what runs, in the end.
        def is_settled() -> bool:
            name = target.harness.get_parameter("bundle")
            return target.next_status("model")[1].get("path") == name

        target.until(is_settled, "the parameter `bundle` to name what runs")
    return num


def resets(target: Target, rng: Rng) -> int:
    """Many calls of ~/reset at once."""
    futures: list[Any] = []

    def are_answered() -> bool:
        return all(future.done() for future in futures)

    with target.traffic():
        for _ in range(int(rng.integers(1, 6))):
            futures += [target.ask("reset", Trigger, Trigger.Request()) for _ in range(MAX_CALLS)]
            target.until(are_answered, "answers of ~/reset")
    if not all(future.result().success for future in futures):
        target.watch.violations.append("~/reset failed in an active node")
    return len(futures)


_TRANSITIONS = (
    Transition.TRANSITION_CONFIGURE,
    Transition.TRANSITION_CLEANUP,
    Transition.TRANSITION_ACTIVATE,
    Transition.TRANSITION_DEACTIVATE,
    Transition.TRANSITION_ACTIVE_SHUTDOWN + 100,
)


def lifecycle(target: Target, rng: Rng) -> int:
    """Transitions in any order, possible or not, one by one and many at once."""
    num = int(rng.integers(5, 20))
    with target.traffic():
        futures: list[Any] = []
        for _ in range(num):
            transition = int(rng.choice(_TRANSITIONS))
            request = ChangeState.Request(transition=Transition(id=transition))
            futures.append(target.ask("change_state", ChangeState, request))
            if rng.random() < 0.3 or len(futures) % MAX_CALLS == 0:
                target.until(lambda: all(f.done() for f in futures), "answers of change_state")
        target.until(lambda: all(f.done() for f in futures), "answers of change_state")
    return num


def listeners(target: Target, rng: Rng) -> int:
    """Participants that come, listen to this and that, and go."""
    num = int(rng.integers(2, 6))
    harness = target.harness
    with target.traffic():
        for _ in range(num):
            context = rclpy.Context()
            rclpy.init(context=context, domain_id=harness.domain)
            node = rclpy.create_node(
                f"visitor{rng.integers(10**9)}",
                namespace=harness.namespace,
                context=context,
                use_global_arguments=False,
            )
            for topic in rng.choice(list(TOPICS), int(rng.integers(1, len(TOPICS)))):
                name = harness.resolve("coopnet" + topic.removeprefix("~"))
                is_reliable = rng.random() < 0.5
                qos = QoSProfile(
                    depth=int(rng.integers(1, 20)),
                    reliability=ReliabilityPolicy.RELIABLE
                    if is_reliable
                    else ReliabilityPolicy.BEST_EFFORT,
                )
                node.create_subscription(TOPICS[topic], name, lambda _: None, qos)
            time.sleep(float(rng.uniform(0, 0.3)))
            if rng.random() < 0.5:
                node.destroy_node()
            context.try_shutdown()
    return num


FAULTS: dict[str, Callable[[Target, Rng], int]] = {
    "stamps": stamps,
    "sizes": sizes,
    "encodings": encodings,
    "damaged JPEG": damaged_jpeg,
    "calibrations": calibrations,
    "camera frames": frames,
    "no camera_info": no_camera_info,
    "camera restarts": camera_restarts,
    "SIGSTOP": stopped_process,
    "parameters": parameters,
    "bundles": bundles,
    "resets": resets,
    "lifecycle": lifecycle,
    "listeners": listeners,
}
# The others are for both transports.
RAW_ONLY = frozenset({"encodings"})
COMPRESSED_ONLY = frozenset({"damaged JPEG"})
