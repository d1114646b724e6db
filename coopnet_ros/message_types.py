"""Find ROS message classes by name, and write down their definitions."""

from __future__ import annotations

import importlib
import re
from typing import Any

from coopnet_core.errors import RuntimeUnavailableError

_PRIMITIVES = {"boolean": "bool", "octet": "byte", "float": "float32", "double": "float64"}


def message_class(msgtype: str) -> Any:
    """Import a message class.

    Args:
        msgtype: Name, such as ``sensor_msgs/msg/Image``.

    Returns:
        The Python class.

    Raises:
        RuntimeUnavailableError: The package is not installed or has no such message.
    """
    package, _, rest = msgtype.partition("/")
    name = rest.rpartition("/")[2]
    try:
        return getattr(importlib.import_module(f"{package}.msg"), name)
    except (ImportError, AttributeError) as error:
        raise RuntimeUnavailableError(
            f"message type {msgtype} is not installed: install ros-$ROS_DISTRO-"
            f"{package.replace('_', '-')}, or source the workspace that builds {package}"
        ) from error


def message_definition(msgtype: str) -> dict[str, str]:
    """Return the ``.msg`` text of an installed type and of all types in it.

    The text is put together from the class, so it needs no ``.msg`` files; comments, constants and
    default values are not in it.

    Args:
        msgtype: Name, such as ``my_msgs/msg/Thing``.

    Returns:
        Text by type name, parts before the wholes that use them.

    Raises:
        RuntimeUnavailableError: A type is not installed.
    """
    fields = message_class(msgtype).get_fields_and_field_types()
    texts: dict[str, str] = {}
    lines = []
    for name, declared in fields.items():
        written = _msg_type(declared)
        lines.append(f"{written} {name}")
        element = written.partition("[")[0]
        if "/" in element:
            package, _, inner = element.partition("/")
            texts |= message_definition(f"{package}/msg/{inner}")
    texts[msgtype] = "\n".join(lines) + "\n"
    return texts


def _msg_type(declared: str) -> str:
    """Turn the type of a field (``sequence<double, 3>``) into .msg syntax (``float64[<=3]``)."""
    if match := re.fullmatch(r"sequence<(.+?)(?:, (\d+))?>", declared):
        bound = f"<={match[2]}" if match[2] else ""
        return f"{_msg_type(match[1])}[{bound}]"
    if match := re.fullmatch(r"(.+)\[(\d+)\]", declared):
        return f"{_msg_type(match[1])}[{match[2]}]"
    if match := re.fullmatch(r"(w?string)<(\d+)>", declared):
        return f"{match[1]}<={match[2]}"
    return _PRIMITIVES.get(declared, declared)
