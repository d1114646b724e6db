"""Make a cut-off MCAP bag whole again: ``python -m coopnet_ros.bag_recovery BAG NEW_BAG``.

A recorder that is killed leaves a file without index and end. Every complete chunk of messages in
it is copied into a new bag.
"""

from __future__ import annotations

import argparse
import io
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from rosbags.rosbag2.storage_mcap import decompress, get_qos

from coopnet_core.data.bag_reader import DAMAGE, MCAP_MAGIC
from coopnet_core.errors import CoopNetError, DataError
from coopnet_ros.bag_writer import BagWriter

# https://mcap.dev/spec
_SCHEMA, _CHANNEL, _MESSAGE, _CHUNK = 0x03, 0x04, 0x05, 0x06
_RECORD_HEADER = struct.Struct("<BQ")
_MESSAGE_HEADER = struct.Struct("<HIQQ")
_CHUNK_HEADER = struct.Struct("<QQQI")


def recover(source: Path | str, destination: Path | str) -> dict[str, int]:
    """Copy everything that can be read of a damaged MCAP bag into a new one.

    Args:
        source: Bag directory or ``.mcap`` file. It is not changed.
        destination: Bag directory to create.

    Returns:
        Number of messages saved, by topic.

    Raises:
        DataError: The source is missing or holds no complete message, or the destination exists.
    """
    file = _mcap_file(Path(source))
    with file.open("rb") as stream:
        if stream.read(len(MCAP_MAGIC)) != MCAP_MAGIC:
            raise DataError(f"{file} is not an MCAP file: nothing can be saved")
        records = _flat_records(stream)
        first = next(records, None)
        if first is None:
            raise DataError(f"{file} has no complete record: nothing can be saved")
        with BagWriter(destination) as writer:
            copier = _Copier(writer)
            copier.take(*first)
            for opcode, content in records:
                copier.take(opcode, content)
            return dict(writer.counts)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="bag_recovery", description="Save what can be read of a cut-off MCAP bag."
    )
    parser.add_argument("source", type=Path, help="bag directory or .mcap file that was cut off")
    parser.add_argument("destination", type=Path, help="bag directory to create")
    arguments = parser.parse_args(argv)
    try:
        counts = recover(arguments.source, arguments.destination)
    except CoopNetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for topic, count in sorted(counts.items()):
        print(f"{count:8d}  {topic}")
    print(f"saved {sum(counts.values())} messages to {arguments.destination}")
    return 0


class _Copier:
    """Writes schemas, channels and messages of one file to a bag."""

    def __init__(self, writer: BagWriter) -> None:
        self._writer = writer
        self._msgtypes: dict[int, str] = {}
        self._topics: dict[int, str] = {}

    def take(self, opcode: int, content: bytes) -> None:
        stream = io.BytesIO(content)
        if opcode == _SCHEMA:
            (number,) = struct.unpack("<H", stream.read(2))
            msgtype, _, definition = (_text(stream) for _ in range(3))
            self._msgtypes[number] = msgtype
            if not self._writer.knows(msgtype):
                self._writer.register_definition(msgtype, definition)
        elif opcode == _CHANNEL:
            number, schema = struct.unpack("<HH", stream.read(4))
            topic = _text(stream)
            if number not in self._topics:
                self._topics[number] = topic
                _text(stream)  # the encoding
                qos = get_qos(stream.read()[4:])
                self._writer.add_topic(topic, self._msgtypes[schema], qos)
        elif opcode == _MESSAGE:
            number, _, stamp_ns, _ = _MESSAGE_HEADER.unpack(stream.read(_MESSAGE_HEADER.size))
            self._writer.write(self._topics[number], stamp_ns, stream.read())


def _flat_records(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield the records of a file, those inside chunks too, up to the first damage."""
    for opcode, content in _records(stream):
        if opcode != _CHUNK:
            yield opcode, content
            continue
        chunk = io.BytesIO(content)
        try:
            _, _, size, checksum = _CHUNK_HEADER.unpack(chunk.read(_CHUNK_HEADER.size))
            compression = _text(chunk)
            chunk.read(8)
            inner = decompress(chunk.read(), compression, size, checksum)
        except DAMAGE as error:
            print(f"stopped at a damaged chunk: {error}", file=sys.stderr)
            return
        yield from _records(io.BytesIO(inner))


def _records(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    while len(header := stream.read(_RECORD_HEADER.size)) == _RECORD_HEADER.size:
        opcode, length = _RECORD_HEADER.unpack(header)
        # A damaged length must not make us ask for exabytes.
        content = stream.read(min(length, 1 << 32))
        if len(content) < length:
            return
        yield opcode, content


def _text(stream: BinaryIO) -> str:
    (length,) = struct.unpack("<I", stream.read(4))
    return stream.read(length).decode()


def _mcap_file(source: Path) -> Path:
    files = [source] if source.is_file() else sorted(source.glob("*.mcap"))
    if len(files) != 1 or files[0].suffix != ".mcap":
        raise DataError(
            f"{source}: expected one .mcap file or a bag directory with one, found {len(files)}"
        )
    return files[0]


if __name__ == "__main__":
    sys.exit(main())
