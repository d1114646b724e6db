"""Read bags (MCAP, sqlite3, ROS 1) with ``rosbags``: no ROS installation is needed.

Messages of a ROS 1 bag come as ROS 2 would have recorded them, where ROS 2 has their type.
"""

from __future__ import annotations

import os
import sqlite3
import struct
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from rosbags.highlevel import AnyReader, AnyReaderError
from rosbags.interfaces import Connection, ConnectionExtRosbag2, Qos
from rosbags.rosbag1 import ReaderError as Ros1ReaderError
from rosbags.rosbag2 import ReaderError
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, get_typestore
from rosbags.typesys.store import Typestore

from coopnet_core.errors import DataError

if sys.version_info >= (3, 14):
    from compression.zstd import ZstdError
else:
    from backports.zstd import ZstdError

IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
CAMERA_INFO_TYPE = "sensor_msgs/msg/CameraInfo"

_STORES = {
    "humble": Stores.ROS2_HUMBLE,
    "jazzy": Stores.ROS2_JAZZY,
    "kilted": Stores.ROS2_KILTED,
}

_ROS1_SUFFIX = ".bag"
STORAGE_SUFFIXES = (".mcap", ".db3")
BAG_SUFFIXES = (*STORAGE_SUFFIXES, _ROS1_SUFFIX)
MCAP_MAGIC = b"\x89MCAP0\r\n"

# What a damaged file makes the parsers of `rosbags` raise.
DAMAGE = (
    AnyReaderError,
    ReaderError,
    Ros1ReaderError,
    SerdeError,
    sqlite3.Error,
    struct.error,
    ZstdError,
    ArithmeticError,
    EOFError,
    IndexError,
    KeyError,
    MemoryError,
    OSError,
    RuntimeError,  # lz4
    TypeError,
    ValueError,
)


@dataclass(frozen=True)
class BagTopic:
    """A topic of a bag.

    Attributes:
        name: Topic name.
        msgtype: Type, such as ``sensor_msgs/msg/Image``.
        count: Number of messages.
        qos: Profiles that the recorded publishers offered; may be empty.
    """

    name: str
    msgtype: str
    count: int
    qos: tuple[Qos, ...] = ()


@dataclass(frozen=True)
class BagMessage:
    """A serialised message.

    Attributes:
        topic: Topic name.
        msgtype: Type of the message.
        stamp_ns: When it was recorded (log time), nanoseconds.
        data: CDR bytes with their four-byte header.
    """

    topic: str
    msgtype: str
    stamp_ns: int
    data: bytes


@dataclass(frozen=True)
class CameraTopics:
    """The image topic of a bag and the camera_info that belongs to it."""

    image: BagTopic
    camera_info: BagTopic


def default_typestore() -> Typestore:
    """Return the standard message types of ``$ROS_DISTRO`` (Jazzy where it is not set)."""
    return get_typestore(_STORES.get(os.environ.get("ROS_DISTRO", ""), Stores.ROS2_JAZZY))


class Bag:
    """An open bag; use it as a context manager.

    Attributes:
        path: The bag directory or storage file.
        topics: Topics by name.
        start_ns: Log time of the first message, nanoseconds.
        end_ns: Log time of the last message, nanoseconds.
    """

    def __init__(self, path: Path | str) -> None:
        """Open a bag.

        Args:
            path: Bag directory (with ``metadata.yaml``), or one ``.mcap``, ``.db3`` or (ROS 1)
                ``.bag`` file.

        Raises:
            DataError: It is missing, not a bag, empty, cut off or damaged.
        """
        self.path = Path(path)
        source = _storage_path(self.path)
        self._typestore = default_typestore()
        self._is_ros1 = source.suffix == _ROS1_SUFFIX
        self._reader = AnyReader([source], default_typestore=self._typestore)
        try:
            self._reader.open()
        except DAMAGE as error:
            raise DataError(_explain_damage(self.path, source, error)) from error
        if self._reader.message_count == 0:
            self._reader.close()
            raise DataError(f"bag {self.path} has no messages: record it again")
        self.start_ns: int = self._reader.start_time
        # rosbags counts the end as the first nanosecond behind the last message.
        self.end_ns: int = self._reader.end_time - 1
        self._connections = self._reader.connections
        if self._is_ros1:
            known = self._typestore.fielddefs
            self._connections = [c for c in self._connections if c.msgtype in known]
        self.topics: dict[str, BagTopic] = _topics(self._connections)

    def messages(
        self, topics: Collection[str] | None = None, start_ns: int | None = None
    ) -> Iterator[BagMessage]:
        """Yield messages in the order of their log time.

        Args:
            topics: Topics to read; None for all.
            start_ns: Leave out messages before this log time.

        Yields:
            Serialised messages.

        Raises:
            DataError: A wanted topic is not in the bag, or the file is damaged; what came before
                the damage has been yielded by then.
        """
        if topics is not None:
            missing = sorted(set(topics) - set(self.topics))
            if missing:
                raise DataError(
                    f"bag {self.path} has no topic {', '.join(missing)}; "
                    f"it has: {describe_topics(self.topics.values())}"
                )
        wanted = [c for c in self._connections if topics is None or c.topic in topics]
        stream = self._reader.messages(wanted, start=start_ns) if wanted else iter(())
        count = 0
        while True:
            try:
                connection, stamp_ns, data = next(stream)
                if self._is_ros1:
                    data = bytes(self._typestore.ros1_to_cdr(data, connection.msgtype))
            except StopIteration:
                return
            except DAMAGE as error:
                raise DataError(
                    f"bag {self.path} is damaged after {count} messages ({error}): {_RECOVER}"
                ) from error
            count += 1
            yield BagMessage(connection.topic, connection.msgtype, stamp_ns, bytes(data))

    def deserialize(self, message: BagMessage) -> Any:
        """Return the message as a ``rosbags`` object, whose fields have the names of the ROS type.

        Raises:
            DataError: The bytes do not fit the type.
        """
        try:
            return self.typestore.deserialize_cdr(message.data, message.msgtype)
        except DAMAGE as error:
            raise DataError(
                f"bag {self.path}: a message on {message.topic} is not a {message.msgtype}: {error}"
            ) from error

    @property
    def typestore(self) -> Typestore:
        """The message types of this bag."""
        return self._typestore if self._is_ros1 else self._reader.typestore

    def close(self) -> None:
        """Close the files."""
        self._reader.close()

    def __enter__(self) -> Bag:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def camera_topics(
    bag: Bag, image_topic: str | None = None, camera_info_topic: str | None = None
) -> CameraTopics:
    """Find the image topic of a bag and its camera_info.

    The camera_info is looked for beside the image, then one name space up, and so on:
    ``/camera/image/compressed`` finds ``/camera/camera_info``.

    Args:
        bag: An open bag.
        image_topic: Image topic; may be left out when there is only one.
        camera_info_topic: CameraInfo topic; None to look for it.

    Returns:
        Both topics.

    Raises:
        DataError: There is no such topic, none at all, or several to choose from (all are named).
    """
    image = _pick(bag, image_topic, IMAGE_TYPES, "image", "image_topic")
    if camera_info_topic is not None:
        info = _pick(bag, camera_info_topic, (CAMERA_INFO_TYPE,), "camera_info", "")
        return CameraTopics(image, info)
    namespace = image.name
    while namespace:
        namespace = namespace.rpartition("/")[0]
        sibling = bag.topics.get(f"{namespace}/camera_info")
        if sibling is not None and sibling.msgtype == CAMERA_INFO_TYPE:
            return CameraTopics(image, sibling)
    info = _pick(bag, None, (CAMERA_INFO_TYPE,), "camera_info", "camera_info_topic")
    return CameraTopics(image, info)


def image_topic(bag: Bag, name: str | None = None) -> BagTopic:
    """Find the image topic of a bag.

    Args:
        bag: An open bag.
        name: Its name; may be left out when there is only one.

    Raises:
        DataError: There is no such topic, none at all, or several to choose from (all are named).
    """
    return _pick(bag, name, IMAGE_TYPES, "image", "topic")


def describe_topics(topics: Collection[BagTopic]) -> str:
    """Return topics as one line: name, type and number of messages."""
    if not topics:
        return "nothing"
    return ", ".join(
        f"{topic.name} ({topic.msgtype}, {topic.count})"
        for topic in sorted(topics, key=lambda topic: topic.name)
    )


_RECOVER = (
    "save what can be read with 'python -m coopnet_ros.bag_recovery BAG NEW_BAG' or record it again"
)


def _pick(
    bag: Bag, name: str | None, types: tuple[str, ...], what: str, parameter: str
) -> BagTopic:
    candidates = [topic for topic in bag.topics.values() if topic.msgtype in types and topic.count]
    if name is not None:
        topic = bag.topics.get(name)
        if topic is None or topic.msgtype not in types:
            found = "no such topic" if topic is None else f"a {topic.msgtype} there"
            raise DataError(
                f"bag {bag.path}: expected a {what} on {name} ({' or '.join(types)}), but there is "
                f"{found}; candidates: {describe_topics(candidates)}"
            )
        return topic
    if not candidates:
        raise DataError(
            f"bag {bag.path} has no {what} topic ({' or '.join(types)}), "
            f"it has: {describe_topics(bag.topics.values())}; record the camera's {what} as well"
        )
    if len(candidates) > 1:
        raise DataError(
            f"bag {bag.path} has several {what} topics, choose one with {parameter}: "
            f"{describe_topics(candidates)}"
        )
    return candidates[0]


def _topics(connections: Collection[Connection]) -> dict[str, BagTopic]:
    topics: dict[str, BagTopic] = {}
    for connection in connections:
        qos: tuple[Qos, ...] = ()
        if isinstance(connection.ext, ConnectionExtRosbag2):
            qos = tuple(connection.ext.offered_qos_profiles)
        known = topics.get(connection.topic)
        count = connection.msgcount + (known.count if known else 0)
        topics[connection.topic] = BagTopic(connection.topic, connection.msgtype, count, qos)
    return topics


def _storage_path(path: Path) -> Path:
    """Check that the path looks like a bag and return what ``rosbags`` shall open."""
    if not path.exists():
        raise DataError(
            f"bag {path} does not exist: give a bag directory, a .mcap, .db3 or .bag file"
        )
    if path.is_file():
        if path.suffix not in BAG_SUFFIXES:
            raise DataError(f"{path} is not a bag: expected a bag directory, .mcap, .db3 or .bag")
        return path
    if (path / "metadata.yaml").is_file():
        return path
    files = sorted(file for file in path.iterdir() if file.suffix in STORAGE_SUFFIXES)
    if not files:
        raise DataError(
            f"{path} is not a bag: it has neither metadata.yaml nor .mcap or .db3 files"
        )
    if len(files) > 1:
        raise DataError(
            f"bag {path} has no metadata.yaml and {len(files)} storage files: "
            f"restore it with 'ros2 bag reindex {path}'"
        )
    return files[0]


def _explain_damage(path: Path, source: Path, error: BaseException) -> str:
    files = [source] if source.is_file() else sorted(source.glob("*.mcap"))
    for file in files:
        if file.suffix != ".mcap":
            continue
        if file.stat().st_size == 0:
            return f"bag {path} is empty ({file.name} has no bytes): record it again"
        with file.open("rb") as stream:
            starts_well = stream.read(len(MCAP_MAGIC)) == MCAP_MAGIC
            stream.seek(max(0, file.stat().st_size - len(MCAP_MAGIC)))
            ends_well = stream.read() == MCAP_MAGIC
        if starts_well and not ends_well:
            return (
                f"bag {path} was cut off: {file.name} has no end, as after a killed recorder, a "
                f"full disk or an unfinished copy; {_RECOVER}"
            )
    hint = "try 'rosbag reindex' of ROS 1" if source.suffix == _ROS1_SUFFIX else _RECOVER
    return f"bag {path} is damaged or not a bag ({error}); {hint}"
