"""Record topics to an MCAP bag: ``record -o BAG TOPIC...``.

Where ``ros2 bag record`` with its MCAP storage is installed, that one records; ``--builtin`` takes
the recorder in this file instead, which needs nothing but rclpy and ``rosbags``. It subscribes to
any message type that a publisher announces, with a QoS that the publisher can satisfy. The time of
a message in the bag is when the middleware received it.

A recorder that is killed leaves a bag without an index. What was received more than a second before
is in the file, and ``python -m coopnet_ros.bag_recovery`` makes a whole bag of it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import (
    QoSDurabilityPolicy,
    QoSHistoryPolicy,
    QoSProfile,
    QoSReliabilityPolicy,
)
from rclpy.signals import SignalHandlerOptions
from rclpy.subscription import Subscription
from rclpy.topic_endpoint_info import TopicEndpointInfo
from rclpy.utilities import remove_ros_args
from rosbags.interfaces import Qos

from coopnet_core.errors import ConfigError, CoopNetError, DataError, RuntimeUnavailableError
from coopnet_ros.bag_writer import FLUSH_INTERVAL_S, BagWriter, reliable_qos
from coopnet_ros.message_types import message_class, message_definition
from coopnet_ros.stop_flag import StopFlag

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks

# Whether rclpy tells a callback when the middleware received its message; Humble does not.
HAS_MESSAGE_INFO = hasattr(Subscription, "CallbackType")
# Messages that wait in the middleware while the disk stalls.
_QUEUE_DEPTH = 500
_DISCOVERY_PERIOD_S = 0.1


class Recorder(Node):  # type: ignore[misc]  # rclpy has no types
    """Subscribes to topics as they appear and writes what comes to a bag.

    Attributes:
        counts: Messages written, by topic; topics without a message are in it too.
        lost: Messages that the middleware reports as lost, by topic.
    """

    def __init__(self, writer: BagWriter, topics: Sequence[str], **node_options: Any) -> None:
        """Start to look for the topics.

        Args:
            writer: Where the messages go.
            topics: Names of the topics; empty records every topic.
            node_options: Passed on to ``rclpy.node.Node``.
        """
        super().__init__("recorder", **node_options)
        self._writer = writer
        self._records_all = not topics
        names = [self.resolve_topic_name(topic) for topic in topics]
        self.counts: dict[str, int] = dict.fromkeys(names, 0)
        self.lost: dict[str, int] = {}
        self._subscriptions_by_topic: dict[str, Subscription] = {}
        self._refused: set[str] = set()
        self.create_timer(_DISCOVERY_PERIOD_S, self._discover)
        self.create_timer(FLUSH_INTERVAL_S, writer.flush)

    def summary(self) -> str:
        """Return one line per topic: messages, lost ones, name."""
        lines = []
        for topic, count in sorted(self.counts.items()):
            note = f"  ({self.lost[topic]} lost)" if topic in self.lost else ""
            if topic not in self._subscriptions_by_topic and topic not in self._refused:
                note = "  (nobody published it)"
            lines.append(f"{count:8d}  {topic}{note}")
        return "\n".join(lines)

    def _discover(self) -> None:
        names = list(self.counts)
        if self._records_all:
            names = [name for name, _ in self.get_topic_names_and_types()]
        for name in names:
            if name not in self._refused:
                self._follow(name)

    def _follow(self, topic: str) -> None:
        """Subscribe, or subscribe anew where a later publisher offers less."""
        publishers = self.get_publishers_info_by_topic(topic)
        if not publishers:
            return
        self.counts.setdefault(topic, 0)
        qos = compatible_qos(publishers)
        current = self._subscriptions_by_topic.get(topic)
        if current is not None:
            known = current.qos_profile
            if (known.reliability, known.durability) == (qos.reliability, qos.durability):
                return
            self.destroy_subscription(current)
        msgtype = publishers[0].topic_type
        try:
            kind = message_class(msgtype)
            if topic not in self._writer.counts:
                self._announce(topic, msgtype, qos)
        except RuntimeUnavailableError as error:
            self._refused.add(topic)
            self.get_logger().warning(f"{topic} is not recorded: {error}")
            return
        self._subscriptions_by_topic[topic] = self.create_subscription(
            kind,
            topic,
            self._writer_of(topic),
            qos,
            raw=True,
            event_callbacks=SubscriptionEventCallbacks(message_lost=self._counter_of(topic)),
        )
        if current is None:
            # The words of 'ros2 bag record', so that scripts can wait for either.
            self.get_logger().info(f"Subscribed to topic '{topic}'")

    def _announce(self, topic: str, msgtype: str, qos: QoSProfile) -> None:
        if not self._writer.knows(msgtype):
            for name, definition in message_definition(msgtype).items():
                if not self._writer.knows(name):
                    self._writer.register_definition(name, definition)
        self._writer.add_topic(topic, msgtype, [_offered(qos)])

    def _writer_of(self, topic: str) -> Callable[..., None]:
        def write(data: bytes, info: dict[str, int]) -> None:
            stamp_ns = info.get("received_timestamp") or time.time_ns()
            self._writer.write(topic, stamp_ns, data)
            self.counts[topic] += 1

        # rclpy looks at the signature: a second argument that may be left out gets nothing.
        return write if HAS_MESSAGE_INFO else lambda data: write(data, {})

    def _counter_of(self, topic: str) -> Callable[[Any], None]:
        def count(event: Any) -> None:
            self.lost[topic] = int(event.total_count)

        return count


def compatible_qos(publishers: Sequence[TopicEndpointInfo]) -> QoSProfile:
    """Return the strictest subscription that every publisher can satisfy.

    Args:
        publishers: Endpoints of one topic, at least one.

    Returns:
        Reliable when all publishers are, transient-local when all are.
    """
    offers = [publisher.qos_profile for publisher in publishers]
    reliable = all(o.reliability is QoSReliabilityPolicy.RELIABLE for o in offers)
    latched = all(o.durability is QoSDurabilityPolicy.TRANSIENT_LOCAL for o in offers)
    return QoSProfile(
        history=QoSHistoryPolicy.KEEP_LAST,
        depth=_QUEUE_DEPTH,
        reliability=(
            QoSReliabilityPolicy.RELIABLE if reliable else QoSReliabilityPolicy.BEST_EFFORT
        ),
        durability=(
            QoSDurabilityPolicy.TRANSIENT_LOCAL if latched else QoSDurabilityPolicy.VOLATILE
        ),
    )


def rosbag2_is_installed() -> bool:
    """Whether ``ros2 bag record`` with MCAP storage is there."""
    if shutil.which("ros2") is None:
        return False
    prefixes = os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)
    index = Path("share/ament_index/resource_index/packages")
    return all(
        any((Path(prefix) / index / package).exists() for prefix in prefixes if prefix)
        for package in ("ros2bag", "rosbag2_storage_mcap")
    )


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    arguments = sys.argv if argv is None else ["record", *argv]
    parser = argparse.ArgumentParser(prog="record", description="Record topics to an MCAP bag.")
    parser.add_argument("topics", nargs="*", help="topics to record")
    parser.add_argument("-a", "--all", action="store_true", help="record every topic")
    parser.add_argument("-o", "--output", type=Path, help="bag directory to create")
    parser.add_argument("-d", "--duration", type=float, help="stop after that many seconds")
    parser.add_argument(
        "--builtin", action="store_true", help="do not use 'ros2 bag record' even if it is there"
    )
    own = parser.parse_args(remove_ros_args(arguments)[1:])
    if bool(own.topics) == own.all:
        parser.error("give topics to record, or --all")
    output = own.output or Path(time.strftime("bag_%Y_%m_%d-%H_%M_%S"))
    try:
        if rosbag2_is_installed() and not own.builtin:
            if own.duration is not None:
                raise ConfigError(
                    "--duration needs --builtin: 'ros2 bag record' has no such option"
                )
            if len(remove_ros_args(arguments)) != len(arguments):
                raise ConfigError(
                    "--ros-args needs --builtin: 'ros2 bag record' takes none; name the topics as "
                    "they are published"
                )
            _exec_rosbag2(output, own.topics)
        return _record(output, own.topics, own.duration, arguments)
    except CoopNetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _exec_rosbag2(output: Path, topics: Sequence[str]) -> None:
    if output.exists():
        raise DataError(f"{output} exists already: choose another name or remove it first")
    command = ["ros2", "bag", "record", "--storage", "mcap", "--output", str(output)]
    # Later ones take topics by name; as positional arguments they are on their way out.
    names_topics = os.environ.get("ROS_DISTRO") not in ("humble", "iron")
    command += (["--topics"] if names_topics and topics else []) + (list(topics) or ["--all"])
    print(" ".join(command), flush=True)
    os.execvp(command[0], command)


def _record(
    output: Path, topics: Sequence[str], duration_s: float | None, arguments: list[str]
) -> int:
    stop = StopFlag()
    rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
    try:
        with BagWriter(output) as writer:
            recorder = Recorder(writer, topics)
            executor = SingleThreadedExecutor()
            executor.add_node(recorder)
            print(f"recording to {output}, Ctrl-C stops", flush=True)
            deadline = None if duration_s is None else time.monotonic() + duration_s
            try:
                while not stop.is_set and (deadline is None or time.monotonic() < deadline):
                    executor.spin_once(timeout_sec=0.1)
                # What the middleware holds already was received before the signal.
                for _ in range(_QUEUE_DEPTH):
                    executor.spin_once(timeout_sec=0.0)
            finally:
                executor.shutdown()
                summary = recorder.summary()
                recorder.destroy_node()
    finally:
        rclpy.try_shutdown()
    print(summary)
    print(f"recorded {sum(writer.counts.values())} messages to {output}", flush=True)
    return 0


def _offered(qos: QoSProfile) -> Qos:
    latched = qos.durability is QoSDurabilityPolicy.TRANSIENT_LOCAL
    offered = reliable_qos(depth=10, latched=latched)
    if qos.reliability is QoSReliabilityPolicy.BEST_EFFORT:
        offered = offered._replace(reliability=type(offered.reliability).BEST_EFFORT)
    return offered


if __name__ == "__main__":
    sys.exit(main())
