"""The settings on the command line: an option for each, and `memwatch config`, which says where each comes from."""

import argparse
import os
import sys
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, NamedTuple

from . import config
from .config import Settings
from .errors import MemwatchError, SettingsError
from .model import escape
from .units import Size, format_size

WIDTH = 100

# Of each setting: what stands for its value, and what it does. One that is missing here stops every command.
_HELP = {
    "workers": ("N", "how many workers, 1 to 64"),
    "max_age": ("DURATION", 'restart a worker that is this old; "off"'),
    "max_rss": ("SIZE", 'restart a worker whose processes hold more than this; "off"'),
    "min_available": ("SIZE", "restart a worker when less memory than this is left"),
    "drain_timeout": ("DURATION", "how long a worker may take to end its trial before a restart; 0: not waited for"),
    "stop_grace": ("DURATION", "between SIGINT, SIGTERM and SIGKILL; 0: SIGKILL at once"),
    "interval": ("DURATION", "look at each worker, and say how it is, at least so often; 60s at most"),
    "logs": ("FOLDER", "where the logs go"),
    "brake": ("SIZE", "end a running trial when less memory than this is left"),
    "warn": ("SIZE", "log a warning below this"),
    "resume": ("SIZE", "the next trial begins above this"),
    "floor": ("SIZE", "kill the worker below this: there is no time left to ask"),
    "hold": ("DURATION", 'how long a trial is parked before it is told to end; "off"'),
    "grace": ("DURATION", "how long a trial may take to end once told; then its worker is killed"),
    "squeeze": ("DURATION", 'after so long, make its allocations fail; "off"'),
    "settle": ("DURATION", "how long memory given back may take to show, at most"),
    "admit_timeout": ("DURATION", "how long the next trial waits for memory"),
    "max_brakes": ("N", "so many trials in a row may be braked; then the worker stops"),
    "signal": ("NAME", "to park and to raise with"),
    "realtime": ("", "ask for real-time scheduling of the thread that looks"),
    "board": ("FOLDER", "the folder of the board, where workers and watchdog meet"),
}

# Where the option is not the setting's name. --grace is the watchdog's, as the person at the command line means it.
_FLAGS = {
    "workers": ("-n", "--workers"),
    "stop_grace": ("--grace", "--stop-grace"),
    "grace": ("--brake-grace",),
}

# What a default of None comes to, in words; `memwatch config` says it in numbers.
_FOLLOWS = {
    "brake": "2GB, or 10% of less than 20 GB",
    "warn": "twice the brake",
    "resume": "1.25 times the brake",
    "floor": "a quarter of the brake",
    "min_available": "the brake",
    "squeeze": "off",
    "signal": "SIGURG",
    "board": "the user's own in shared memory",
}


def flags(name: str) -> tuple[str, ...]:
    """The options of a setting."""
    return _FLAGS.get(name) or (f"--{name.replace('_', '-')}",)


def add_options(parser: argparse.ArgumentParser) -> None:
    """An option for each setting, and --config."""
    defaults = {it.name: it.default for it in fields(Settings)}
    for title, table in (("the watchdog", config.WATCHDOG), ("the brake in each worker", config.BRAKE)):
        group = parser.add_argument_group(title)
        for name in table:
            metavar, text = _HELP[name]
            default = _FOLLOWS.get(name) if defaults[name] is None else _plain(defaults[name])
            said = f"{text} (default: {default})".replace("%", "%%")
            if name == "realtime":
                group.add_argument(*flags(name), action=argparse.BooleanOptionalAction, default=None, help=said)
            else:
                group.add_argument(*flags(name), dest=name, metavar=metavar, help=said)
    group = parser.add_argument_group("the settings file")
    group.add_argument(
        "--config",
        metavar="FILE",
        help='this one, instead of the nearest memwatch.toml, or pyproject.toml with [tool.memwatch]; "off": none. '
        "It stands below MEMWATCH_* variables, and these below options",
    )


def load(arguments: argparse.Namespace, environ: Mapping[str, str]) -> Settings:
    """The settings, with the options of add_options() above all else."""
    given = {name: value for name in config.SETTINGS if (value := getattr(arguments, name)) is not None}
    typed = {name: _typed(name, value) for name, value in given.items()}
    return Settings.load(_environ(arguments, environ), typed=typed, **given)


def _environ(arguments: argparse.Namespace, environ: Mapping[str, str]) -> Mapping[str, str]:
    if arguments.config is None:
        return environ
    if not arguments.config:
        raise SettingsError('--config "" names no file: give one, or "off"')
    return {**environ, "MEMWATCH_CONFIG": arguments.config}


def _typed(name: str, value: Any) -> str:
    flag = flags(name)[-1] if name == "workers" else flags(name)[0]
    if isinstance(value, bool):
        return flag if value else f"--no-{flag.removeprefix('--')}"
    return f"{flag} {escape(value) if value else repr(value)}"


# ------------------------------------------------------------------- memwatch config ---


class Row(NamedTuple):
    """
    A setting.

    Attributes:
        name: As the file calls it.
        text: Its value as it was typed, with what a share comes to; or what the default is here.
        value: In its *unit*; None: off, or a size that cannot be told here.
        unit: "bytes", "seconds" or "value".
        source, place: Where it is from, as Origin has it.
    """

    name: str
    text: str
    value: int | float | str | bool | None
    unit: str
    source: str
    place: str


_UNITS = {"SIZE": "bytes", "DURATION": "seconds"}


def _plain(value: Any) -> str:
    """A value as a person would type it."""
    if value is None or isinstance(value, bool):
        return "on" if value else "off"
    if not isinstance(value, float):
        return escape(str(value))
    if value >= 120 and value % 60 == 0:
        return f"{value / 60:g}m"
    return f"{value:g}s" if value >= 1 or value == 0 else f"{value * 1000:g}ms"


def rows(settings: Settings, limit: int | None) -> list[Row]:
    """Every setting, in the order of `memwatch run --help`; *limit* is what binds here, None where it is not known."""
    here: dict[str, int | None] = {}
    if limit is not None:
        marks, limits = config.marks_for(settings, limit), config.limits_for(settings, limit)
        here = {name: getattr(marks, name) for name in ("brake", "warn", "resume", "floor")} | limits._asdict()
    found = []
    for name in (*config.WATCHDOG, *config.BRAKE):
        value, origin = getattr(settings, name), settings.origin(name)
        unit = _UNITS.get(_HELP[name][0], "value")
        text = _plain(value) if isinstance(value, bool) or not origin.typed else escape(origin.typed)
        if isinstance(value, Size):
            if value.percent is not None and name in here:
                text = f"{text} ({format_size(here[name])})"
            value = here.get(name, value.bytes)
        elif value is None and unit == "bytes" and name != "max_rss":
            value = here.get(name)
            text = _FOLLOWS[name] if value is None else format_size(value)
        elif isinstance(value, str) and origin.source == "file":
            text = escape(value)  # a folder, which is relative to the file
        elif name == "signal" and value is None:
            value, text = _sigurg(), _FOLLOWS[name]
        elif name == "board" and value is None:
            value = _board()
            text = escape(value)
        found.append(Row(name, text, value, unit, origin.source, escape(origin.place) or "default"))
    return found


def _sigurg() -> int:
    from signal import SIGURG

    return int(SIGURG)


def _board() -> str:
    try:
        from .board import default_folder
    except ImportError:  # no native module: there is no board
        return "none"
    return default_folder()


def _limit() -> int | None:
    """What binds this process; None where that cannot be told."""
    try:
        from .sampler import Sampler, least_limit

        with Sampler(strict=False) as sampler:
            return least_limit(sampler)
    except (MemwatchError, ImportError):
        return None


def as_text(found: list[Row], limit: int | None, looked: list[str]) -> str:
    """For people, on 100 columns."""
    import textwrap

    names = max(len(row.name) for row in found)
    values = min(max(len(row.text) for row in found), 30)
    indent = " " * (names + values + 4)
    lines = []
    for name, value, place in (("setting", "value", "from"), *((row.name, row.text, row.place) for row in found)):
        lead = f"{name:<{names}}  {value:<{values}}  "
        # A long value has a line of its own; what cannot be broken, a path, stays whole.
        lines += [lead.rstrip()] if len(lead) > len(indent) else []
        lead = indent if len(lead) > len(indent) else lead
        lines += textwrap.wrap(
            place, WIDTH, initial_indent=lead, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
        )
    if limit is None:
        lines += ["", "What binds memory cannot be read here (`memwatch doctor` says why): shares have no number."]
    else:
        lines += ["", f"Shares and defaults are of the memory that binds here, {format_size(limit)}."]
    return "\n".join([*lines, "", *looked])


def _search_lines(environ: Mapping[str, str]) -> tuple[list[str], str | None, list[str]]:
    """Where a file was looked for, in words; the one that was read; and the paths."""
    from . import configfile

    search = configfile.find(environ)
    paths = list(search.looked)
    if search.off:
        return ["No settings file: MEMWATCH_CONFIG or --config is off."], None, paths
    if search.file is not None:
        return [f"Settings file: {escape(search.file.path)}"], search.file.path, paths
    return ["No settings file. Looked for", *(f"  {escape(path)}" for path in paths)], None, paths


def main(arguments: argparse.Namespace) -> int:
    """Prints every setting, its value, and where it is from."""
    settings = load(arguments, os.environ)
    limit = _limit()
    found = rows(settings, limit)
    looked, path, paths = _search_lines(_environ(arguments, os.environ))
    if arguments.json:
        import json

        table = {
            row.name: {"text": row.text, row.unit: row.value, "source": row.source, "from": row.place} for row in found
        }
        print(json.dumps({"settings": table, "limit_bytes": limit, "file": path, "looked_for": paths}, indent=2))
    else:
        print(as_text(found, limit, looked))
    sys.stdout.flush()
    return 0
