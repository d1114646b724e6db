"""Start, watch and end the processes of the demo."""

from __future__ import annotations

import ctypes
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from coopnet_core.errors import CoopNetError
from coopnet_ros.dds import enlarge_shared_memory, stay_on_this_machine

# Above this, DDS ports run into the range that Linux hands out to clients.
_MAX_DOMAIN_ID = 101
_KEPT_LINES = 30
_PR_SET_PDEATHSIG = 1


class Child:
    """A process whose output goes to a log file; use it as a context manager.

    It leads a session of its own: Ctrl-C reaches only its parent, which ends its children in the
    right order. On Linux it is told to end when the parent dies.
    """

    def __init__(
        self, name: str, command: Sequence[str], log: Path, env: Mapping[str, str] | None = None
    ) -> None:
        """Start the process.

        Args:
            name: What to call it in messages.
            command: Program and arguments.
            log: File for its output.
            env: Environment; None inherits.
        """
        self.name = name
        self.log = log
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._seen: deque[str] = deque(maxlen=1000)
        self._changed = threading.Condition()
        self._process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=None if env is None else dict(env),
            start_new_session=True,
            text=True,
            errors="replace",
            preexec_fn=_end_with_parent if sys.platform == "linux" else None,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def exit_status(self) -> int | None:
        """Exit status, None while it runs."""
        return self._process.poll()

    @property
    def last_line(self) -> str:
        """Its latest line of output."""
        return self._lines[-1] if self._lines else ""

    def wait_for_line(self, text: str, timeout_s: float, others: Sequence[Child] = ()) -> None:
        """Wait until a line of its output contains ``text``.

        Args:
            text: Part of the line; it may have come already.
            timeout_s: Longest time to wait.
            others: Processes that must stay alive meanwhile.

        Raises:
            CoopNetError: It or one of the others ended, or the time ran out before that.
        """
        deadline = time.monotonic() + timeout_s
        children = (self, *others)
        with self._changed:
            while not any(text in line for line in self._seen):
                remaining_s = deadline - time.monotonic()
                for child in children:
                    if child.exit_status is not None and not child._reader.is_alive():
                        raise CoopNetError(child.explain_end())
                if remaining_s <= 0:
                    words = "; ".join(f"{c.name} ({c.log}):\n{c.tail()}" for c in children)
                    raise CoopNetError(
                        f"{self.name} has not said '{text}' within {timeout_s:.0f} s; "
                        f"last words of {words}"
                    )
                self._changed.wait(min(remaining_s, 0.2))

    def wait(self, timeout_s: float) -> int | None:
        """Wait for its end; None when it still runs after ``timeout_s``."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None
        self._reader.join(timeout=2.0)
        return self._process.returncode

    def send(self, number: signal.Signals) -> None:
        """Send a signal to it and to what it has started; nothing happens when it has ended."""
        if self.exit_status is None:
            os.killpg(self._process.pid, number)

    def stop(self, timeout_s: float = 10.0) -> int:
        """End it: SIGINT, after ``timeout_s`` SIGTERM, then SIGKILL. Returns the exit status."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            self.send(number)
            status = self.wait(timeout_s)
            if status is not None:
                return status
        raise CoopNetError(f"{self.name} (process {self.pid}) cannot be ended")

    def tail(self) -> str:
        """Return its last lines of output."""
        return "\n".join(f"    {line}" for line in self._lines)

    def explain_end(self) -> str:
        """Return a message about its unexpected end."""
        status = self.exit_status
        return (
            f"{self.name} has ended (exit status {status}); its last words, more in {self.log}:\n"
            f"{self.tail()}"
        )

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _read(self) -> None:
        output = self._process.stdout
        with self.log.open("w", encoding="utf-8") as log:
            for line in output or ():
                log.write(line)
                log.flush()
                with self._changed:
                    self._lines.append(line.rstrip())
                    self._seen.append(line)
                    self._changed.notify_all()


def free_domain_id() -> int:
    """Return a random DDS domain that no participant on this machine uses.

    The first participant of a domain listens on UDP port 7410 + 250 x domain (RTPS 2.x, 9.6.1).
    """
    candidates = list(range(1, _MAX_DOMAIN_ID + 1))
    random.shuffle(candidates)
    for domain in candidates:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(("", 7410 + 250 * domain))
            except OSError:
                continue
            return domain
    raise CoopNetError("every DDS domain from 1 to 101 is in use: set ROS_DOMAIN_ID yourself")


def ros_environment() -> dict[str, str]:
    """Return this process's environment, set for ROS 2 on this machine alone.

    ``ROS_DOMAIN_ID``, ``ROS_AUTOMATIC_DISCOVERY_RANGE`` and a profile for Fast DDS stay as they are
    where they are set.
    """
    env = dict(os.environ)
    if "ROS_DOMAIN_ID" not in env:
        env["ROS_DOMAIN_ID"] = str(free_domain_id())
    stay_on_this_machine(env)
    enlarge_shared_memory(env)
    env["PYTHONUNBUFFERED"] = "1"
    return env


_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def _end_with_parent() -> None:
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
