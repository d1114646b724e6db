"""A one-slot mailbox: the newest item, never a queue."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

T = TypeVar("T")


class Mailbox(Generic[T]):
    """Hands items from one thread to another and forgets all but the newest.

    A queue in front of a consumer that is slower than the camera only makes everything late.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._item: T | None = None
        self._is_closed = False

    def put(self, item: T) -> bool:
        """Leave an item and return whether an older one, which nobody had taken, was dropped."""
        with self._condition:
            is_dropped = self._item is not None
            self._item = item
            self._condition.notify()
            return is_dropped

    def take(self) -> T | None:
        """Wait for an item and take it; None when the mailbox has been closed."""
        with self._condition:
            self._condition.wait_for(lambda: self._item is not None or self._is_closed)
            if self._is_closed:
                return None
            item, self._item = self._item, None
            return item

    def close(self) -> None:
        """Wake the consumer and make every ``take`` return None from now on."""
        with self._condition:
            self._is_closed = True
            self._item = None
            self._condition.notify_all()
