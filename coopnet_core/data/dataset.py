"""The data set that training reads: image pairs at one size, augmented, reproducible."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch

from coopnet_core.data.images import read_image_sized
from coopnet_core.data.pairs import PairRecord
from coopnet_core.errors import DataError
from coopnet_core.types import UNKNOWN_MOTION

Item = dict[str, torch.Tensor]

# Ranges after Godard et al., "Digging Into Self-Supervised Monocular Depth Estimation", ICCV 2019.
_BRIGHTNESS = (0.8, 1.2)
_CONTRAST = (0.8, 1.2)
_GAMMA = (0.8, 1.2)
# Lenses, debayering and resizing make one scene soft in one camera and crisp in another; a network
# that has seen one sharpness reads distance into it. Standard deviation of a blur in pixels, and
# how much of what such a blur of one pixel removes is added on top.
_BLUR_SIGMA = (0.2, 1.0)
_SHARPEN = (0.2, 1.0)
MAX_CACHE_BYTES = 8 * 2**30
_MIRROR = np.diag([-1.0, 1.0, 1.0, 1.0])


class FrameCache:
    """Images decoded and resized once, kept in memory as uint8; threads may share it.

    A gray image costs width * height bytes, a colour image three times that.
    """

    def __init__(
        self, width: int, height: int, is_gray: bool = False, max_bytes: int = MAX_CACHE_BYTES
    ) -> None:
        """Make an empty cache.

        Args:
            width: Width of the frames it gives.
            height: Their height.
            is_gray: Turn colour images into luminance (BT.601), as a gray bundle does.
            max_bytes: Frames beyond this are read anew each time.
        """
        self.width = width
        self.height = height
        self.is_gray = is_gray
        self.max_bytes = max_bytes
        self._num_bytes = 0
        self._lock = threading.Lock()
        self._frames: dict[Path, npt.NDArray[np.uint8]] = {}

    def __len__(self) -> int:
        return len(self._frames)

    def get(
        self,
        path: Path,
        native_width: int,
        native_height: int,
        crop_bottom: int = 0,
        is_label: bool = False,
    ) -> npt.NDArray[np.uint8]:
        """Return the frame, (H, W) gray or (H, W, 3) RGB; it must not be written to.

        Args:
            path: Image file.
            native_width: Width that it must have.
            native_height: Height that it must have.
            crop_bottom: Rows at the bottom of the file that are not part of the image.
            is_label: The pixels are labels: return 1 where there is one, 0 elsewhere, never a mean.

        Raises:
            DataError: The file cannot be read or does not have its native size.
        """
        frame = self._frames.get(path)
        if frame is None:
            image = read_image_sized(path, native_width, native_height, crop_bottom)
            if is_label:
                is_any = (image > 0).reshape(*image.shape[:2], -1).any(axis=2)
                image = np.asarray(is_any, np.uint8)
            elif self.is_gray and image.ndim == 3:
                image = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)
            frame = np.asarray(
                cv2.resize(
                    image,
                    (self.width, self.height),
                    interpolation=cv2.INTER_NEAREST if is_label else cv2.INTER_AREA,
                ),
                dtype=np.uint8,
            )
            with self._lock:
                fits = self._num_bytes + frame.nbytes <= self.max_bytes
                if fits and path not in self._frames:
                    self._frames[path] = frame
                    self._num_bytes += frame.nbytes
        return frame


class PairDataset:
    """Image pairs as tensors; an item depends on (seed, epoch, index) and nothing else."""

    def __init__(
        self,
        records: Sequence[PairRecord],
        width: int,
        height: int,
        augment: bool = True,
        seed: int = 0,
        tint: float = 0.0,
        cache: FrameCache | None = None,
    ) -> None:
        """Prepare the data set; images are read when they are first asked for.

        Args:
            records: The pairs.
            width: Width of the images returned.
            height: Height of the images returned.
            augment: Flip, photometric jitter and a change of sharpness, each with probability
                one half.
            seed: Seed of the augmentation, >= 0.
            tint: Largest relative change of a colour channel, such as 0.05; 0 for gray cameras.
            cache: Cache to share with another data set of the same size.

        Raises:
            DataError: There are no pairs, or the cache has another image size.
        """
        if not records:
            raise DataError("the data set has no image pairs; check frames, gaps and min_motion")
        if cache is not None and (cache.width, cache.height) != (width, height):
            raise DataError(
                f"the shared cache holds {cache.width}x{cache.height} frames, but the data set "
                f"needs {width}x{height}"
            )
        self.records = tuple(records)
        self.has_motion = any(record.motion_tgt is not None for record in records)
        self.width = width
        self.height = height
        self.augment = augment
        self.seed = seed
        self.tint = tint
        self.cache = cache if cache is not None else FrameCache(width, height)

    def __len__(self) -> int:
        return len(self.records)

    def item(self, index: int, epoch: int = 0) -> Item:
        """Return one pair.

        Args:
            index: Index of the pair.
            epoch: Epoch; another epoch draws other augmentations.

        Returns:
            ``image_tgt``, ``image_src``: (3, H, W) float32 in [0, 1], not jittered;
            ``input_tgt``, ``input_src``: the same with one photometric jitter and one change of
            sharpness for both frames;
            ``K``: (3, 3) float32 in pixels of these images; ``T_src_tgt``: (4, 4) float32, metres,
            identity when unknown; ``has_pose``: bool scalar; where any pair has it, ``motion_tgt``:
            (1, H, W) uint8, as in ``types.Batch``.

        Raises:
            DataError: An image cannot be read or does not have its calibrated size.
        """
        record = self.records[index]
        camera = record.intrinsics
        motion = self._motion(record)
        tgt = self.cache.get(record.path_tgt, camera.width, camera.height, record.crop_bottom)
        src = self.cache.get(record.path_src, camera.width, camera.height, record.crop_bottom)
        camera = camera.resized(self.width, self.height)
        has_pose = record.T_src_tgt is not None
        T_src_tgt: npt.NDArray[np.float64] = np.eye(4)
        if record.T_src_tgt is not None:
            T_src_tgt = np.array(record.T_src_tgt, dtype=np.float64).reshape(4, 4)

        rng = np.random.default_rng((self.seed, epoch, index))
        # Never swapped: the loss reads every pair both ways anyway, and a pose network that sees
        # time run either way at random has an average answer of zero to start from.
        is_flipped, is_jittered, is_refocused = rng.random(3) < (0.5 if self.augment else 0.0)
        if is_flipped:
            tgt, src = tgt[:, ::-1], src[:, ::-1]
            motion = motion[:, ::-1]
            camera = camera.flipped()
            T_src_tgt = _MIRROR @ T_src_tgt @ _MIRROR

        image_tgt, image_src = _to_unit_chw(tgt), _to_unit_chw(src)
        input_tgt, input_src = image_tgt, image_src
        if is_jittered:
            input_tgt, input_src = _jitter(rng, image_tgt, image_src, self.tint)
        if is_refocused:
            input_tgt, input_src = _refocus(rng, input_tgt, input_src)
        item = {
            "image_tgt": torch.from_numpy(image_tgt),
            "image_src": torch.from_numpy(image_src),
            "input_tgt": torch.from_numpy(input_tgt),
            "input_src": torch.from_numpy(input_src),
            "K": torch.from_numpy(camera.matrix().astype(np.float32)),
            "T_src_tgt": torch.from_numpy(T_src_tgt.astype(np.float32)),
            "has_pose": torch.tensor(has_pose),
        }
        if self.has_motion:
            item["motion_tgt"] = torch.from_numpy(np.ascontiguousarray(motion[None]))
        return item

    def _motion(self, record: PairRecord) -> npt.NDArray[np.uint8]:
        if record.motion_tgt is None:
            return np.full((self.height, self.width), UNKNOWN_MOTION, np.uint8)
        camera = record.intrinsics
        size = (camera.width, camera.height)
        return self.cache.get(record.motion_tgt, *size, record.crop_bottom, is_label=True)


def _to_unit_chw(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    scaled = image.astype(np.float32) / np.float32(255)
    if scaled.ndim == 2:
        return np.repeat(scaled[None], 3, axis=0)
    return np.ascontiguousarray(scaled.transpose(2, 0, 1))


def _jitter(
    rng: np.random.Generator,
    image_tgt: npt.NDArray[np.float32],
    image_src: npt.NDArray[np.float32],
    tint: float,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    brightness = rng.uniform(*_BRIGHTNESS)
    contrast = rng.uniform(*_CONTRAST)
    gamma = rng.uniform(*_GAMMA)
    channel_gain = (1 + tint * rng.uniform(-1, 1, size=(3, 1, 1))).astype(np.float32)
    # One number for both frames: each frame's own mean would jitter them apart.
    middle = float(image_tgt.mean() + image_src.mean()) / 2

    def apply(image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        jittered = (image - middle) * np.float32(contrast) + np.float32(middle)
        jittered = np.clip(jittered * np.float32(brightness) * channel_gain, 0, 1)
        return np.ascontiguousarray(jittered ** np.float32(gamma), dtype=np.float32)

    return apply(image_tgt), apply(image_src)


def _refocus(
    rng: np.random.Generator,
    image_tgt: npt.NDArray[np.float32],
    image_src: npt.NDArray[np.float32],
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Blur both images, or sharpen both, by one amount."""
    is_blur = rng.random() < 0.5
    amount = rng.uniform(*(_BLUR_SIGMA if is_blur else _SHARPEN))
    sigma = amount if is_blur else 1.0

    def apply(image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        soft = np.stack([cv2.GaussianBlur(channel, (0, 0), sigma) for channel in image])
        if not is_blur:
            soft = np.clip(image + amount * (image - soft), 0, 1)
        return np.ascontiguousarray(soft, dtype=np.float32)

    return apply(image_tgt), apply(image_src)
