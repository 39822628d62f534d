"""
Who runs a trial of a study, and what became of them.

A worker's slot of the board has the key of the trial it runs; and once that has run for a second, a line of text in the
study says who runs it. The one is there at once, the other outlives a reset of the machine.
"""

import os
import time
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple

from ..board import Board, Slot, key_of
from ..errors import BoardError
from ..identity import Fate, Identity
from ..units import format_duration

OWNER = "memwatch_owner"  # the user attribute


@lru_cache(maxsize=1)
def _identity(_pid: int) -> Identity:
    return Identity.mine()


def me() -> Identity:
    """This process; a look at /proc only the first time."""
    return _identity(os.getpid())


def name_of(study_name: str, number: int, start: datetime | None) -> str:
    """What a trial is called on the board. Not in local time: workers may have several."""
    return f"{study_name}|{number}|{'' if start is None else format(start.timestamp(), '.6f')}"


# ------------------------------------------------------------------------------ the board ---


class Keys(NamedTuple):
    """
    The trials that the board knows.

    Attributes:
        lost: Those whose workers have died, and what these wrote last.
        alive: Those that run, and the pid of who runs each.
        present: Whether this process has a slot there, so that others will know its trials.
    """

    lost: dict[int, Slot]
    alive: dict[int, int]
    present: bool


def keys() -> Keys:
    """As of now; none where there is no board."""
    alive: dict[int, int] = {}
    present = False
    with suppress(BoardError, OSError), Board.open() as board:
        # The living first: who dies in between counts as dead.
        for slot in board.slots():
            owner, work = slot.owner, slot.work()
            present |= (owner.pid_namespace, owner.pid, owner.start_time) == me()[2:]
            if work is not None and work.key:
                alive[work.key] = owner.pid
        return Keys(lost_keys(board), alive, present)
    return Keys({}, alive, present)


def lost_keys(board: Board) -> dict[int, Slot]:
    """Keys.lost alone, at half the price."""
    lost = {}
    for slot in board.dead():
        work = slot.work()
        # The board takes a worker of another pid namespace for dead that was only stopped.
        if work is not None and work.key and slot.owner.pid_namespace == me().pid_namespace:
            lost[work.key] = slot
    return lost


# ------------------------------------------------------------------------------- judgement ---


class Verdict(NamedTuple):
    """
    What a look at a trial that counts as running came to.

    Attributes:
        number: The trial's.
        trial_id: What its storage calls it.
        fate: Of who runs it.
        reason: In words.
        note: More of it, for the trial's attribute. Bytes; None is unknown.
    """

    number: int
    trial_id: int
    fate: Fate
    reason: str
    note: dict[str, Any]


_BECAME = {Fate.DEAD: "died", Fate.ALIVE: "lives", Fate.UNKNOWN: "is of another machine or container"}


def judge(study_name: str, trial: Any, known: Keys, unowned: float | None = None) -> Verdict:
    """
    What became of who runs a trial.

    Args:
        study_name: Of its study.
        trial: An optuna.trial.FrozenTrial that is RUNNING.
        known: What the board says.
        unowned: A trial of which nobody is known to run it has died after so many seconds; None is never.
    """
    key = key_of(name_of(study_name, trial.number, trial.datetime_start))
    owner = trial.user_attrs.get(OWNER)
    note: dict[str, Any] = {}
    if key in known.lost:
        slot = known.lost[key]
        work, live = slot.work(), slot.live()
        fate, pid = Fate.DEAD, slot.owner.pid
        note = {"detail": work.detail if work else "", "rss_bytes": live.rss if live else None}
    elif key in known.alive:
        fate, pid = Fate.ALIVE, known.alive[key]
    elif owner is not None:
        try:
            identity = Identity.parse(str(owner))
        except ValueError:
            return Verdict(
                trial.number, trial._trial_id, Fate.UNKNOWN, f"its attribute {OWNER} is of another version", note
            )
        fate, pid = identity.fate(), identity.pid
    else:
        ran = 0.0 if trial.datetime_start is None else max(time.time() - trial.datetime_start.timestamp(), 0.0)
        fate = Fate.UNKNOWN if unowned is None or ran <= unowned else Fate.DEAD
        reason = f"nobody is known to run it, and it began {format_duration(ran)} ago"
        return Verdict(trial.number, trial._trial_id, fate, reason, note)
    return Verdict(trial.number, trial._trial_id, fate, f"worker pid {pid} {_BECAME[fate]}", {"worker_pid": pid} | note)
