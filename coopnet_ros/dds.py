"""Shared memory that images fit into, for Fast DDS, and where files of the package are."""

from __future__ import annotations

from collections.abc import MutableMapping
from pathlib import Path

# Fast DDS 2 (Humble, Jazzy) and 3 (Kilted and later).
PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")


def package_file(relative: str) -> Path | None:
    """Find a file or folder of this package in the repository or where it is installed.

    Args:
        relative: Path below the repository or below ``share/coopnet_ros``.

    Returns:
        Its path; None when it is at neither place.
    """
    here = Path(__file__).resolve()
    places = [here.parents[1], *(parent / "share" / "coopnet_ros" for parent in here.parents)]
    return next((place / relative for place in places if (place / relative).exists()), None)


def enlarge_shared_memory(env: MutableMapping[str, str]) -> None:
    """Give Fast DDS the profile ``config/fastdds.xml``, unless the user has chosen one.

    A process sends through its own segment of shared memory, by default of 512 KB. When depth, flow
    and previews of a frame do not fit, messages are lost, and a reliable publisher repeats them up
    to 3 s later. Call it before ``rclpy.init``.

    Args:
        env: Environment to change, such as ``os.environ``.
    """
    other_middleware = "fastrtps" not in env.get("RMW_IMPLEMENTATION", "rmw_fastrtps_cpp")
    if other_middleware or any(env.get(name) for name in PROFILE_VARIABLES):
        return
    profile = package_file("config/fastdds.xml")
    if profile is not None:
        env.update(dict.fromkeys(PROFILE_VARIABLES, str(profile)))
