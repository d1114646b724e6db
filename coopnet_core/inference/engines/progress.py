"""A line every few seconds while a library builds, because a build can take minutes."""

from __future__ import annotations

import logging
import threading
import time
from types import TracebackType
from typing import Any

_log = logging.getLogger(__name__)


class Progress:
    """Says every few seconds that a build goes on, and at which phase where the library tells.

    Args:
        what: What is built.
        period_s: Seconds between two lines.
    """

    def __init__(self, what: str, period_s: float = 5.0) -> None:
        self._what = what
        self._period_s = period_s
        self._phase = ""
        self._is_done = threading.Event()
        self._thread = threading.Thread(target=self._report, daemon=True)
        self._start_s = time.monotonic()

    def __enter__(self) -> Progress:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_done.set()
        self._thread.join()

    def watch(self, module: Any, config: Any) -> None:
        """Let the library tell its phases, where it can (8.6 cannot).

        Args:
            module: The library.
            config: Its builder configuration, which keeps the watcher.
        """
        if hasattr(module, "IProgressMonitor"):
            config.progress_monitor = _make_monitor(module, self)

    def set_phase(self, phase: str) -> None:
        """Take the phase for the next line."""
        self._phase = phase

    def _report(self) -> None:
        while not self._is_done.wait(self._period_s):
            seconds = time.monotonic() - self._start_s
            phase = f": {self._phase}" if self._phase else ""
            _log.info("building %s, %.0f s%s", self._what, seconds, phase)


def _make_monitor(module: Any, progress: Progress) -> Any:
    base: Any = module.IProgressMonitor

    class Monitor(base):  # type: ignore[misc]  # a class of the library, which has no types
        """Names the innermost phase and how far it is."""

        def __init__(self) -> None:
            base.__init__(self)
            self._num_steps: dict[str, int] = {}

        def phase_start(self, name: str, parent: str | None, num_steps: int) -> None:
            self._num_steps[name] = num_steps
            progress.set_phase(name)

        def step_complete(self, name: str, step: int) -> bool:
            progress.set_phase(f"{name}, step {step + 1} of {self._num_steps.get(name, 0)}")
            return True

        def phase_finish(self, name: str) -> None:
            self._num_steps.pop(name, None)

    return Monitor()
