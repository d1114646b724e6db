"""End a node in order on SIGINT and SIGTERM."""

from __future__ import annotations

import signal
import time
from types import FrameType

_PATIENCE_S = 1.0
"""From a terminal, and once more from ros2 launch, the same interrupt comes twice."""


class StopFlag:
    """Set by SIGINT or SIGTERM; the main loop looks at it.

    Who asks again, a second later, ends the program at once: what takes long, such as building an
    engine, does not look at the flag.

    The handlers of rclpy shut the context down in the middle of whatever the node does, which loses
    messages and can crash a publisher; ``SignalHandlerOptions.NO`` leaves them out.

    Attributes:
        is_set: Whether a signal has come.
    """

    def __init__(self) -> None:
        """Install the handlers; only the main thread can."""
        self.is_set = False
        self._first_s = 0.0
        signal.signal(signal.SIGINT, self._set)
        signal.signal(signal.SIGTERM, self._set)

    def _set(self, number: int, frame: FrameType | None) -> None:
        if self.is_set and time.monotonic() - self._first_s > _PATIENCE_S:
            raise KeyboardInterrupt
        if not self.is_set:
            self.is_set, self._first_s = True, time.monotonic()
