"""Engines on disk: a plan and, written after it, a side file that says in words what it is.

An engine runs only on the GPU and library version that it was built with, so both are in its key.
Files appear by renaming, the side file last: one without the other, or one whose content is not
what the side file says, counts as absent and is built again.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from coopnet_core.errors import EngineError
from coopnet_core.inference.bundle import sha256_of

CACHE_VARIABLE = "COOPNET_CACHE_DIR"
ANY_GPU = "any"


@dataclass(frozen=True)
class EngineKey:
    """Everything that decides whether an engine fits.

    Attributes:
        onnx_sha256: Of the ONNX file.
        library: Name of the library.
        library_version: Its version.
        gpu: Name of the GPU; ``any`` with TensorRT-RTX, which builds for a compute capability.
        compute_capability: Such as ``8.6``.
        precision: Of the arithmetic.
        input_shape: Of the images.
        dla_core: Deep learning accelerator; None: the GPU alone.
        workspace_mib: Scratch memory, MiB.
    """

    onnx_sha256: str
    library: str
    library_version: str
    gpu: str
    compute_capability: str
    precision: str
    input_shape: tuple[int, ...]
    dla_core: int | None
    workspace_mib: int

    @property
    def digest(self) -> str:
        """SHA-256 of all of them, 64 hexadecimal digits."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


class Verification(BaseModel):
    """How far an engine is from its ONNX file run by ONNX Runtime on the CPU.

    Errors are absolute differences in ``unit``: the median and the 95th percentile of the worst
    frame.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    reference: str
    num_frames: int = Field(ge=1)
    unit: str
    median_error: float = Field(ge=0)
    median_limit: float
    p95_error: float = Field(ge=0)
    p95_limit: float


class SideFile(BaseModel):
    """What lies beside an engine."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bundle: str
    network: str
    key: EngineKey
    engine_sha256: str
    engine_bytes: int
    built: str = Field(description="UTC time, ISO 8601")
    build_s: float
    inputs: dict[str, str]
    outputs: dict[str, str]
    verification: Verification | None = None


@dataclass(frozen=True)
class CachedEngine:
    """An engine whose file is what its side file says."""

    path: Path
    side: SideFile


def default_cache_dir() -> Path:
    """Return the folder of the engines: COOPNET_CACHE_DIR, or ``coopnet/engines`` in the cache."""
    own = os.environ.get(CACHE_VARIABLE)
    if own:
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "coopnet" / "engines"


def find(folder: Path, key: EngineKey) -> CachedEngine | None:
    """Return the engine with this key, or None where it is absent, damaged or half written."""
    path = _path(folder, key)
    side = _read_side(path)
    if side is None or side.key != key or not _is_intact(path, side):
        return None
    return CachedEngine(path, side)


def find_like(folder: Path, key: EngineKey) -> CachedEngine | None:
    """Return the newest engine whose key differs in nothing but DLA core and workspace.

    So a node takes the engine that was built for it, whatever it was built with.
    """
    found = []
    for side_path in folder.glob("*.json"):
        path = side_path.with_suffix(".engine")
        side = _read_side(path)
        if side is not None and _without_choices(side.key) == _without_choices(key):
            found.append(CachedEngine(path, side))
    found.sort(key=lambda engine: engine.side.built, reverse=True)
    return next((engine for engine in found if _is_intact(engine.path, engine.side)), None)


def store(folder: Path, side: SideFile, plan: bytes) -> CachedEngine:
    """Write an engine and then its side file.

    Raises:
        EngineError: The folder cannot be written.
    """
    path = _path(folder, side.key)
    with _as_engine_error(folder):
        write_atomically(path, plan)
        _write_side(path, side)
    return CachedEngine(path, side)


def record(engine: CachedEngine, verification: Verification) -> CachedEngine:
    """Note in the side file that an engine was verified.

    Raises:
        EngineError: The file cannot be written.
    """
    side = engine.side.model_copy(update={"verification": verification})
    with _as_engine_error(engine.path.parent):
        _write_side(engine.path, side)
    return CachedEngine(engine.path, side)


def remove(engine: CachedEngine) -> None:
    """Delete an engine and what lies beside it, its side file first."""
    for suffix in (".json", ".engine", ".runtime-cache"):
        engine.path.with_suffix(suffix).unlink(missing_ok=True)


@contextlib.contextmanager
def lock(folder: Path, key: EngineKey) -> Iterator[None]:
    """Hold other processes back that want to build the same engine.

    The system frees the lock when its process ends, however it ends.

    Raises:
        EngineError: The folder cannot be written.
    """
    with _as_engine_error(folder):
        folder.mkdir(parents=True, exist_ok=True)
        stream = _path(folder, key).with_suffix(".lock").open("w")
    with stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all, even after a power cut.

    Raises:
        OSError: The folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        os.fchmod(handle, 0o644)  # mkstemp makes it readable for the owner alone
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _path(folder: Path, key: EngineKey) -> Path:
    return folder / f"{key.digest}.engine"


def _without_choices(key: EngineKey) -> dict[str, object]:
    fields = asdict(key)
    return {name: fields[name] for name in fields if name not in ("dla_core", "workspace_mib")}


def _read_side(path: Path) -> SideFile | None:
    try:
        side = SideFile.model_validate_json(path.with_suffix(".json").read_bytes())
    except (OSError, ValidationError):
        return None
    return side if side.key.digest == path.stem else None


def _is_intact(path: Path, side: SideFile) -> bool:
    if not path.is_file() or path.stat().st_size != side.engine_bytes:
        return False
    return sha256_of(path) == side.engine_sha256


def _write_side(path: Path, side: SideFile) -> None:
    write_atomically(path.with_suffix(".json"), side.model_dump_json(indent=2).encode() + b"\n")


def sha256_of_bytes(data: bytes) -> str:
    """Return the SHA-256 of data as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def utc_now() -> str:
    """Return the time as the side file has it."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@contextlib.contextmanager
def _as_engine_error(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise EngineError(
            f"cannot write engines to {folder}: {error}; name another folder with --out or the "
            f"environment variable {CACHE_VARIABLE}"
        ) from error
