"""Publish a bag or a folder of images as a camera would: ``replay_node SOURCE [--ros-args ...]``.

It waits until subscribers have matched, publishes reliably, and waits at the end until they have
acknowledged everything, so that nothing is lost at either end. Where ROS 2 is installed,
``ros2 bag play BAG --clock`` does the same for a bag without the waiting.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import time
from pathlib import Path
from typing import Any

import rclpy
from rclpy.duration import Duration
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter as RosParameter
from rclpy.publisher import Publisher
from rclpy.qos import QoSDurabilityPolicy, QoSProfile, QoSReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import remove_ros_args
from rosbags.interfaces import QosDurability
from rosgraph_msgs.msg import Clock

from coopnet_core.data.bag_reader import (
    CAMERA_INFO_TYPE,
    IMAGE_TYPES,
    BagMessage,
    BagTopic,
    describe_topics,
)
from coopnet_core.errors import ConfigError, CoopNetError, DataError, RuntimeUnavailableError
from coopnet_ros.dds import enlarge_shared_memory, log_profile
from coopnet_ros.message_types import message_class
from coopnet_ros.parameters import Parameter, declare_table
from coopnet_ros.replay_source import DecodedSource, Source, open_source
from coopnet_ros.stop_flag import StopFlag

# Deep enough for a subscriber that pauses for seconds; the history of a reliable publisher is what
# is left to send again.
_HISTORY_DEPTH = 200
_CLOCK_TOPIC = "/clock"
_CLOCK_PERIOD_S = 0.02
_PROGRESS_PERIOD_S = 1.0
# Images that tell at which rate they were recorded.
_RATE_MESSAGES = 100
# After the awaited subscribers have come, the rest is given the time of a discovery round.
_SETTLE_S = 0.5
_ACKNOWLEDGE_S = 3.0

PARAMETERS = (
    Parameter("source", "", "Bag or image folder."),
    Parameter("calibration", "", "Calibration file of an image folder."),
    Parameter("frame_id", "camera_optical_frame", "Camera frame of an image folder."),
    Parameter("rate", 0.0, "Image rate [Hz]; 0: as recorded.", 0.0, 1e9),
    Parameter("loop", False, "Start again at the end."),
    Parameter("start_offset_s", 0.0, "Time to leave out at the start [s].", 0.0, 1e9),
    Parameter("decode", False, "Publish compressed images as raw Image."),
    Parameter("clock", True, "Publish /clock in the time of the source."),
    Parameter("topics", [""], "Topics to publish; empty: all."),
    Parameter(
        "wait_for_subscribers", 1, "Start when each image topic has that many of them.", 0, 100
    ),
    Parameter("wait_timeout_s", 10.0, "Longest time to wait for them [s].", 0.0, 1e9),
)


class ReplayNode(Node):  # type: ignore[misc]  # rclpy has no types
    """Publishes the messages of a bag or an image folder in their own time."""

    def __init__(self, stop: StopFlag, **node_options: Any) -> None:
        """Declare parameters, open the source and create its publishers.

        Args:
            stop: Ends ``run`` early.
            node_options: Passed on to ``rclpy.node.Node``.

        Raises:
            CoopNetError: The source is missing or damaged, or a parameter makes no sense.
        """
        super().__init__("replay_node", **node_options)
        self._stop = stop
        declare_table(self, PARAMETERS)
        path = self._string("source")
        if not path:
            raise ConfigError(
                "no source: give a bag or an image folder, "
                "as in 'replay_node demo/kitti_03' or -p source:=demo/kitti_03"
            )
        self._source: Source = open_source(
            path, self._string("calibration") or None, self._string("frame_id")
        )
        if self.get_parameter("decode").value:
            self._source = DecodedSource(self._source)
        self._topics = self._chosen_topics()
        self._speed = self._speed_for(float(self.get_parameter("rate").value))
        self._replay_publishers = self._create_publishers()
        self._clock_publisher: Publisher | None = None
        self._clock_ns = -1
        if self.get_parameter("clock").value:
            self._clock_publisher = self.create_publisher(Clock, _CLOCK_TOPIC, 10)
        self._progress_s = 0.0
        # Parameters are served in the pauses between messages: one thread, so nothing to race.
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self)
        self.published: dict[str, int] = dict.fromkeys(self._replay_publishers, 0)
        self.get_logger().info(
            f"replaying {path} at {self._speed:.3g} x recorded speed: "
            f"{describe_topics([self._source.topics[name] for name in self._replay_publishers])}"
        )

    def run(self) -> None:
        """Wait for subscribers, publish everything, wait until it has arrived.

        Raises:
            DataError: The source turned out to be damaged on the way, or the start offset lies
                behind its end.
        """
        first_ns = self._source.start_ns
        first_ns += round(float(self.get_parameter("start_offset_s").value) * 1e9)
        if first_ns > self._source.end_ns:
            length_s = (self._source.end_ns - self._source.start_ns) / 1e9
            raise DataError(
                f"start_offset_s lies behind the end: the source is {length_s:.2f} s long"
            )
        self._publish_latched(first_ns)
        self._wait_for_subscribers()
        while not self._stop.is_set:
            self._publish_once(first_ns)
            if self._stop.is_set or not self.get_parameter("loop").value:
                break
            self.get_logger().info("end of the source, starting again")
            self._pause(time.monotonic() + 0.1)
        self._wait_until_acknowledged()
        self._log_progress("done: ")

    def destroy_node(self) -> None:
        """Close the source and the node."""
        if hasattr(self, "_executor"):
            self._executor.shutdown()
        if hasattr(self, "_source"):
            self._source.close()
        super().destroy_node()

    def _string(self, name: str) -> str:
        return str(self.get_parameter(name).value)

    def _chosen_topics(self) -> list[BagTopic]:
        chosen = [str(name) for name in self.get_parameter("topics").value if name]
        unknown = sorted(set(chosen) - set(self._source.topics))
        if unknown:
            raise ConfigError(
                f"no topic {', '.join(unknown)} in the source, "
                f"choose from: {describe_topics(self._source.topics.values())}"
            )
        topics = [t for t in self._source.topics.values() if not chosen or t.name in chosen]
        if self.get_parameter("clock").value and any(t.name == _CLOCK_TOPIC for t in topics):
            self.get_logger().info(
                f"{_CLOCK_TOPIC} of the source is left out: this node publishes its own, "
                "clock:=false replays the recorded one"
            )
            topics = [topic for topic in topics if topic.name != _CLOCK_TOPIC]
        return topics

    def _speed_for(self, rate_hz: float) -> float:
        if rate_hz == 0.0:
            return 1.0
        images = [topic for topic in self._topics if topic.msgtype in IMAGE_TYPES]
        stamps_ns: list[int] = []
        if images:
            # Of the images alone: another topic of the bag may go on for hours.
            name = max(images, key=lambda topic: topic.count).name
            messages = self._source.messages([name])
            stamps_ns = [m.stamp_ns for m in itertools.islice(messages, _RATE_MESSAGES)]
        if len(stamps_ns) < 2 or stamps_ns[-1] <= stamps_ns[0]:
            raise ConfigError(
                "rate needs at least two images to know the recorded rate; the chosen topics "
                f"are: {describe_topics(self._topics)}"
            )
        return rate_hz * (stamps_ns[-1] - stamps_ns[0]) / 1e9 / (len(stamps_ns) - 1)

    def _create_publishers(self) -> dict[str, Publisher]:
        publishers: dict[str, Publisher] = {}
        for topic in self._topics:
            try:
                kind = message_class(topic.msgtype)
            except RuntimeUnavailableError as error:
                self.get_logger().warning(f"{topic.name} is left out: {error}")
                continue
            qos = QoSProfile(
                depth=_HISTORY_DEPTH,
                reliability=QoSReliabilityPolicy.RELIABLE,
                durability=(
                    QoSDurabilityPolicy.TRANSIENT_LOCAL
                    if _is_latched(topic)
                    else QoSDurabilityPolicy.VOLATILE
                ),
            )
            publishers[topic.name] = self.create_publisher(kind, topic.name, qos)
        return publishers

    def _wait_for_subscribers(self) -> None:
        wanted = int(self.get_parameter("wait_for_subscribers").value)
        if wanted == 0:
            return
        camera = (*IMAGE_TYPES, CAMERA_INFO_TYPE)
        awaited = [
            self._replay_publishers[topic.name]
            for topic in self._topics
            if topic.msgtype in camera and topic.name in self._replay_publishers
        ] or list(self._replay_publishers.values())
        deadline = time.monotonic() + float(self.get_parameter("wait_timeout_s").value)
        counts: list[int] = []
        settled_at = time.monotonic() + _SETTLE_S
        while not self._stop.is_set:
            now = time.monotonic()
            found = [p.get_subscription_count() for p in self._replay_publishers.values()]
            missing = [p for p in awaited if p.get_subscription_count() < wanted]
            if missing or found != counts:
                settled_at = now + _SETTLE_S
            counts = found
            if now >= settled_at:
                return
            if now >= deadline:
                names = ", ".join(publisher.topic_name for publisher in missing)
                if missing:
                    self.get_logger().warning(
                        f"started with fewer than {wanted} subscriber(s) on {names}: their first "
                        "messages may be missing; is the node running, in the same ROS_DOMAIN_ID?"
                    )
                return
            self._executor.spin_once(timeout_sec=_CLOCK_PERIOD_S)

    def _publish_latched(self, first_ns: int) -> None:
        """Publish what a subscriber must know before the first image, such as ``/tf_static``.

        It may lie before the start offset, where playing it in time would leave it out.
        """
        latched = [
            name for name in self._replay_publishers if _is_latched(self._source.topics[name])
        ]
        if not latched:
            return
        for message in self._source.messages(latched):
            if message.stamp_ns > first_ns:
                break
            self._publish(message)

    def _publish(self, message: BagMessage) -> None:
        self._replay_publishers[message.topic].publish(message.data)
        self.published[message.topic] += 1

    def _publish_once(self, first_ns: int) -> None:
        anchor_s, anchor_ns = time.monotonic(), first_ns
        for message in self._source.messages(list(self._replay_publishers), first_ns):
            if message.stamp_ns == first_ns and _is_latched(self._source.topics[message.topic]):
                continue
            due_s = anchor_s + (message.stamp_ns - anchor_ns) / 1e9 / self._speed
            self._pause(due_s, message.stamp_ns)
            if self._stop.is_set:
                return
            self._publish_clock(message.stamp_ns)
            self._publish(message)
            if time.monotonic() - self._progress_s > _PROGRESS_PERIOD_S:
                self._log_progress()

    def _pause(self, due_s: float, stamp_ns: int | None = None) -> None:
        """Sleep until ``due_s`` (monotonic); the clock runs on towards ``stamp_ns``."""
        while not self._stop.is_set:
            remaining_s = due_s - time.monotonic()
            if remaining_s <= 0:
                return
            if stamp_ns is not None:
                self._publish_clock(stamp_ns - round(remaining_s * self._speed * 1e9))
            self._executor.spin_once(timeout_sec=min(remaining_s, _CLOCK_PERIOD_S))

    def _publish_clock(self, stamp_ns: int) -> None:
        if self._clock_publisher is None or stamp_ns == self._clock_ns:
            return
        self._clock_ns = stamp_ns
        clock = Clock()
        clock.clock.sec, clock.clock.nanosec = divmod(max(0, stamp_ns), 10**9)
        self._clock_publisher.publish(clock)

    def _wait_until_acknowledged(self) -> None:
        deadline = time.monotonic() + _ACKNOWLEDGE_S
        for publisher in self._replay_publishers.values():
            remaining_s = max(0.0, deadline - time.monotonic())
            if self._stop.is_set:
                return
            if not publisher.wait_for_all_acked(Duration(seconds=remaining_s)):
                self.get_logger().warning(
                    f"subscribers of {publisher.topic_name} have not acknowledged every message"
                )

    def _log_progress(self, before: str = "") -> None:
        self._progress_s = time.monotonic()
        total = sum(self._source.topics[name].count for name in self.published)
        text = f"{before}published {sum(self.published.values())} of {total} messages"
        self.get_logger().info(text)


def main(argv: list[str] | None = None) -> int:
    """Run the node; returns the exit status."""
    arguments = sys.argv if argv is None else ["replay_node", *argv]
    parser = argparse.ArgumentParser(
        prog="replay_node",
        description="Publish a bag or a folder of images as a camera would.",
        epilog="Parameters (rate, loop, start_offset_s, decode, ...) follow --ros-args -p; "
        "'ros2 param describe /replay_node rate' explains them.",
    )
    parser.add_argument("source", nargs="?", type=Path, help="bag or image folder")
    own = parser.parse_args(remove_ros_args(arguments)[1:])
    overrides = [] if own.source is None else [RosParameter("source", value=str(own.source))]
    profile = enlarge_shared_memory(os.environ)
    stop = StopFlag()
    rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
    node: ReplayNode | None = None
    try:
        node = ReplayNode(stop, parameter_overrides=overrides)
        log_profile(node.get_logger(), profile)
        node.run()
        return 0
    except CoopNetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()


def _is_latched(topic: BagTopic) -> bool:
    return any(qos.durability is QosDurability.TRANSIENT_LOCAL for qos in topic.qos)


if __name__ == "__main__":
    sys.exit(main())
