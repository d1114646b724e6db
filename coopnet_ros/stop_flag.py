"""End a node in order on SIGINT and SIGTERM."""

from __future__ import annotations

import signal
from types import FrameType


class StopFlag:
    """Set by SIGINT or SIGTERM; the main loop looks at it.

    The handlers of rclpy shut the context down in the middle of whatever the node does, which loses
    messages and can crash a publisher; initialise it with ``SignalHandlerOptions.NO``.

    Attributes:
        is_set: Whether a signal has come.
    """

    def __init__(self) -> None:
        """Install the handlers; only the main thread can."""
        self.is_set = False
        signal.signal(signal.SIGINT, self._set)
        signal.signal(signal.SIGTERM, self._set)

    def _set(self, number: int, frame: FrameType | None) -> None:
        self.is_set = True
