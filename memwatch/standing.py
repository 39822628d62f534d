"""
How a watchdog stands: a small file beside the board, written by the watchdog, read by `memwatch status` and `top`.

What workers report themselves stands on the board; here is what only the watchdog knows.
"""

import errno
import json
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from .identity import Fate, Identity

LARGEST = 256 * 1024  # bytes; 64 workers take 20 KiB


def _path(folder: str, pid: int) -> str:
    return f"{folder}/watchdog-{pid}.json"


def write(folder: str, standing: dict[str, Any]) -> None:
    """
    Puts it in place of the one before, as a whole: readers see the one or the other.

    Raises:
        OSError: There is no room, or no folder; the one before stays.
    """
    path = _path(folder, os.getpid())
    new = path + ".new"
    text = json.dumps(standing, separators=(",", ":")).encode()
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        # A full tmpfs takes the first pages, and says so of the next.
        if os.write(fd, text) < len(text):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), new)
    except OSError:
        with suppress(OSError):
            os.unlink(new)
        raise
    finally:
        os.close(fd)
    os.rename(new, path)


def remove(folder: str) -> None:
    """Its own; fine where there is none."""
    for path in (_path(folder, os.getpid()), _path(folder, os.getpid()) + ".new"):
        with suppress(OSError):
            os.unlink(path)


def read_all(folder: str) -> Iterator[dict[str, Any]]:
    """
    Those of watchdogs that live. What the dead left is removed, and what is no such file is passed over.

    The dictionaries have what write() was given, unchecked but for being one of ours.
    """
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return
    for name in names:
        if not (name.startswith("watchdog-") and name.endswith(".json")):
            continue
        path = f"{folder}/{name}"
        standing = _read(path)
        if standing is None:
            continue
        try:
            fate = Identity.parse(str(standing.get("identity"))).fate()
        except ValueError:
            continue
        if fate is Fate.DEAD:
            for each in (path, path + ".new"):
                with suppress(OSError):
                    os.unlink(each)
        elif fate is Fate.ALIVE:
            yield standing


def _read(path: str) -> dict[str, Any] | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            found = os.fstat(fd)
            # In a folder that others may write to, anybody's file would speak for our watchdog.
            if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
                return None
            text = os.read(fd, LARGEST + 1)
        finally:
            os.close(fd)
        standing = json.loads(text) if len(text) <= LARGEST else None
    except (OSError, ValueError, RecursionError):
        return None
    return standing if isinstance(standing, dict) and isinstance(standing.get("workers"), list) else None
