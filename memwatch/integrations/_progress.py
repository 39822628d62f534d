"""How many trials of a call of optimize() are done, over all lives of a watchdog's worker."""

import json
import logging
import os
import sys
import threading
from typing import Any

from ..board import Board
from ._owners import me
from ._writer import undisturbed

MOST = 1 << 20  # bytes of a file that we have written

_log = logging.getLogger("memwatch")
_lock = threading.Lock()
_ordinal = 0


class Progress:
    """
    Of one call, in $MEMWATCH_STATE/worker_1.json, which the watchdog removes once the worker has ended by itself.

    Attributes:
        done: Trials, in this life and those before.
    """

    def __init__(self, path: str, key: str) -> None:
        self._path, self._key = path, key
        self.done = _read(path).get(key, 0)

    def count(self, *_: object) -> None:
        """One more. A callback of a study: the trial was told."""
        with _lock:
            self.set(self.done + 1)

    def set(self, done: int) -> None:
        self.done = done
        with undisturbed("cannot write how many trials are done"):
            calls = _read(self._path) | {self._key: done}
            # Another process may be this worker, too.
            part = f"{self._path}.{os.getpid()}"
            with open(part, "w", encoding="utf-8") as file:
                json.dump({"calls": calls}, file)
            os.replace(part, self._path)


def next_call(study_name: str) -> str:
    """What an outermost call is known by in each life; in another program of the same shell script it is another."""
    from hashlib import blake2b

    global _ordinal  # noqa: PLW0603 - calls are counted by process
    with _lock:
        _ordinal += 1
        program = blake2b("\0".join(sys.orig_argv).encode("utf-8", "surrogateescape"), digest_size=4).hexdigest()
        return f"{_ordinal}|{study_name}|{program}"


def progress_of(call: str) -> Progress | None:
    """None where nobody counts: without a watchdog, and in a process that a worker has forked."""
    folder = os.environ.get("MEMWATCH_STATE")
    if not folder:
        return None
    with undisturbed("cannot tell how many trials were done before"), Board.open() as board:
        for slot in board.slots():
            owner, work = slot.owner, slot.work()
            if (owner.pid_namespace, owner.pid, owner.start_time) == me()[2:] and work is not None and work.worker:
                return Progress(f"{folder}/worker_{work.worker}.json", call)
    return None


def _read(path: str) -> dict[str, int]:
    """How many trials each call has done; nothing, with a warning, of a file that is none of ours."""
    try:
        with open(path, "rb") as file:
            calls: Any = json.loads(file.read(MOST))["calls"]
        if all(type(it) is int and it >= 0 for it in calls.values()):
            return dict(calls)
        what = "not all of them are counts"
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        what = f"{type(error).__name__}: {error}"[:200]
    _log.warning("%s cannot be used (%s): the worker's trials are counted from 0", path, what)
    return {}
