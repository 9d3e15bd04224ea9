"""Ctrl-C: the first press finishes the visit, the second ends the process at once."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable

from thalweg.commands import INTERRUPTED

#: Signals that ask a search to end: Ctrl-C, and what batch systems send before they kill.
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupt:
    """A context in which signals are counted, by a thread: the main one may be inside compiled code for seconds.

    Everything found is committed visit by visit, so that ending at once loses at most one visit.
    """

    def __init__(self, on_first: Callable[[], None]):
        self._on_first = on_first
        self._asked = threading.Event()
        self._before: dict = {}

    def pressed(self) -> bool:
        """Whether the user asked to stop."""
        return self._asked.is_set()

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is not threading.main_thread():
            return self  # signals belong to the main thread
        self._ear, self._mouth = socket.socketpair()
        self._mouth.setblocking(False)
        self._before = {s: signal.signal(s, lambda *_: None) for s in SIGNALS}
        self._wakeup = signal.set_wakeup_fd(self._mouth.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(self, *exception) -> None:
        if not self._before:
            return
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._before.items():
            # Who presses twice as the search ends must not be shown a traceback for the second.
            signal.signal(number, signal.SIG_IGN if self.pressed() else handler)
        self._before = {}
        self._mouth.close()  # the thread reads the end and goes

    def _listen(self) -> None:
        with self._ear:
            while heard := self._ear.recv(1):
                if heard[0] not in SIGNALS:
                    continue
                if self._asked.is_set():
                    os._exit(INTERRUPTED)
                self._asked.set()
                self._on_first()
