"""Errors that name the thing, what was expected, what came, and what to do."""

from __future__ import annotations


class CoopNetError(Exception):
    """Base of every error that coopnet raises on purpose."""


class ConfigError(CoopNetError):
    """A configuration key or value is unknown or out of range."""


class ShapeError(CoopNetError):
    """An array or tensor does not have the shape that a public function asks for."""


class DataError(CoopNetError):
    """A data set, image, bag or calibration file is missing, damaged or inconsistent."""


class CalibrationError(CoopNetError):
    """Camera intrinsics are impossible (zero focal length, wrong size, not finite)."""


class BundleError(CoopNetError):
    """A model bundle is missing, damaged, of another schema, or fails its checks."""


class ExportError(CoopNetError):
    """An exported artefact could not be made or disagrees with the network it came from."""


class EngineError(CoopNetError):
    """An engine for a GPU cannot be built or run, or disagrees with the ONNX file it came from."""


class RuntimeUnavailableError(CoopNetError):
    """An optional library that the chosen runtime or command needs is not installed."""


class InputError(CoopNetError):
    """A live input (image, stamp, camera info) cannot be used."""


class TrainingError(CoopNetError):
    """Training cannot go on: non-finite loss, incompatible checkpoint, nothing to learn from."""
