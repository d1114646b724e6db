"""Image messages to arrays and back, and CameraInfo, without a node."""

from __future__ import annotations

import sys

import numpy as np
import pytest

pytest.importorskip("sensor_msgs", reason="ROS messages are not installed: scripts/setup.sh")

import cv2
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from coopnet_core.data.camera_info import calibration_from_camera_info, rectification_maps, rectify
from coopnet_core.data.ros_images import ENCODINGS, array_from_image, rgb_from_compressed
from coopnet_core.errors import CalibrationError, InputError
from coopnet_core.geometry.intrinsics import Intrinsics
from coopnet_ros.camera_info import camera_info_from_intrinsics
from coopnet_ros.image_messages import image_from_array
from coopnet_ros.images import rgb_from_image

pytestmark = pytest.mark.ros

CAMERA = Intrinsics(80, 60, 90.0, 91.0, 39.0, 31.0)


def pixels(encoding: str, height: int = 5, width: int = 7) -> np.ndarray:
    code, channels = ENCODINGS[encoding]
    rng = np.random.default_rng(0)
    values = rng.uniform(0, 250, (height, width, channels)).astype(code)
    return values[..., 0] if channels == 1 else values


def picture(height: int = 60, width: int = 80) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    waves = [np.sin(x / 7) + np.cos(y / 5), np.sin(x / 9 + 1), np.cos((x + y) / 11)]
    return np.clip(np.stack(waves, axis=-1) * 60 + 128, 0, 255).astype(np.uint8)


def jpeg(image: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()


def compressed(data: bytes, image_format: str = "jpeg") -> CompressedImage:
    return CompressedImage(data=data, format=image_format)


@pytest.mark.parametrize("encoding", sorted(ENCODINGS))
def test_every_encoding_survives_the_round_trip(encoding: str) -> None:
    expected = pixels(encoding)
    msg = image_from_array(expected, encoding, Header(frame_id="camera"))
    assert (msg.height, msg.width, msg.encoding) == (5, 7, encoding)
    assert msg.header.frame_id == "camera"
    np.testing.assert_array_equal(array_from_image(msg), expected)


def test_the_view_shares_memory_with_the_message() -> None:
    msg = image_from_array(pixels("rgb8"), "rgb8", Header())
    msg.data[0] = 7
    view = array_from_image(msg)
    assert view[0, 0, 0] == 7
    msg.data[0] = 8
    assert view[0, 0, 0] == 8


@pytest.mark.parametrize("encoding", ["mono8", "bgr8", "16UC1", "32FC2"])
def test_padding_at_the_end_of_rows_is_skipped(encoding: str) -> None:
    expected = pixels(encoding)
    packed = image_from_array(expected, encoding, Header())
    rows = np.frombuffer(packed.data, np.uint8).reshape(5, -1)
    padded = np.pad(rows, ((0, 0), (0, 13)), constant_values=99)
    msg = Image(height=5, width=7, encoding=encoding, step=padded.shape[1])
    # Some drivers leave the padding of the last row out.
    msg.data = padded.tobytes()[:-13]
    np.testing.assert_array_equal(array_from_image(msg), expected)


@pytest.mark.parametrize("encoding", ["mono16", "32FC1"])
def test_the_byte_order_of_the_message_is_respected(encoding: str) -> None:
    expected = pixels(encoding)
    swapped = expected.astype(
        expected.dtype.newbyteorder(">" if sys.byteorder == "little" else "<")
    )
    msg = Image(height=5, width=7, encoding=encoding, step=7 * expected.itemsize)
    msg.is_bigendian = int(sys.byteorder == "little")
    msg.data = swapped.tobytes()
    np.testing.assert_array_equal(array_from_image(msg), expected)


def test_arrays_of_any_layout_can_be_published() -> None:
    expected = pixels("rgb8")
    mirrored = image_from_array(expected[:, ::-1], "rgb8", Header())
    np.testing.assert_array_equal(array_from_image(mirrored), expected[:, ::-1])


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "rgba8", "bgra8"])
def test_colours_come_out_as_rgb(encoding: str) -> None:
    red = np.zeros((2, 3, ENCODINGS[encoding][1]), np.uint8)
    red[..., encoding.index("r")] = 200
    result = rgb_from_image(image_from_array(red, encoding, Header()))
    assert result.shape == (2, 3, 3)
    assert result[0, 0].tolist() == [200, 0, 0]


def test_grey_stays_grey_and_sixteen_bits_become_eight() -> None:
    grey = np.array([[0, 1 << 8, 255 << 8]], np.uint16)
    result = rgb_from_image(image_from_array(grey, "mono16", Header()))
    assert result.dtype == np.uint8
    assert result.tolist() == [[0, 1, 255]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": 3}, "row step is 3 bytes, but 7 pixels of rgb8 need 21"),
        ({"width": 0}, "empty"),
        ({"height": 6}, "cut short.*needs 126 bytes, got 105"),
    ],
)
def test_a_damaged_image_is_refused_by_name(change: dict[str, int], message: str) -> None:
    msg = image_from_array(pixels("rgb8"), "rgb8", Header())
    for name, value in change.items():
        setattr(msg, name, value)
    with pytest.raises(InputError, match=message):
        rgb_from_image(msg)


def test_an_unknown_encoding_names_the_package_to_install() -> None:
    msg = Image(height=2, width=2, step=4, encoding="yuv422_yuy2", data=bytes(8))
    with pytest.raises(InputError, match=r"yuv422_yuy2.*cv.bridge"):
        rgb_from_image(msg)


@pytest.mark.parametrize("encoding", ["32FC1", "16UC1"])
def test_a_depth_image_is_no_picture(encoding: str) -> None:
    with pytest.raises(InputError, match=f"{encoding}.*not a picture"):
        rgb_from_image(image_from_array(pixels(encoding), encoding, Header()))


def test_an_array_of_the_wrong_type_is_not_published() -> None:
    with pytest.raises(InputError, match="32FC1 needs an array of float32 with 1 channel"):
        image_from_array(np.zeros((2, 2)), "32FC1", Header())
    with pytest.raises(InputError, match="yuyv"):
        image_from_array(np.zeros((2, 2), np.uint8), "yuyv", Header())


def test_jpeg_and_png_are_decoded() -> None:
    image = picture()
    decoded = rgb_from_compressed(compressed(jpeg(image)))
    assert np.abs(decoded.astype(int) - image).mean() < 8
    png = cv2.imencode(".png", image[..., ::-1])[1].tobytes()
    lossless = rgb_from_compressed(compressed(png, "rgb8; png compressed"))
    np.testing.assert_array_equal(lossless, image)
    grey = cv2.imencode(".jpg", image[..., 0])[1].tobytes()
    assert rgb_from_compressed(compressed(grey)).shape == (60, 80)


@pytest.mark.parametrize("fraction", [0.2, 0.5, 0.9, 0.999])
def test_a_truncated_jpeg_is_refused(fraction: float) -> None:
    encoded = jpeg(picture())
    msg = compressed(encoded[: int(len(encoded) * fraction)])
    with pytest.raises(InputError, match="truncated JPEG"):
        rgb_from_compressed(msg)


def test_a_thumbnail_does_not_hide_that_a_jpeg_is_truncated() -> None:
    encoded = jpeg(picture())
    thumbnail = jpeg(picture(8, 8))
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    whole = encoded[:2] + segment + encoded[2:]
    assert rgb_from_compressed(compressed(whole)).shape[:2] == (60, 80)
    with pytest.raises(InputError, match="truncated JPEG"):
        rgb_from_compressed(compressed(whole[:-9]))


def test_padding_behind_a_jpeg_is_allowed() -> None:
    padded = jpeg(picture()) + bytes(16)
    assert rgb_from_compressed(compressed(padded)).shape == (60, 80, 3)


@pytest.mark.parametrize(
    ("data", "image_format", "message"),
    [
        (b"", "jpeg", "neither JPEG nor PNG.*missing"),
        (b"GIF89a  ", "jpeg", "neither JPEG nor PNG"),
        (b"\x89PNG\r\n\x1a\n" + bytes(30), "png", "truncated PNG"),
        (b"\xff\xd8\xff\xda\x00\x02\xff\xd9", "jpeg", "cannot be decoded"),
        (bytes(30), "16UC1; compressedDepth", "depth image"),
    ],
)
def test_other_compressed_data_is_refused(data: bytes, image_format: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        rgb_from_compressed(compressed(data, image_format))


def test_intrinsics_survive_the_round_trip() -> None:
    info = camera_info_from_intrinsics(CAMERA, Header(frame_id="camera"))
    calibration = calibration_from_camera_info(info, 80, 60)
    assert calibration.intrinsics() == CAMERA
    assert not calibration.is_distorted


def test_roi_and_binning_are_applied() -> None:
    info = camera_info_from_intrinsics(CAMERA, Header())
    info.roi.x_offset, info.roi.y_offset, info.roi.width, info.roi.height = 10, 20, 60, 40
    info.binning_x = info.binning_y = 2
    intrinsics = calibration_from_camera_info(info, 30, 20).intrinsics()
    assert intrinsics == CAMERA.cropped(10, 20, 60, 40).resized(30, 20)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": [0.0] * 9}, "zero focal length"),
        ({"k": [float("nan"), 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]}, "not finite"),
        ({"width": 81}, "81x60 pixels, the image has 80x60"),
        ({"d": [0.1, 0.2, 0.3]}, "3 distortion coefficients, plumb_bob takes 4 or 5"),
        ({"d": [0.1], "distortion_model": "kaleidoscope"}, "kaleidoscope.*expected one of"),
        ({"p": [-1.0] + [0.0] * 11}, "fx must be positive"),
    ],
)
def test_an_impossible_camera_info_is_refused(change: dict[str, object], message: str) -> None:
    info = camera_info_from_intrinsics(CAMERA, Header())
    for name, value in change.items():
        setattr(info, name, value)
    with pytest.raises(CalibrationError, match=message):
        calibration_from_camera_info(info, 80, 60)


def test_an_empty_p_is_taken_from_k() -> None:
    info = camera_info_from_intrinsics(CAMERA, Header())
    info.p, info.r = [0.0] * 12, [0.0] * 9
    assert calibration_from_camera_info(info).intrinsics() == CAMERA


@pytest.mark.parametrize(
    ("model", "coefficients"),
    [
        ("plumb_bob", [-0.3, 0.1, 0.001, -0.002, 0.0]),
        ("rational_polynomial", [-0.3, 0.1, 0.001, -0.002, 0.0, 0.01, 0.02, 0.0]),
        ("equidistant", [0.1, -0.05, 0.01, 0.0]),
    ],
)
def test_rectification_undoes_the_lens(model: str, coefficients: list[float]) -> None:
    """Each rectified pixel shows what the lens model says its ray projects to."""
    info = camera_info_from_intrinsics(CAMERA, Header())
    info.distortion_model, info.d = model, coefficients
    calibration = calibration_from_camera_info(info, 80, 60)
    image = picture()
    rectified, valid = rectify(image, calibration)
    assert valid is not None
    u, v = 20, 45
    ray = np.array([[[(u - CAMERA.cx) / CAMERA.fx, (v - CAMERA.cy) / CAMERA.fy, 1.0]]])
    project = cv2.fisheye.projectPoints if model == "equidistant" else cv2.projectPoints
    raw = project(ray, np.zeros(3), np.zeros(3), CAMERA.matrix(), np.array(coefficients))[0]
    x, y = raw.reshape(2)
    expected = cv2.remap(image, np.float32([[x]]), np.float32([[y]]), cv2.INTER_LINEAR)[0, 0]
    assert valid[v, u]
    np.testing.assert_allclose(rectified[v, u], expected, atol=2)
    again = rectification_maps(calibration_from_camera_info(info, 80, 60))
    assert again is rectification_maps(calibration), "maps are computed once per calibration"


def test_another_rectified_camera_alone_moves_the_picture() -> None:
    """No distortion and no rotation, but P is not K: what image_proc does with alpha."""
    info = camera_info_from_intrinsics(CAMERA, Header())
    info.p[2] = CAMERA.cx + 10.0
    rectified, valid = rectify(picture(), calibration_from_camera_info(info, 80, 60))
    np.testing.assert_array_equal(rectified[:, 10:], picture()[:, :-10])
    assert valid is not None
    assert not valid[:, :9].any()
    assert valid[:, 11:].all()


def test_what_the_camera_did_not_see_is_marked() -> None:
    info = camera_info_from_intrinsics(CAMERA, Header())
    info.d = [0.5, 0.3, 0.0, 0.0, 0.0]
    _, valid = rectify(picture(), calibration_from_camera_info(info, 80, 60))
    assert valid is not None
    assert valid[30, 40]
    assert not valid[0, 0]
