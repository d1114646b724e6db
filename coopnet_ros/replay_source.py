"""What the replay node publishes: a bag, or a folder of images as if it were one (no rclpy)."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Protocol

from coopnet_core.data.bag_reader import (
    CAMERA_INFO_TYPE,
    IMAGE_TYPES,
    Bag,
    BagMessage,
    BagTopic,
    default_typestore,
)
from coopnet_core.data.image_folder import DEFAULT_RATE_HZ, read_sequence
from coopnet_core.data.images import decode_image, read_image
from coopnet_core.errors import DataError
from coopnet_ros import bag_messages

RAW_TYPE, COMPRESSED_TYPE = IMAGE_TYPES

FOLDER_COMPRESSED_TOPIC = "/camera/image/compressed"
FOLDER_RAW_TOPIC = "/camera/image"
FOLDER_CAMERA_INFO_TOPIC = "/camera/camera_info"

_UNSET_SHIFT_NS = 10**9

# What CompressedImage can carry as it is.
_COMPRESSED_FORMATS = {".jpg": "jpeg", ".jpeg": "jpeg", ".png": "png"}


class Source(Protocol):
    """Serialised messages in the order of their time.

    Attributes:
        topics: Topics by name.
        start_ns: Time of the first message, nanoseconds.
        end_ns: Time of the last message, nanoseconds.
    """

    topics: dict[str, BagTopic]
    start_ns: int
    end_ns: int

    def messages(
        self, topics: Collection[str] | None = None, start_ns: int | None = None
    ) -> Iterator[BagMessage]:
        """Yield messages of the given topics (None for all), not before ``start_ns``."""
        ...

    def close(self) -> None:
        """Close the files."""
        ...


def open_source(
    path: Path | str, calibration: Path | str | None = None, frame_id: str = "camera_optical_frame"
) -> Source:
    """Open a bag or a folder of images.

    Args:
        path: Bag directory, ``.mcap``, ``.db3`` or ``.bag`` file, or a folder of images.
        calibration: ROS calibration file of an image folder; None takes ``calibration.yaml`` in it.
        frame_id: Frame of an image folder's camera.

    Returns:
        The source.

    Raises:
        DataError: It is neither, or cannot be read.
        CalibrationError: The calibration of an image folder is missing, impossible or for another
            image size.
    """
    path = Path(path)
    if path.is_dir() and not _is_bag(path):
        return FolderSource(path, calibration, frame_id)
    return Bag(path)


class FolderSource:
    """A folder of images of one rectified camera, with CameraInfo.

    JPEG and PNG files become CompressedImage with their bytes unchanged, other formats are decoded
    to Image. Times come from ``times.txt`` where there is one, else they are 0.1 s apart. Times
    that begin at 0 are moved by 1 s: a stamp of 0 means that nobody has set it.
    """

    def __init__(
        self, folder: Path, calibration: Path | str | None, frame_id: str = "camera_optical_frame"
    ) -> None:
        """Read the folder's list of images and calibration; see ``open_source``."""
        self._sequence = read_sequence(folder, calibration, rate_hz=DEFAULT_RATE_HZ)
        self._frame_id = frame_id
        self._store = default_typestore()
        suffixes = {path.suffix.lower() for path in self._sequence.paths}
        self._compressed = suffixes <= set(_COMPRESSED_FORMATS)
        count = len(self._sequence)
        image = (
            BagTopic(FOLDER_COMPRESSED_TOPIC, COMPRESSED_TYPE, count)
            if self._compressed
            else BagTopic(FOLDER_RAW_TOPIC, RAW_TYPE, count)
        )
        info = BagTopic(FOLDER_CAMERA_INFO_TOPIC, CAMERA_INFO_TYPE, count)
        self._image_topic = image.name
        self.topics: dict[str, BagTopic] = {image.name: image, info.name: info}
        stamps_ns = self._sequence.stamps_ns
        shift_ns = 0 if stamps_ns[0] > 0 else _UNSET_SHIFT_NS
        self._stamps_ns = [stamp_ns + shift_ns for stamp_ns in stamps_ns]
        self.start_ns: int = self._stamps_ns[0]
        self.end_ns: int = self._stamps_ns[-1]

    def messages(
        self, topics: Collection[str] | None = None, start_ns: int | None = None
    ) -> Iterator[BagMessage]:
        """Yield CameraInfo and image of each file; see ``Source``."""
        for path, stamp_ns in zip(self._sequence.paths, self._stamps_ns, strict=True):
            if start_ns is not None and stamp_ns < start_ns:
                continue
            head = bag_messages.header(self._store, stamp_ns, self._frame_id)
            info = bag_messages.camera_info(self._store, head, self._sequence.intrinsics)
            for topic, message in (
                (FOLDER_CAMERA_INFO_TOPIC, info),
                (self._image_topic, self._image(path, head)),
            ):
                if topics is None or topic in topics:
                    msgtype = self.topics[topic].msgtype
                    data = bytes(self._store.serialize_cdr(message, msgtype))
                    yield BagMessage(topic, msgtype, stamp_ns, data)

    def close(self) -> None:
        """Nothing stays open between files."""

    def _image(self, path: Path, head: object) -> object:
        if not self._compressed:
            pixels = read_image(path)
            return bag_messages.image(self._store, head, pixels, _encoding(pixels.ndim))
        try:
            encoded = path.read_bytes()
        except OSError as error:
            raise DataError(f"cannot read image {path}: {error.strerror}") from error
        image_format = _COMPRESSED_FORMATS[path.suffix.lower()]
        return bag_messages.compressed_image(self._store, head, image_format, encoded)


class DecodedSource:
    """Another source with every CompressedImage decoded to Image.

    ``/camera/image/compressed`` becomes ``/camera/image``, a name without that ending gets
    ``/raw``.
    """

    def __init__(self, source: Source) -> None:
        """Wrap ``source``, which is closed with this one."""
        self._source = source
        self._store = default_typestore()
        self._names: dict[str, str] = {}
        self.topics: dict[str, BagTopic] = {}
        for topic in source.topics.values():
            self._names[topic.name] = topic.name
            if topic.msgtype == COMPRESSED_TYPE:
                name = topic.name.removesuffix("/compressed")
                name = name if name != topic.name else f"{name}/raw"
                self._names[topic.name] = name
                topic = BagTopic(name, RAW_TYPE, topic.count, topic.qos)
            self.topics[topic.name] = topic
        self.start_ns: int = source.start_ns
        self.end_ns: int = source.end_ns

    def messages(
        self, topics: Collection[str] | None = None, start_ns: int | None = None
    ) -> Iterator[BagMessage]:
        """Yield the messages with images decoded; see ``Source``."""
        wanted = None
        if topics is not None:
            wanted = [source for source, name in self._names.items() if name in topics]
        for message in self._source.messages(wanted, start_ns):
            yield self._decode(message) if message.msgtype == COMPRESSED_TYPE else message

    def close(self) -> None:
        """Close the wrapped source."""
        self._source.close()

    def _decode(self, message: BagMessage) -> BagMessage:
        compressed: Any = self._store.deserialize_cdr(message.data, COMPRESSED_TYPE)
        name = f"on {message.topic} at {bag_messages.stamp_ns(compressed)} ns"
        pixels = decode_image(bytes(compressed.data), name)
        image = bag_messages.image(self._store, compressed.header, pixels, _encoding(pixels.ndim))
        data = bytes(self._store.serialize_cdr(image, RAW_TYPE))
        return BagMessage(self._names[message.topic], RAW_TYPE, message.stamp_ns, data)


def _encoding(ndim: int) -> str:
    return "mono8" if ndim == 2 else "rgb8"


def _is_bag(folder: Path) -> bool:
    return (folder / "metadata.yaml").is_file() or any(
        file.suffix in (".mcap", ".db3") for file in folder.iterdir()
    )
