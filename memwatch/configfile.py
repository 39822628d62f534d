"""
The settings file: memwatch.toml, or [tool.memwatch] of a pyproject.toml, in the nearest folder that has one.

It is found, read, and its shape refused where that is wrong; what its keys mean is config.py's to say. A pyproject.toml
that says nothing of memwatch is passed over, whatever else is wrong with it.
"""

import errno
import os
import stat
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from .errors import SettingsError
from .model import escape

VARIABLE = "MEMWATCH_CONFIG"
OURS = "memwatch.toml"
SHARED = "pyproject.toml"

LARGEST = 64 * 1024  # 22 keys take 1 kB; more is some other file
LARGEST_SHARED = 2**20  # others write into it, too
SHOWN = 60  # characters of a value in a message of one line

_OFF = f"or set {VARIABLE}=off to do without"


class File(NamedTuple):
    """
    A settings file.

    Attributes:
        path: Where it was found, absolute.
        shown: As a message calls it: "pyproject.toml [tool.memwatch]"; with its folder, unless that is the current one.
        table: Its keys and their values, as tomllib gives them.
    """

    path: str
    shown: str
    table: dict[str, Any]

    def say(self, key: str) -> tuple[str, str, str]:
        """Of a key: with its value, as 'brake = "2GB" in memwatch.toml'; without; and the value as it was typed."""
        value, name = self.table[key], escape(key)
        text = ("false", "true")[value] if isinstance(value, bool) else str(value)
        return f"{name} = {_shown(value)} in {self.shown}", f"{name} in {self.shown}", text

    def check(self, known: Iterable[str]) -> None:
        """
        Each key is one of those *known*, and has one value.

        Raises:
            SettingsError: It is not, or is a table, an array, a date or a time.
        """
        for key, value in self.table.items():
            said = self.say(key)[0]
            if key not in known:
                raise SettingsError(
                    f"{said} is no setting of memwatch; the nearest is {nearest(key, known)}. Correct its name, or "
                    "remove it"
                )
            if not isinstance(value, str | int | float):  # a bool is an int
                kind = {"dict": "a table", "list": "an array"}.get(type(value).__name__, "a date or a time")
                raise SettingsError(f"{said}: must be one string, number or boolean, and is {kind}")

    def beside(self, folder: str) -> str:
        """A folder that the file names: relative to the file, whatever folder a program is started in."""
        return os.path.join(os.path.dirname(self.path), os.path.expanduser(folder)) if folder else folder


def nearest(name: str, known: Iterable[str]) -> str:
    """Of the names that are *known*, the one that was meant, most likely."""
    from difflib import get_close_matches

    return get_close_matches(name[:SHOWN], sorted(known), n=1, cutoff=0.0)[0]


class Search(NamedTuple):
    """
    What was found, and where it was looked for.

    Attributes:
        file: The file; None: there is none.
        looked: Paths, in the order in which they were tried.
        off: MEMWATCH_CONFIG=off.
    """

    file: File | None
    looked: tuple[str, ...] = ()
    off: bool = False


def find(environ: Mapping[str, str], cwd: str | None = None) -> Search:
    """
    The file that MEMWATCH_CONFIG names, or else the nearest one from *cwd* upwards.

    Raises:
        SettingsError: It cannot be read or is not what it should be; two in one folder; one that root must not trust.
    """
    named = environ.get(VARIABLE, "")
    if named.lower() == "off":
        return Search(None, off=True)
    try:
        here = os.path.realpath(os.getcwd() if cwd is None else cwd)
    except FileNotFoundError:  # somebody has removed it under us
        if not os.path.isabs(named):
            return Search(None)
        here = "/"
    if named:
        path = os.path.join(here, named)
        return Search(_named(path, here), (path,))
    looked: list[str] = []
    folder = here
    while True:
        paths = [os.path.join(folder, name) for name in (OURS, SHARED)]
        looked += paths
        found = [file for file in (_ours(paths[0], here), _shared(paths[1], here)) if file is not None]
        if len(found) == 2:
            raise SettingsError(
                f"{found[0].shown} and {found[1].shown} are in one folder, {escape(folder)}: keep one of them"
            )
        if found:
            return Search(found[0], tuple(looked))
        above = os.path.dirname(folder)
        if above == folder:
            return Search(None, tuple(looked))
        folder = above


def _named(path: str, here: str) -> File:
    file = _shared(path, here) if os.path.basename(path) == SHARED else _ours(path, here)
    if file is None:
        what = "has no [tool.memwatch]" if os.path.isfile(path) else "is not there"
        raise SettingsError(f"{escape(path)} {what}: correct {VARIABLE} or --config, {_OFF}")
    return file


def _ours(path: str, here: str) -> File | None:
    data = _read(path, LARGEST, ours=True)
    if data is None:
        return None
    return File(path, _call(path, here), _parse(data, path))


def _shared(path: str, here: str) -> File | None:
    """None also where it is somebody else's only."""
    data = _read(path, LARGEST_SHARED, ours=False)
    if data is None or b"memwatch" not in data:  # most are: without a parser, which takes 5 ms to load
        return None
    try:
        tool = _parse(data, path).get("tool")
    except SettingsError:
        if b"tool.memwatch" in data:
            raise
        return None
    table = tool.get("memwatch") if isinstance(tool, dict) else None
    if table is None:
        return None
    _refuse_untrusted(path)
    shown = f"{_call(path, here)} [tool.memwatch]"
    if not isinstance(table, dict):
        raise SettingsError(f"{shown} must be a table, and is {_shown(table)}: write its keys below [tool.memwatch]")
    return File(path, shown, table)


# --------------------------------------------------------------------------- reading ---


def _read(path: str, largest: int, *, ours: bool) -> bytes | None:
    """The bytes of a file; None where there is none, or where it is no matter because it is not *ours*."""
    try:
        # A fifo without a writer must not hold up the start.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    except OSError as error:
        # A folder that may not be searched is a place where nobody looks, not a file that may not be read.
        if not os.path.lexists(path) or (not ours and error.errno != errno.EACCES):
            return None
        raise SettingsError(
            f"{escape(path)} cannot be read ({error.strerror}): make it readable for uid {_uid()}, remove it, {_OFF}"
        ) from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            if not ours:
                return None
            raise SettingsError(f"{escape(path)} is no regular file: give one, {_OFF}")
        if ours:
            _refuse_untrusted(path, status)
        data = b""
        while len(data) <= largest and (more := os.read(descriptor, largest + 1 - len(data))):
            data += more
    except OSError as error:
        raise SettingsError(f"{escape(path)} cannot be read ({error.strerror}): mend it, {_OFF}") from None
    finally:
        os.close(descriptor)
    if len(data) > largest and (ours or b"tool.memwatch" in data):
        raise SettingsError(
            f"{escape(path)} has more than {largest} bytes, which no settings file has: make it shorter, {_OFF}"
        )
    return data if len(data) <= largest else None


def _parse(data: bytes, path: str) -> dict[str, Any]:
    import tomllib

    try:
        text = data.decode("utf-8-sig")  # some editors put a mark at the beginning
        return tomllib.loads(text)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SettingsError(f"{escape(path)} is not UTF-8 (at line {line}), as TOML must be: save it as that") from None
    except RecursionError:
        raise SettingsError(f"{escape(path)} is nested too deeply: its keys are names with one value each") from None
    except ValueError as error:  # TOMLDecodeError is one; a number of 5,000 digits is another
        raise SettingsError(f"{escape(path)} is no TOML: {escape(str(error))}. Correct it, {_OFF}") from None


def _shown(value: Any) -> str:
    """A value as a settings file would have it, on one line and not too long."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{...}"
    if isinstance(value, list):
        return "[...]"
    text = escape(str(value))
    text = text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."
    return f'"{text}"' if isinstance(value, str) else text


def _call(path: str, here: str) -> str:
    return escape(os.path.basename(path) if os.path.dirname(path) == here else path)


# ----------------------------------------------------------------------------- trust ---


def _uid() -> int:
    return os.geteuid() if hasattr(os, "geteuid") else -1


def _refuse_untrusted(path: str, status: os.stat_result | None = None) -> None:
    """Root reads no file that another may write, or put in its place: memwatch run starts and ends processes by it."""
    if _uid() != 0:
        return
    real = os.path.realpath(path)
    there = os.stat(real)
    if status is not None and not os.path.samestat(there, status):
        raise SettingsError(f"{escape(path)} was replaced while it was read: start again")
    _need_roots(path, real, there)
    # Where a link lies, another could turn it.
    for first in dict.fromkeys((os.path.dirname(real), os.path.realpath(os.path.dirname(path)))):
        folder = first
        while True:
            there = os.stat(folder)
            # In a sticky folder nobody moves what is root's; but into one, anybody may put a file.
            _need_roots(path, folder, there, passes=folder != first and there.st_mode & stat.S_ISVTX != 0)
            above = os.path.dirname(folder)
            if above == folder:
                break
            folder = above


def _need_roots(path: str, place: str, there: os.stat_result, *, passes: bool = False) -> None:
    why = mend = ""
    if there.st_uid != 0:
        why, mend = f"belongs to uid {there.st_uid}", "chown root"
    elif there.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not passes:
        why, mend = f"may be written by others (mode {stat.S_IMODE(there.st_mode):04o})", "chmod go-w"
    if why:
        raise SettingsError(
            f"{escape(path)} is not read as root, for {escape(place)} {why}, who could change what root does: "
            f"{mend} {escape(place)}, run as another user, {_OFF}"
        )
