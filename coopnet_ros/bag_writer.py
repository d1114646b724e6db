"""Write MCAP bags that ``ros2 bag``, RViz and Foxglove open (no rclpy in here).

A thin layer over ``rosbags``: message definitions are embedded for every type, and what has been
written reaches the file at least once per second, so that a killed process costs that much and no
more (``coopnet_ros.bag_recovery`` makes such a bag whole again).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from rosbags.interfaces import (
    Connection,
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import StoragePlugin, Writer, WriterError
from rosbags.rosbag2.storage_mcap import McapWriter
from rosbags.typesys import TypesysError, get_types_from_msg
from rosbags.typesys.store import Typestore

from coopnet_core.data.bag_reader import default_typestore
from coopnet_core.errors import DataError

FLUSH_INTERVAL_S = 1.0

# Format 8 is the newest that every supported distribution reads: 9 stores QoS in another way.
_BAG_VERSION: Final = 8


def reliable_qos(depth: int = 10, latched: bool = False) -> Qos:
    """Return the offered QoS of a reliable publisher as a bag stores it.

    Args:
        depth: History depth.
        latched: Transient-local durability, as for ``/tf_static``.

    Returns:
        The profile, keep-last, without deadline, lifespan or liveliness lease.
    """
    unset = QosTime(0, 0)
    return Qos(
        QosHistory.KEEP_LAST,
        depth,
        QosReliability.RELIABLE,
        QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE,
        unset,
        unset,
        QosLiveliness.AUTOMATIC,
        unset,
        False,
    )


class BagWriter:
    """An MCAP bag that is being written; use it as a context manager.

    Attributes:
        path: The bag directory.
        counts: Messages written so far, by topic.
    """

    def __init__(self, path: Path | str, typestore: Typestore | None = None) -> None:
        """Create the bag directory.

        Args:
            path: Directory to create; it must not exist.
            typestore: Message types; the standard ones of this distribution by default. Types can
                be added with ``register_definition``.

        Raises:
            DataError: The path exists or cannot be created.
        """
        self.path = Path(path)
        self.counts: dict[str, int] = {}
        self._typestore = typestore or default_typestore()
        self._connections: dict[str, Connection] = {}
        self._flushed_s = time.monotonic()
        if self.path.exists():
            raise DataError(f"{self.path} exists already: choose another name or remove it first")
        self._writer = Writer(self.path, version=_BAG_VERSION, storage_plugin=StoragePlugin.MCAP)
        try:
            self._writer.open()
        except (OSError, WriterError) as error:
            raise DataError(f"cannot create bag {self.path}: {error}") from error

    def register_definition(self, msgtype: str, definition: str) -> None:
        """Add a message type that is not in the typestore.

        Args:
            msgtype: Name, such as ``my_msgs/msg/Thing``.
            definition: ``.msg`` text; it may refer to types that are registered already.

        Raises:
            DataError: The text is not a message definition.
        """
        try:
            self._typestore.register(get_types_from_msg(definition, msgtype))
        except TypesysError as error:
            raise DataError(f"definition of {msgtype} cannot be read: {error}") from error

    def knows(self, msgtype: str) -> bool:
        """Whether the definition of a message type is at hand."""
        return msgtype in self._typestore.fielddefs

    def add_topic(self, topic: str, msgtype: str, qos: Sequence[Qos] = ()) -> None:
        """Announce a topic before its first message.

        Args:
            topic: Name.
            msgtype: Type, such as ``sensor_msgs/msg/Image``; its definition is embedded.
            qos: Offered profiles, so that replaying tools can offer the same.

        Raises:
            DataError: The type is not known, or the topic was added before.
        """
        if not self.knows(msgtype):
            raise DataError(
                f"cannot write topic {topic}: the definition of {msgtype} is not known; "
                "register_definition() takes its .msg text"
            )
        try:
            self._connections[topic] = self._writer.add_connection(
                topic, msgtype, typestore=self._typestore, offered_qos_profiles=list(qos)
            )
        except WriterError as error:
            raise DataError(f"cannot add topic {topic} to {self.path}: {error}") from error
        self.counts[topic] = 0

    def write(self, topic: str, stamp_ns: int, data: bytes) -> None:
        """Write a serialised message.

        Args:
            topic: A topic that was added.
            stamp_ns: Time of the message in the bag (log time), nanoseconds.
            data: CDR bytes with their four-byte header, as they are on the wire.

        Raises:
            DataError: The topic was not added, or the disk is full or gone.
        """
        if topic not in self._connections:
            raise DataError(f"topic {topic} was not added to {self.path}: call add_topic() first")
        try:
            self._writer.write(self._connections[topic], stamp_ns, data)
        except OSError as error:
            raise DataError(f"cannot write to {self.path}: {error.strerror}") from error
        self.counts[topic] += 1
        if time.monotonic() - self._flushed_s > FLUSH_INTERVAL_S:
            self.flush()

    def write_message(self, topic: str, stamp_ns: int, message: Any) -> None:
        """Serialise a ``rosbags`` message object and write it.

        Args:
            topic: A topic that was added.
            stamp_ns: Time of the message in the bag, nanoseconds.
            message: An object of the typestore's class for the topic's type.

        Raises:
            DataError: See ``write``.
        """
        msgtype = self._connections[topic].msgtype if topic in self._connections else ""
        data = self._typestore.serialize_cdr(message, msgtype) if msgtype else b""
        self.write(topic, stamp_ns, bytes(data))

    def flush(self) -> None:
        """Hand everything written so far to the operating system.

        ``rosbags`` collects messages in a chunk of 1 MiB; slow topics would stay there for hours.

        Raises:
            DataError: The disk is full or gone.
        """
        self._flushed_s = time.monotonic()
        storage = self._writer.storage
        if not isinstance(storage, McapWriter):
            return
        try:
            if storage.chunk.msgs:
                storage.close_chunk()
            storage.bio.flush()
        except OSError as error:
            raise DataError(f"cannot write to {self.path}: {error.strerror}") from error

    def close(self) -> None:
        """Write index and ``metadata.yaml``.

        Raises:
            DataError: The disk is full or gone.
        """
        try:
            self._writer.close()
        except OSError as error:
            raise DataError(f"cannot finish bag {self.path}: {error.strerror}") from error

    def __enter__(self) -> BagWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # A bag that ends in an error is finished all the same: what is in it stays readable.
        self.close()
