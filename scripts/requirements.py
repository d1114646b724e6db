"""Writes what pip has to install for one level of the environment.

The requirements are those of setup.py, read from the package's egg-info.

On top of a sourced ROS the distribution's own packages win (cv_bridge and its friends are built
against them): a pin is dropped where the base system has a version that setup.py accepts, and
OpenCV is not installed again where `import cv2` works, whatever its package is called.

Run by scripts/setup.sh with the environment's interpreter.
"""

from __future__ import annotations

import argparse
import importlib.util
from importlib import metadata
from pathlib import Path

from pip._vendor.packaging.requirements import Requirement
from pip._vendor.packaging.utils import canonicalize_name

LEVELS = {"runtime": (), "dev": ("dev",)}


def wanted(package: metadata.Distribution, level: str) -> list[Requirement]:
    """Requirements of a level: the runtime's and those of the level's extras."""
    found: dict[str, Requirement] = {}
    for line in package.requires or []:
        requirement = Requirement(line)
        marker, requirement.marker = requirement.marker, None
        if marker is None or any(
            marker.evaluate({"extra": extra}) for extra in ("", *LEVELS[level])
        ):
            found.setdefault(str(requirement), requirement)
    return list(found.values())


def system_versions(environment: Path) -> dict[str, str]:
    """Name and version of every distribution that lies outside the environment."""
    found: dict[str, str] = {}
    for distribution in metadata.distributions():
        location = Path(str(distribution.locate_file(""))).resolve()
        if environment.resolve() not in location.parents:
            found.setdefault(canonicalize_name(distribution.metadata["Name"]), distribution.version)
    return found


def has_system_opencv(environment: Path) -> bool:
    """Whether `import cv2` finds a module outside the environment."""
    spec = importlib.util.find_spec("cv2")
    if spec is None or spec.origin is None:
        return False
    return environment.resolve() not in Path(spec.origin).resolve().parents


def pinned_name(line: str) -> str:
    """Canonical name of a `name==version` line of a constraints file, or an empty string."""
    line = line.split("#")[0].strip()
    return canonicalize_name(Requirement(line).name) if line else ""


def main() -> None:
    """Writes requirements and constraints files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("level", choices=sorted(LEVELS))
    parser.add_argument("--egg-info", type=Path, required=True)
    parser.add_argument("--constraints", type=Path, required=True)
    parser.add_argument("--environment", type=Path, required=True)
    parser.add_argument("--prefer-system", action="store_true")
    parser.add_argument("--output", type=Path, required=True, help="folder for the two files")
    arguments = parser.parse_args()

    package = metadata.Distribution.at(arguments.egg_info)
    requirements = wanted(package, arguments.level)
    pins = arguments.constraints.read_text("utf-8").splitlines()
    if arguments.prefer_system:
        present = system_versions(arguments.environment)
        if has_system_opencv(arguments.environment):
            requirements = [r for r in requirements if not r.name.startswith("opencv")]
        refused = {
            canonicalize_name(r.name)
            for r in requirements
            if canonicalize_name(r.name) in present
            and not r.specifier.contains(present[canonicalize_name(r.name)], prereleases=True)
        }
        pins = [p for p in pins if (n := pinned_name(p)) not in present or n in refused]
    arguments.output.mkdir(parents=True, exist_ok=True)
    lines = sorted(str(requirement) for requirement in requirements)
    (arguments.output / "requirements.txt").write_text("\n".join(lines) + "\n", "utf-8")
    (arguments.output / "constraints.txt").write_text("\n".join(pins) + "\n", "utf-8")


if __name__ == "__main__":
    main()
