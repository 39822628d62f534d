"""`memwatch reap`: marks the trials failed whose workers have died, in studies that nobody works on any more."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote

from .errors import MemwatchError
from .identity import Fate
from .model import escape

_SQLITE = b"SQLite format 3\0"  # what such a file begins with


def main(storage: str, study: str | None, unowned: float | None, dry_run: bool) -> int:
    """
    Prints a line for each trial that counts as running.

    Args:
        storage: A URL as Optuna takes it, or the path of a journal.
        study: Its name; None is all.
        unowned: As memwatch.integrations.optuna.reap() has it.
        dry_run: Fail none.

    Raises:
        MemwatchError: The storage cannot be used, or has no such study.
    """
    try:
        import optuna

        from .integrations import optuna as integration
    except ImportError as error:
        raise MemwatchError(f"reap needs Optuna ({error}): pip install 'memwatch[optuna]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with _plainly(storage):
        opened = _open(storage)
        names = sorted(optuna.get_all_study_names(opened))
        if study is not None and study not in names:
            known = ", ".join(f'"{name}"' for name in names) or "none at all"
            raise MemwatchError(f'there is no study "{study}" in it; there are: {known}')
        lines = 0
        for name in names if study is None else [study]:
            loaded = optuna.load_study(study_name=name, storage=opened)
            for verdict in integration.verdicts(loaded, unowned):
                lines += 1
                what = _deal_with(loaded, verdict, dry_run)
                print(escape(f'study "{name}", trial {verdict.number}: {what}: {verdict.reason}'))
        if not lines:
            print("nothing to do: no trial is RUNNING")
    return 0


def _deal_with(study: Any, verdict: Any, dry_run: bool) -> str:
    from .integrations.optuna import bury

    if verdict.fate is not Fate.DEAD:
        return "left alone"
    if dry_run:
        return "would be failed"
    return "failed" if bury(study, verdict) else "left alone, for it has ended meanwhile"


# ---------------------------------------------------------------------------- the storage ---


def _open(storage: str) -> Any:
    """As it is: Optuna would make what is not there."""
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend

    if "://" in storage:
        _refuse_missing(storage)
        return RDBStorage(storage, skip_table_creation=True)
    _need_file(storage)
    with open(storage, "rb") as file:
        first = file.readline(1_000_000)
    if first.startswith(_SQLITE):
        raise MemwatchError(f"it is a database of SQLite and no journal: give sqlite:///{storage}")
    if first and not (first.startswith(b"{") and b'"op_code"' in first):
        raise MemwatchError("it is no journal of Optuna's")
    return JournalStorage(JournalFileBackend(storage))


def _refuse_missing(url: str) -> None:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parts = make_url(url)
    except (ArgumentError, ValueError):  # what it says may be a part of the password
        raise MemwatchError(
            "it is no URL that can be read: as postgresql://user:password@host/name, with @ / : ? in a password "
            "written as %40 %2F %3A %3F"
        ) from None
    if parts.get_backend_name() != "sqlite":
        return
    path = parts.database or ""
    if path in ("", ":memory:") or "mode=memory" in path or parts.query.get("mode") == "memory":
        raise MemwatchError("a database in memory has nothing to reap: it ends with its process")
    _need_file(path.removeprefix("file:").partition("?")[0])


def _need_file(path: str) -> None:
    if not os.path.isfile(path):
        raise MemwatchError(f"there is no file {path}: give the URL of a database, or the path of a journal")


# ------------------------------------------------------------------------- what goes wrong ---


@contextmanager
def _plainly(storage: str) -> Iterator[None]:
    """Whatever a driver raises, as one line without a password."""
    try:
        yield
    except BrokenPipeError:
        raise
    except Exception as error:
        said = str(error) if isinstance(error, MemwatchError) else _first(error)
        raise MemwatchError(escape(f"{_hide(storage, storage)} cannot be reaped: {_hide(said, storage)}")) from None


def _first(error: BaseException) -> str:
    """A line of what a chain of exceptions began with."""
    while (before := error.__cause__ or error.__context__) is not None:
        error = before
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _hide(text: str, storage: str) -> str:
    """*text* without what may be a password in *storage*, whether it is a URL or was only meant to be one."""
    before, at, rest = storage.rpartition("@")
    who = before.rpartition("://")[2]
    secrets = [who.partition(":")[2]] if at and ":" in who else []
    secrets += [it.partition("=")[2] for it in rest.partition("?")[2].split("&")]
    for secret in sorted({it for one in secrets for it in (one, unquote(one)) if it}, key=len, reverse=True):
        text = text.replace(secret, "***")
    return text
