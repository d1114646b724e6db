"""Read settings from YAML with errors that name the key, the value and the nearest spelling."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from coopnet_core.errors import ConfigError
from coopnet_core.installed import package_file, package_folders

Model = TypeVar("Model", bound=BaseModel)

DEFAULT_RECIPE = "coopnet_small"


def load_config(path: Path, model: type[Model]) -> Model:
    """Read a YAML file into a settings class.

    Raises:
        ConfigError: The file is missing, is not YAML, or a key or value is wrong; all of them are
            listed.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read config {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"config {path} is not valid YAML: {error}") from error
    return parse_config(content, model, str(path))


def parse_config(content: Any, model: type[Model], origin: str) -> Model:
    """Validate parsed content.

    Args:
        content: What YAML or JSON gave.
        model: The settings class.
        origin: Where it came from, for the message.

    Raises:
        ConfigError: See ``load_config``.
    """
    if not isinstance(content, dict):
        raise ConfigError(f"{origin} must hold keys and values, got {type(content).__name__}")
    try:
        return model.model_validate(content)
    except ValidationError as error:
        lines = [_explain(problem, model) for problem in error.errors()]
        raise ConfigError(f"{origin}: " + "; ".join(lines)) from error


def _explain(problem: Any, model: type[BaseModel]) -> str:
    location = problem["loc"]
    name = ".".join(str(part) for part in location)
    if problem["type"] == "extra_forbidden":
        known = list(_model_at(model, location[:-1]).model_fields)
        close = difflib.get_close_matches(str(location[-1]), known, 1)
        hint = f"did you mean {close[0]}?" if close else f"known keys: {', '.join(known)}"
        return f"unknown key {name}: {hint}"
    if problem["type"] == "missing":
        return f"key {name} is missing"
    return f"{name or 'settings'}: {problem['msg']} (got {problem['input']!r})"


def _model_at(model: type[BaseModel], location: tuple[Any, ...]) -> type[BaseModel]:
    """Follow field names (and list positions) down to the class that was being filled."""
    for part in location:
        if isinstance(part, int):
            continue
        annotation = model.model_fields[part].annotation
        candidates = [annotation, *get_args(annotation)]
        nested = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
        if not nested:
            return model
        model = nested[0]
    return model


def default_recipe_path(name: str = DEFAULT_RECIPE) -> Path:
    """Find an included recipe, in a source checkout or where the package is installed.

    Raises:
        ConfigError: There is none of that name; the message lists those that are there.
    """
    found = package_file(f"config/recipes/{name}.yaml")
    if found is not None:
        return found
    folders = [folder / "config" / "recipes" for folder in package_folders()]
    names = sorted({path.stem for folder in folders for path in folder.glob("*.yaml")})
    raise ConfigError(
        f"no included recipe {name!r} (found: {', '.join(names) or 'none'}): give a YAML file"
    )
