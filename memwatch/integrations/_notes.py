"""What the user attribute of a trial says, and what a trial is called."""

from typing import Any

import optuna

import memwatch

from ._owners import OWNER, me, name_of
from ._survivors import NOTE
from ._writer import undisturbed

CONSTRAINT = "memwatch.rss"
BRAKED = 0.001  # GB; by so much, at least, a braked trial is above the limit
# A trial that is shorter and took less is not worth the time it takes to write its peak: 3-4 ms on SQLite.
WORTH_SECONDS, WORTH_BYTES = 0.1, 8 * 2**20

# As memwatch.guard() calls them: with what the objective is called with.


def label(trial: optuna.Trial, *_: object) -> str:
    return f"Trial #{trial.number}"


def parameters(trial: optuna.Trial, *_: object) -> str:
    """As "lr=0.1, batch=64"."""
    return ", ".join(f"{name}={value!r}" for name, value in trial.params.items())[:1000]


def key(trial: optuna.Trial, *_: object) -> str:
    return name_of(trial.study.study_name, trial.number, trial.datetime_start)


def write_owner(trial: optuna.Trial) -> None:
    """Says in the study who runs it."""
    trial.storage.set_trial_user_attr(trial._trial_id, OWNER, str(me()))


def told(brake: memwatch.EmergencyBrake) -> dict[str, Any]:
    """What a brake has to say. Bytes and seconds; None is unknown."""
    return {
        "reason": str(brake),
        "detail": brake.detail,
        "available_bytes": brake.available,
        "threshold_bytes": brake.threshold,
        "rss_bytes": brake.rss,
        "freed_bytes": brake.freed,
        "seconds": brake.seconds,
        "parameters": brake.parameters,
        "asynchronous": brake.asynchronous,
    }


def write(
    trial: optuna.Trial,
    note: dict[str, Any],
    *,
    ran: float,
    peak: int | None,
    grown: int,
    limit: int | None,
    braked: bool,
) -> None:
    """
    Says it in the trial's attribute, and what it took to the sampler, while the trial is still RUNNING.

    Args:
        note: Why it ended as it did; empty if it did well.
        ran: For how many seconds it did.
        peak, grown: The worker's RSS at most, and that above what it was at its begin; in bytes.
        limit: The constraint, in bytes.
        braked: It counts as above the limit, then.
    """
    with undisturbed("cannot write to the study what a trial took"):
        if limit is not None and (braked or peak is not None):
            over = ((peak or 0) - limit) / 1e9
            trial.set_constraint(CONSTRAINT, max(over, BRAKED) if braked else over)
        if note or limit is not None or ran >= WORTH_SECONDS or grown >= WORTH_BYTES:
            trial.set_user_attr(NOTE, note | {"peak_rss_bytes": peak})
