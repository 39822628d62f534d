"""What the benchmarks have in common: spreads, tables, and what a run belongs to."""

import statistics
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from .units import format_size

WIDTH = 100


class Spread(NamedTuple):
    """A median, and what the middle half of the values lies between."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        kept = list(values)
        return cls(*(statistics.quantiles(kept, n=4, method="inclusive") if len(kept) > 1 else kept * 3))

    def __sub__(self, other: float) -> "Spread":
        return Spread(*(value - other for value in self))


SHOW: dict[str, Callable[[float], str]] = {
    "us": lambda ns: f"{ns / 1e3:.2f} us",
    "ms": lambda ns: f"{ns / 1e6:.1f} ms",
    "MB": lambda size: f"{size / 1e6:.2f} MB",
    "": lambda number: f"{number:.0f}",
    "ratio": lambda number: f"{number:.2f}",
}


def trim(text: str) -> str:
    """ "1.00 us" as a person writes it: "1 us"."""
    number, *unit = text.split()
    if "." in number and not unit:
        return text
    return " ".join([number.rstrip("0").rstrip(".") if "." in number else number, *unit])


class Judged(Protocol):
    """A figure; *met* is None where nothing is asked of it."""

    @property
    def met(self) -> bool | None: ...


def table(head: Sequence[Sequence[str]], lines: Sequence[Sequence[str]]) -> list[str]:
    """Columns: the first to the left, the last too, numbers to the right."""
    widths = [max(len(line[i]) for line in (*head, *lines)) for i in range(len(lines[0]))]
    last = len(widths) - 1
    # Where a value is longer than most, its line shall still fit.
    gap = "  " if sum(widths) + 2 * last <= WIDTH else " "
    printed = []
    for line in (*head, *lines):
        cells = [
            cell.rjust(width) if 0 < i < last else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        printed.append(gap.join(cells).rstrip())
    return [*printed[: len(head)], "-" * max(map(len, printed)), *printed[len(head) :]]


def percentile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


def verdict(figures: Iterable[Judged], found: Sequence[str], quick: bool) -> list[str]:
    """Whether the run is worth something, and how many targets were met."""
    if found:
        told = (textwrap.wrap(problem, WIDTH - 4, initial_indent="  ", subsequent_indent="    ") for problem in found)
        return ["The run is NOT VALID:", *(line for lines in told for line in lines)]
    judged = [figure for figure in figures if figure.met is not None]
    met = sum(bool(figure.met) for figure in judged)
    hurried = " It was a quick one, which decides nothing." if quick else ""
    return [f"The run is valid: {met} of {len(judged)} targets met.{hurried}"]


def title(raw: dict[str, Any]) -> list[str]:
    """What was measured where."""
    machine, versions = raw["machine"], raw["versions"]
    commit = f" ({raw['commit'][:12]})" if raw["commit"] else ""
    return [
        f"memwatch {versions['memwatch']}{commit} on {machine['kernel']}, {machine['cpu']}, {machine['cores']} cores, "
        f"{format_size(machine['memory'])}",
        f"Python {versions['python']}, "
        + ", ".join(f"{name} {versions[name]}" for name in ("psutil", "numpy", "cffi")),
    ]


def about(quick: bool, asked: dict[str, float]) -> dict[str, Any]:
    """What the raw values belong to."""
    from datetime import UTC, datetime

    from . import measuring

    return {
        "quick": quick,
        "settings": asked,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": measuring.machine(),
        "versions": _versions(),
        "commit": _commit(),
    }


def _commit() -> str | None:
    """The commit this very file is of, "-dirty" when the checkout is; None where it is in none."""
    for folder in (Path(__file__).parent, Path.cwd() / "memwatch"):
        file = folder / Path(__file__).name
        try:
            if file.read_bytes() != Path(__file__).read_bytes():
                continue
            # An environment may lie inside of a checkout, and not belong to it.
            git = ["git", "-C", str(folder)]
            subprocess.run([*git, "ls-files", "--error-unmatch", file.name], check=True, capture_output=True)
            command = [*git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
            return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            continue
    return None


def _versions() -> dict[str, str]:
    import platform
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for name in ("memwatch", "psutil", "numpy", "cffi"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found


def tell(text: str) -> None:
    """What goes on, on one line, where somebody is looking."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
