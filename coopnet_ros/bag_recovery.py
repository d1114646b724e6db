"""Make a cut-off MCAP bag whole again: ``python -m coopnet_ros.bag_recovery BAG NEW_BAG``.

A recorder that is killed leaves a file without index and end. Everything up to its last complete
record is copied into a new bag.
"""

from __future__ import annotations

import argparse
import struct
import sys
import tempfile
from pathlib import Path

from coopnet_core.errors import CoopNetError, DataError
from coopnet_ros.bag_reader import Bag
from coopnet_ros.bag_writer import BagWriter

_MAGIC = b"\x89MCAP0\r\n"
_DATA_END = 0x0F
_FOOTER = 0x02
_RECORD_HEADER = struct.Struct("<BQ")


def recover(source: Path | str, destination: Path | str) -> dict[str, int]:
    """Copy everything that can be read of a damaged MCAP bag into a new one.

    Args:
        source: Bag directory or ``.mcap`` file. It is not changed.
        destination: Bag directory to create.

    Returns:
        Number of messages saved, by topic.

    Raises:
        DataError: The source is missing or holds no complete record, or the destination exists.
    """
    source = Path(source)
    with tempfile.TemporaryDirectory() as folder:
        repaired = Path(folder) / "repaired.mcap"
        _close_file(_mcap_file(source), repaired)
        with Bag(repaired) as bag, BagWriter(destination, bag.typestore) as writer:
            for topic in bag.topics.values():
                writer.add_topic(topic.name, topic.msgtype, topic.qos)
            try:
                for message in bag.messages():
                    writer.write(message.topic, message.stamp_ns, message.data)
            except DataError as error:
                # The damage lies inside the file: keep what came before it.
                print(f"stopped: {error}".replace(str(repaired), str(source)), file=sys.stderr)
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


def _mcap_file(source: Path) -> Path:
    files = [source] if source.is_file() else sorted(source.glob("*.mcap"))
    if len(files) != 1 or files[0].suffix != ".mcap":
        raise DataError(
            f"{source}: expected one .mcap file or a bag directory with one, found {len(files)}"
        )
    return files[0]


def _close_file(source: Path, target: Path) -> None:
    """Copy the complete records before the index, and end the file as MCAP asks for."""
    size = source.stat().st_size
    with source.open("rb") as reader:
        if reader.read(len(_MAGIC)) != _MAGIC:
            raise DataError(f"{source} is not an MCAP file: nothing can be saved")
        end = reader.tell()
        while header := reader.read(_RECORD_HEADER.size):
            if len(header) < _RECORD_HEADER.size:
                break
            opcode, length = _RECORD_HEADER.unpack(header)
            if opcode in (_DATA_END, _FOOTER) or end + len(header) + length > size:
                break
            end = reader.seek(length, 1)
        if end == len(_MAGIC):
            raise DataError(f"{source} has no complete record: nothing can be saved")
        reader.seek(0)
        with target.open("wb") as writer:
            remaining = end
            while remaining:
                block = reader.read(min(remaining, 1 << 20))
                writer.write(block)
                remaining -= len(block)
            writer.write(_RECORD_HEADER.pack(_DATA_END, 4) + bytes(4))
            writer.write(_RECORD_HEADER.pack(_FOOTER, 20) + bytes(20) + _MAGIC)


if __name__ == "__main__":
    sys.exit(main())
