"""Where the files are that come with the package: bundles, recipes, the demo, configurations."""

from __future__ import annotations

import os
from pathlib import Path

SHARE = "share/coopnet_ros"


def package_folders() -> list[Path]:
    """Return the folders that files of the package may lie below, in the order to look at them.

    First the source checkout; then ``share/coopnet_ros`` of every folder above this module, which
    is where pip and colcon install to; then that of every prefix in ``AMENT_PREFIX_PATH``.
    """
    root = Path(__file__).resolve().parents[1]
    named = os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)
    prefixes = [root, *root.parents, *(Path(prefix) for prefix in named if prefix)]
    return [root, *(prefix / SHARE for prefix in prefixes)]


def package_file(relative: str) -> Path | None:
    """Find a file or folder of the package.

    Args:
        relative: Path below one of ``package_folders``, such as ``config/fastdds.xml``.

    Returns:
        Its path; None when it is at none of these places.
    """
    places = (folder / relative for folder in package_folders())
    return next((place for place in places if place.exists()), None)
