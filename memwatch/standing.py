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
from typing import Any, NamedTuple, Self

from .identity import Fate, Identity
from .model import escape

LARGEST = 256 * 1024  # bytes; 64 workers take 45 KiB
LONGEST = 240  # characters of what others wrote; a line has less


# What a standing, and a slot, hold is what others wrote: anything.


def number(value: object, most: int = 2**63) -> int | None:
    """A whole number from 0 on."""
    return value if type(value) is int and 0 <= value < most else None


def seconds(value: object) -> float | None:
    """Or any other figure from 0 on. A number too large for a float, nan and infinity are none of it."""
    if type(value) not in {int, float} or not 0 <= value < 2**63:  # type: ignore[operator]
        return None
    return float(value)  # type: ignore[arg-type]


def text(value: object) -> str:
    """Cut, and without control characters."""
    return escape(value[:LONGEST]) if isinstance(value, str) else ""


class Growth(NamedTuple):
    """
    What is known of how a worker's memory grows. Bytes and seconds; None is unknown.

    Attributes:
        kind: As trend.Kind has it: "leak", "filling", "allocator retention" or "steady"; "" is not known yet.
        rate: In bytes a second.
        confidence: In that kind, from 0 to 1.
        limit, limit_bytes, seconds: Which limit a leak meets first, as "max_rss" or "available", and when; "" is none.
        live: What its program uses, as its allocators say.
        budget, filled: What its buffers hold once they are full, and hold already.
    """

    kind: str = ""
    rate: float | None = None
    confidence: float | None = None
    limit: str = ""
    limit_bytes: int | None = None
    seconds: float | None = None
    live: int | None = None
    budget: int | None = None
    filled: int | None = None

    def fields(self) -> dict[str, Any]:
        """For JSON: with units in their names, and None for what is not known."""
        return {
            "kind": self.kind or None,
            "rate_bytes_per_second": self.rate,
            "confidence": self.confidence,
            "limit": self.limit or None,
            "limit_bytes": self.limit_bytes,
            "seconds": self.seconds,
            "live_bytes": self.live,
            "budget_bytes": self.budget,
            "filled_bytes": self.filled,
        }

    @classmethod
    def read(cls, value: object) -> Self:
        """From what fields() said; of what makes no sense nothing is known."""
        it: dict[str, Any] = value if isinstance(value, dict) else {}
        return cls(
            kind=text(it.get("kind")),
            rate=seconds(it.get("rate_bytes_per_second")),
            confidence=seconds(it.get("confidence")),
            limit=text(it.get("limit")),
            limit_bytes=number(it.get("limit_bytes")),
            seconds=seconds(it.get("seconds")),
            live=number(it.get("live_bytes")),
            budget=number(it.get("budget_bytes")),
            filled=number(it.get("filled_bytes")),
        )


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
