"""Checks of bags and videos, whose frames are no files; see ``data.check``."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from coopnet_core.data import camera_info, image_folder
from coopnet_core.data.bag_frames import first_camera_info, header_stamp_ns, picture_of
from coopnet_core.data.bag_reader import IMAGE_TYPES, Bag, BagMessage, BagTopic, describe_topics
from coopnet_core.data.camera_info import Calibration
from coopnet_core.data.check import (
    NUM_SAMPLED_PAIRS,
    Looks,
    Progress,
    Report,
    camera_text,
    report_stamps,
    sample_places,
)
from coopnet_core.data.discovery import Found
from coopnet_core.data.images import encoded_size, is_truncated
from coopnet_core.data.ros_images import array_from_image
from coopnet_core.errors import CalibrationError, CoopNetError, DataError, InputError

_MEASUREMENTS = ("16UC1", "32FC1", "32FC2")


def check_bag(found: Found, calibration: Path | None, progress: Progress) -> list[Report]:
    """Check every image topic of a bag: all messages are read, a sample is decoded.

    Args:
        found: What ``discover`` found.
        calibration: ROS calibration file to take instead of the bag's CameraInfo.
        progress: Called while messages are read.

    Returns:
        One report per topic with pictures; nothing about the data is raised.
    """
    try:
        with Bag(found.path) as bag:
            images = [t for t in bag.topics.values() if t.msgtype in IMAGE_TYPES and t.count]
            if not images:
                raise DataError(
                    f"bag {found.path} has no images; it has: "
                    f"{describe_topics(bag.topics.values())}"
                )
            topics = [_Topic(found, topic) for topic in sorted(images, key=lambda t: t.name)]
            _read_messages(bag, topics, progress)
            reports = [topic.finish(bag, calibration) for topic in topics]
    except CoopNetError as error:
        report = Report(found)
        report.add_error(error)
        return [report]
    return reports


def check_video(found: Found, calibration: Path | None, progress: Progress) -> Report:
    """Check a video: all frames are counted, a sample is decoded.

    Args:
        found: What ``discover`` found.
        calibration: ROS calibration file of the rectified video.
        progress: Called while frames are read.

    Returns:
        The report; nothing about the data is raised.
    """
    report = Report(found, num_sequences=1)
    capture = cv2.VideoCapture(str(found.path))
    try:
        if not capture.isOpened():
            report.add_error(DataError(f"cannot decode video {found.path}: damaged, or no codec"))
            return report
        rate_hz = capture.get(cv2.CAP_PROP_FPS)
        expected = max(1, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        firsts = set(sample_places(expected - 1, NUM_SAMPLED_PAIRS))
        looks = Looks()
        size = (0, 0)
        thumbnail = None
        while capture.grab():
            number = report.num_frames
            report.num_frames += 1
            progress(min(report.num_frames, expected), expected)
            if number not in firsts and number - 1 not in firsts:
                continue
            has_frame, frame = capture.retrieve()
            if has_frame:
                size = (frame.shape[1], frame.shape[0])
                picture = np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), np.uint8)
                previous = thumbnail if number - 1 in firsts else None
                thumbnail = looks.add(f"frame {number}", picture, previous)
    finally:
        capture.release()
    progress(expected, expected)
    if report.num_frames == 0:
        report.add_error(DataError(f"video {found.path} has no frame that can be decoded"))
        return report
    if report.num_frames < 0.98 * expected:
        text = f"{found.path} ends after {report.num_frames} of {expected} frames: it was cut off"
        report.add_error(DataError(text), is_fatal=False)
    report.facts.append(("size", f"{size[0]}x{size[1]}"))
    if rate_hz > 0:
        length_s = report.num_frames / rate_hz
        report.facts.append(("time", f"{length_s:.1f} s, {rate_hz:.1f} frames per second"))
    else:
        report.add_error(DataError(f"video {found.path} does not state its frame rate"))
    try:
        if calibration is None:
            raise CalibrationError(
                f"video {found.path} needs a calibration file: give it with --calibration"
            )
        camera = image_folder.read_calibration(calibration)
        if (camera.width, camera.height) != size:
            raise CalibrationError(
                f"{calibration} is for {camera.width}x{camera.height}, but {found.path} is "
                f"{size[0]}x{size[1]}"
            )
        report.facts.append(("camera", camera_text([camera])))
    except CoopNetError as error:
        report.add_error(error)
    looks.report_to(report)
    return report


@dataclass
class _Topic:
    """What is gathered about an image topic while its messages go by."""

    found: Found
    topic: BagTopic
    stamps: list[int] = field(default_factory=list)
    sizes: dict[tuple[int, int], int] = field(default_factory=dict)
    encodings: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        keys: dict[str, str | int] = {"topic": self.topic.name}
        self.report = Report(replace(self.found, keys=keys), 1, self.topic.count)
        self._looks = Looks()
        self._firsts = set(sample_places(self.topic.count - 1, NUM_SAMPLED_PAIRS))
        self._thumbnail: Any = None

    def take(self, bag: Bag, message: BagMessage) -> None:
        number = len(self.stamps)
        stamp_ns = header_stamp_ns(message.data, message.stamp_ns)
        self.stamps.append(stamp_ns)
        try:
            content = bag.deserialize(message)
            size = self._size_of(content)
            self.sizes[size] = self.sizes.get(size, 0) + 1
            if self.holds_pictures and (number in self._firsts or number - 1 in self._firsts):
                previous = self._thumbnail if number - 1 in self._firsts else None
                self._thumbnail = self._looks.add(f"frame {number}", picture_of(content), previous)
        except CoopNetError as error:
            self._thumbnail = None
            text = f"{bag.path}, {self.topic.name}, frame {number} at {stamp_ns} ns: {error}"
            # Such pictures are left out of training, which goes on.
            self.report.add_error(DataError(text), is_fatal=False)

    @property
    def holds_pictures(self) -> bool:
        return not any(
            encoding in _MEASUREMENTS or "compressedDepth" in encoding
            for encoding in self.encodings
        )

    def _size_of(self, content: Any) -> tuple[int, int]:
        if hasattr(content, "encoding"):
            self.encodings.add(content.encoding)
            pixels = array_from_image(content)
            return pixels.shape[1], pixels.shape[0]
        data = bytes(content.data)
        self.encodings.add(content.format)
        if "compressedDepth" in content.format:
            return (0, 0)
        size = encoded_size(data)
        if size is None or is_truncated(data):
            raise InputError(f"not a whole JPEG or PNG ({len(data)} bytes)")
        return size

    def finish(self, bag: Bag, calibration: Path | None) -> Report:
        report = self.report
        sizes = sorted(self.sizes, key=lambda size: -self.sizes[size])
        report.facts.append(("size", ", ".join(f"{w}x{h}" for w, h in sizes) or "unknown"))
        report.facts.append(("encoding", ", ".join(sorted(self.encodings))))
        report_stamps([np.array(self.stamps, np.int64)], report)
        if not self.holds_pictures:
            report.facts.append(("use", "measurements, no pictures: not for training"))
            return report
        if not sizes:
            report.add_error(DataError(f"{bag.path}, {self.topic.name}: no usable picture"))
            return report
        if len(sizes) > 1:
            text = f"{bag.path}, {self.topic.name}: pictures of {len(sizes)} sizes"
            report.add_error(DataError(text))
        try:
            camera = self._camera(bag, calibration)
            lens = ", lens distortion is taken out" if camera.is_distorted else ""
            report.facts.append(("camera", camera_text([camera.intrinsics()]) + lens))
            if sizes[0] != (camera.width, camera.height):
                raise CalibrationError(
                    f"{bag.path}, {self.topic.name}: pictures are {sizes[0][0]}x{sizes[0][1]}, "
                    f"their calibration is for {camera.width}x{camera.height}"
                )
        except CoopNetError as error:
            report.add_error(error)
        self._looks.report_to(report)
        return report

    def _camera(self, bag: Bag, calibration: Path | None) -> Calibration:
        if calibration is not None:
            return camera_info.read_calibration(calibration)
        return first_camera_info(bag, self.topic.name)


def _read_messages(bag: Bag, topics: list[_Topic], progress: Progress) -> None:
    by_name = {topic.topic.name: topic for topic in topics}
    total = sum(topic.topic.count for topic in topics)
    try:
        for number, message in enumerate(bag.messages(list(by_name))):
            progress(number, total)
            by_name[message.topic].take(bag, message)
    except DataError as error:
        for topic in topics:
            topic.report.add_error(error)
    progress(total, total)
