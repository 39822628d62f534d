"""Telling systemd how it goes (sd_notify(3)): ready, alive, stopping. Nothing where nobody listens."""

import math
import os
from collections.abc import Mapping
from contextlib import suppress
from typing import Any


class Notify:
    """
    Of a service with Type=notify.

    Attributes:
        due: When it is to be told again that we are alive, on the monotonic clock; infinite where it does not ask.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._socket: Any = None
        self.due = math.inf
        self._every = math.inf
        self._ready = False
        self._status = ""
        path = environ.get("NOTIFY_SOCKET", "")
        if not path.startswith(("/", "@")):
            return
        import socket

        with suppress(OSError):
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)
            self._socket.connect("\0" + path[1:] if path.startswith("@") else path)
        usec, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", str(os.getpid()))
        if usec.isascii() and usec.isdigit() and int(usec) and pid == str(os.getpid()):
            self._every = int(usec) / 1e6 / 3  # it may be late once, and still be in time
            self.due = 0.0

    def ready(self, status: str) -> None:
        """Workers run; *status* is for `systemctl status`."""
        if not self._ready:
            self._send("READY=1")
            self._ready = True
        if status != self._status:
            self._status = status
            self._send(f"STATUS={status}")

    def ping(self, now: float) -> None:
        """Alive: to be said by the loop that decides, and by nobody else."""
        if now >= self.due:
            self.due = now + self._every
            self._send("WATCHDOG=1")

    def stopping(self) -> None:
        """From here on it takes as long as the workers' grace."""
        self._send("STOPPING=1")

    def _send(self, text: str) -> None:
        if self._socket is not None:
            with suppress(OSError):
                self._socket.send(text.encode())

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
