"""A bundle: the directory that holds a trained model, described by ``bundle.json``.

Loading reads JSON, ONNX and safetensors only, and checks the size and SHA-256 of every file, so
that a half-copied or edited bundle is refused before it drives anything.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from coopnet_core.errors import BundleError
from coopnet_core.installed import SHARE, package_file, package_folders

SCHEMA_VERSION = 2
BUNDLE_FILE = "bundle.json"
WEIGHTS_FILE = "weights.safetensors"
DEFAULT_BUNDLE = "small"

Precision = Literal["float32", "float16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("float32", "float16", "int8")
NetworkName = Literal["depth", "pose", "flow_features", "flow"]
NETWORK_NAMES: tuple[NetworkName, ...] = ("depth", "pose", "flow_features", "flow")


class _Model(BaseModel):
    """Unknown keys are refused: in a file that we write, they are typing errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class FileInfo(_Model):
    """What a file of the bundle must be."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size_bytes: int = Field(ge=1)


class OutputError(_Model):
    """How far one output of an ONNX graph is from the reference."""

    median_error: float = Field(ge=0)
    max_error: float = Field(ge=0)


class ExportCheck(_Model):
    """How far the ONNX graph is from what it was made from, which ``reference`` names.

    The errors are absolute differences of the outputs over ``num_frames`` inputs, in ``unit``: of
    all outputs together, and of each by its name.
    """

    num_frames: int = Field(ge=1)
    unit: str
    median_error: float = Field(ge=0)
    max_error: float = Field(ge=0)
    median_magnitude: float = Field(ge=0, description="median |output|, to judge the errors by")
    reference: str = "torch networks"
    outputs: dict[str, OutputError] = {}


class PrecisionInfo(_Model):
    """A network's ONNX file in another precision than float32, and how it was made."""

    onnx: str
    note: str = ""
    check: ExportCheck | None = None


class NetworkInfo(_Model):
    """One network of the bundle: its float32 file, and those in other precisions."""

    onnx: str
    parameters: int = Field(ge=0)
    precision: str = "float16 weights, float32 arithmetic"
    check: ExportCheck | None = None
    precisions: dict[Literal["float16", "int8"], PrecisionInfo] = {}

    def files(self) -> dict[Precision, str]:
        """Name of the ONNX file per precision."""
        files: dict[Precision, str] = {"float32": self.onnx}
        return files | {name: entry.onnx for name, entry in self.precisions.items()}


class InputInfo(_Model):
    """The image that the networks take, and what colour it was in training."""

    width: int = Field(ge=32, multiple_of=32)
    height: int = Field(ge=32, multiple_of=32)
    color: Literal["gray", "rgb"]


class DepthInfo(_Model):
    """Meaning of the depth output.

    ``metric`` says that depth is in metres; otherwise its unit is arbitrary but constant.
    ``min_canonical`` and ``max_canonical`` bound the canonical depth that is worth believing.
    ``network_width`` and ``network_height`` tell at which size the depth network works inside its
    ONNX file, where that is not the size of the input.
    """

    metric: bool
    min_canonical: float = Field(gt=0)
    max_canonical: float = Field(gt=0)
    network_width: int | None = None
    network_height: int | None = None


class TrainingInfo(_Model):
    """Where the weights come from, and under which terms they may be used."""

    data: list[str]
    license: str
    recipe: str
    command: str = ""
    seed: int | None = None
    steps: int = Field(ge=0, default=0)
    duration_s: float | None = Field(ge=0, default=None)
    hardware: str = ""
    initialisation: str = ""


class Scores(_Model):
    """A table of measured numbers: one row per method, the bundle's among them."""

    title: str
    data: str
    protocol: str
    rows: list[dict[str, str | int | float | None]]
    notes: list[str] = []


class BundleInfo(_Model):
    """Content of ``bundle.json``."""

    schema_version: Literal[2] = 2
    name: str
    description: str = ""
    variant: str
    coopnet_version: str
    created: str = Field(description="UTC time, ISO 8601")
    input: InputInfo
    depth: DepthInfo
    networks: dict[NetworkName, NetworkInfo]
    training: TrainingInfo
    metrics: list[Scores] = []
    files: dict[str, FileInfo]

    @field_validator("files")
    @classmethod
    def _plain_names(cls, files: dict[str, FileInfo]) -> dict[str, FileInfo]:
        for name in files:
            if name in ("", ".", "..") or "/" in name or "\\" in name:
                raise ValueError(f"file name {name!r} must be a plain name inside the bundle")
        return files

    @field_validator("networks")
    @classmethod
    def _all_networks(
        cls, networks: dict[NetworkName, NetworkInfo]
    ) -> dict[NetworkName, NetworkInfo]:
        missing = [name for name in NETWORK_NAMES if name not in networks]
        if missing:
            raise ValueError(f"missing {', '.join(missing)}; needed: {', '.join(NETWORK_NAMES)}")
        return networks


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files have been checked.

    Attributes:
        path: The directory.
        info: Content of its ``bundle.json``.
    """

    path: Path
    info: BundleInfo

    @property
    def width(self) -> int:
        """Width in pixels of the networks' input."""
        return self.info.input.width

    @property
    def height(self) -> int:
        """Height in pixels of the networks' input."""
        return self.info.input.height

    @property
    def color(self) -> Literal["gray", "rgb"]:
        """Colour of the training images; ``gray`` asks for luminance in all three channels."""
        return self.info.input.color

    @property
    def metric(self) -> bool:
        """Whether depth and translation are in metres."""
        return self.info.depth.metric

    @property
    def version(self) -> str:
        """Short name of exactly these weights: bundle name and first digits of the hashes."""
        digest = hashlib.sha256()
        for name in sorted(self.info.files):
            digest.update(self.info.files[name].sha256.encode())
        return f"{self.info.name}-{digest.hexdigest()[:8]}"

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """Precisions that every network has a file for; ``float32`` is always among them."""
        networks = self.info.networks.values()
        return tuple(p for p in PRECISIONS if all(p in network.files() for network in networks))

    def onnx_path(self, network: NetworkName, precision: Precision = "float32") -> Path:
        """Return the path of a network's ONNX file.

        Raises:
            BundleError: The bundle has no such precision.
        """
        if precision not in self.precisions:
            raise BundleError(
                f"bundle {self.path} has no {precision}, only {', '.join(self.precisions)}: add it "
                f"with 'coopnet export {self.path} --out DIR --precisions {precision} --frames "
                "IMAGES', IMAGES being a folder of consecutive images of your camera"
            )
        return self.path / self.info.networks[network].files()[precision]


def load_bundle(path: str | Path) -> Bundle:
    """Read and check a bundle.

    Args:
        path: The bundle's directory.

    Returns:
        The bundle; every file that it lists exists and has the size and SHA-256 that it says.

    Raises:
        BundleError: The directory or a file is missing, ``bundle.json`` cannot be read or has
            another schema, or a file is not the one that was exported.
    """
    directory = Path(path).expanduser()
    if not directory.is_dir():
        raise BundleError(
            f"no bundle at {directory}: expected a directory with {BUNDLE_FILE}; "
            "make one with 'coopnet export CHECKPOINT --out DIR --frames IMAGES' or leave the "
            "parameter empty for the included one"
        )
    info = _read_info(directory / BUNDLE_FILE)
    for network in NETWORK_NAMES:
        for name in info.networks[network].files().values():
            if name not in info.files:
                raise BundleError(
                    f"{directory / BUNDLE_FILE}: network {network!r} names {name!r}, which is not "
                    f"among its files ({', '.join(sorted(info.files))}); export the bundle again"
                )
    for name, expected in info.files.items():
        _check_file(directory / name, expected)
    return Bundle(directory, info)


def default_bundle_path(name: str = DEFAULT_BUNDLE) -> Path:
    """Find an included bundle, in a source checkout or where the package is installed.

    Args:
        name: Name of the bundle, such as ``small``.

    Returns:
        Its directory.

    Raises:
        BundleError: None of the places has it; the message lists them.
    """
    found = package_file(f"bundles/{name}/{BUNDLE_FILE}")
    if found is not None:
        return found.parent
    root = package_folders()[0]
    raise BundleError(
        f"no included bundle {name!r}: looked at {root / 'bundles' / name} and for {SHARE}/bundles/"
        f"{name} in {root}, above it and in AMENT_PREFIX_PATH; give a bundle directory instead"
    )


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def _read_info(path: Path) -> BundleInfo:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(
            f"cannot read {path}: {error}; a bundle is a directory with {BUNDLE_FILE}, so check "
            "the path, or export the bundle again if the export was interrupted"
        ) from error
    try:
        return BundleInfo.model_validate_json(text)
    except ValidationError as error:
        problems = [
            f"{'.'.join(str(part) for part in item['loc']) or 'file'}: {item['msg']}"
            f" (got {str(item['input'])[:60]!r})"
            for item in error.errors()
        ]
        version = next((p for p in problems if p.startswith("schema_version")), None)
        if version is not None:
            raise BundleError(
                f"{path}: schema_version must be {SCHEMA_VERSION} for this program. {version}. "
                "Use the matching coopnet, or export the checkpoint again with this one"
            ) from error
        raise BundleError(
            f"{path} is not a valid bundle description: {'; '.join(problems)}; "
            "export the bundle again"
        ) from error


def _check_file(path: Path, expected: FileInfo) -> None:
    if not path.is_file():
        raise BundleError(
            f"{path} is missing although {BUNDLE_FILE} lists it: copy the whole bundle directory, "
            "or export it again"
        )
    size = path.stat().st_size
    if size != expected.size_bytes:
        raise BundleError(
            f"{path} has {size} bytes, expected {expected.size_bytes}: the copy is incomplete or "
            "the file was changed (with git-lfs, fetch it); copy the bundle again"
        )
    digest = sha256_of(path)
    if digest != expected.sha256:
        raise BundleError(
            f"{path} has SHA-256 {digest[:16]}..., expected {expected.sha256[:16]}...: the file "
            "was changed or damaged; copy the bundle again, or export it again"
        )
