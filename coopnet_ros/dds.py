"""How DDS talks: on this machine alone, and through shared memory that images fit into."""

from __future__ import annotations

from collections.abc import MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING

from coopnet_core.installed import package_file

if TYPE_CHECKING:
    from rclpy.impl.rcutils_logger import RcutilsLogger

# Fast DDS 2 (Humble, Jazzy) and 3 (Kilted and later).
PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
_TRANSPORTS = "FASTDDS_BUILTIN_TRANSPORTS"
_DEFAULT_PROFILES = ("DEFAULT_FASTRTPS_PROFILES.xml", "DEFAULT_FASTDDS_PROFILES.xml")


def stay_on_this_machine(env: MutableMapping[str, str]) -> None:
    """Keep ROS from talking to other machines, unless the user has set how far it shall reach.

    Args:
        env: Environment to change, such as ``os.environ``.
    """
    env.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    # Humble ignores that variable, and later ones complain about this one.
    if env.get("ROS_DISTRO") == "humble":
        env.setdefault("ROS_LOCALHOST_ONLY", "1")


def enlarge_shared_memory(env: MutableMapping[str, str]) -> Path | None:
    """Give Fast DDS the profile ``config/fastdds.xml``, unless the user has chosen one.

    A process sends through its own segment of shared memory, by default of 512 KB. When depth, flow
    and previews of a frame do not fit, messages are lost, and a reliable publisher repeats them up
    to 3 s later. Call it before ``rclpy.init``.

    The user has chosen where a profile or transports are named in the environment, or where a file
    that Fast DDS reads by itself lies in the working directory.

    Args:
        env: Environment to change, such as ``os.environ``.

    Returns:
        The profile that was set; None where the user's choice stays.
    """
    other_middleware = "fastrtps" not in env.get("RMW_IMPLEMENTATION", "rmw_fastrtps_cpp")
    if other_middleware or any(env.get(name) for name in (*PROFILE_VARIABLES, _TRANSPORTS)):
        return None
    if any(Path(name).exists() for name in _DEFAULT_PROFILES):
        return None
    profile = package_file("config/fastdds.xml")
    if profile is not None:
        env.update(dict.fromkeys(PROFILE_VARIABLES, str(profile)))
    return profile


def log_profile(logger: RcutilsLogger, profile: Path | None) -> None:
    """Say once that ``enlarge_shared_memory`` has set a profile, and how to have another."""
    if profile is not None:
        logger.info(
            f"Fast DDS uses {profile} (more shared memory); "
            f"{PROFILE_VARIABLES[0]} or {_TRANSPORTS} override it"
        )
