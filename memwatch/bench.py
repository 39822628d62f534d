"""memwatch-bench: what a look costs here, against psutil, pure Python and the kernel's floor."""

import argparse
import json
import os
import signal
import stat
import statistics
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from types import FrameType
from typing import IO, Any

from .bench_common import SHOW, WIDTH, Spread, about, percentile, table, tell, title, trim, verdict
from .errors import MemwatchError

RATES = (1, 10, 100, 1000, 2000, 10000)  # looks a second
HEAVY = ("numpy", "psutil", "logging", "asyncio")  # what importing memwatch must not load

# A quick run is for tests and CI: it shows that all works, and too little to decide anything.
FULL = {"rounds": 200, "calls": 100, "singles": 25, "imports": 12, "slices": 3, "seconds": 0.7}
QUICK = {"rounds": 30, "calls": 50, "singles": 10, "imports": 2, "slices": 1, "seconds": 0.1}

NOISE = 0.5  # of the floor's median: beyond it the machine was busy with something else
CLOCK = 1000  # ns; a clock that takes longer to read cannot time a look of 6,000


@dataclass(frozen=True, slots=True)
class Row:
    """
    A figure, and what it must be.

    Attributes:
        what: What was measured.
        unit: Of the values as printed; they are kept in ns and bytes.
        ours, psutil, pure_python, floor: Medians; None where there is no such thing.
        measured: What the target speaks of: *ratio*, or ours.
        ratio: What was measured is a ratio.
        sign, target: "<=" and 1.05; target is None where there is none.
    """

    what: str
    unit: str
    measured: Spread
    ours: float | None = None
    psutil: float | None = None
    pure_python: float | None = None
    floor: float | None = None
    ratio: bool = False
    sign: str = "<="
    target: float | None = None

    @property
    def met(self) -> bool | None:
        if self.target is None:
            return None
        median = self.measured.median
        return median <= self.target if self.sign == "<=" else median >= self.target

    @property
    def unsure(self) -> bool:
        """The target lies among the middle half of what was measured: another run may tell otherwise."""
        low, _, high = self.measured
        return self.target is not None and low < high and low <= self.target <= high

    def cells(self) -> list[str]:
        show = SHOW[self.unit]
        columns = (self.ours, self.psutil, self.pure_python, self.floor)
        values = ["-" if value is None else show(value) for value in columns]
        measured = SHOW["ratio"] if self.ratio else show
        low, median, high = (measured(value).split()[0] for value in self.measured)
        if self.target is None:
            must = judged = ""
        else:
            must = f"{self.sign} {trim(measured(self.target))}"
            judged = ("~" if self.unsure else "") + ("met" if self.met else "missed")
        half = f"{low}-{high}" if self.measured.low < self.measured.high else "-"
        return [self.what, *values, median if self.ratio else "-", half, must, judged]


# ------------------------------------------------------------------ judging ---


def _ratio(blocks: dict[str, list[float]], over: str, under: str) -> Spread:
    return Spread.of(a / b for a, b in zip(blocks[over], blocks[under], strict=True))


def _look_rows(looks: dict[str, Any]) -> Iterable[Row]:
    blocks = looks["blocks"]
    median = {name: statistics.median(values) for name, values in blocks.items()}
    for kind, native, python, limits in (
        ("sample", "mw_sample(), C", "memwatch.sample()", (1.05, 1.35)),
        ("headroom", "mw_headroom(), C", "Sampler.headroom()", (None, 1.10)),
    ):
        floor, ours = f"{kind}: preads", f"{kind}: memwatch"
        values = {"floor": median[floor], "ratio": True}
        yield Row(
            native,
            "us",
            _ratio(blocks, f"{kind}: C", floor),
            ours=median[f"{kind}: C"],
            target=limits[0],
            **values,
        )
        yield Row(
            python,
            "us",
            _ratio(blocks, ours, floor),
            ours=median[ours],
            psutil=median[f"{kind}: psutil"],
            pure_python=median[f"{kind}: by hand"],
            target=limits[1],
            **values,
        )
        yield Row(
            "  psutil against it",
            "us",
            _ratio(blocks, f"{kind}: psutil", ours),
            ratio=True,
            sign=">=",
            target=4.5 if kind == "sample" else None,
        )


def _board_row(board: dict[str, Any]) -> Row:
    blocks = board["blocks"]
    median = {name: statistics.median(values) for name, values in blocks.items()}
    return Row(
        "another worker's RSS",
        "us",
        Spread.of(blocks["rss: memwatch"]),
        ours=median["rss: memwatch"],
        psutil=median["rss: psutil"],
        pure_python=median["rss: by hand"],
        target=1000,
    )


def _import_rows(imports: list[dict[str, Any]]) -> Iterable[Row]:
    for ground, name, most_ns, most_bytes in (
        ("numpy", "import, numpy loaded", 10e6, 1.5e6),
        ("bare", "import, bare", 30e6, 5e6),
    ):
        values = {
            (what, key): [seen[key] for seen in imports if (seen["ground"], seen["what"]) == (ground, what)]
            for what in ("memwatch", "psutil", "nothing")
            for key in ("took_ns", "rss")
        }
        for key, unit, what, most in (("took_ns", "ms", name, most_ns), ("rss", "MB", "  RSS it adds", most_bytes)):
            nothing = statistics.median(values["nothing", key])
            ours = Spread.of(values["memwatch", key]) - nothing
            psutil = statistics.median(values["psutil", key]) - nothing
            yield Row(what, unit, ours, ours=ours.median, psutil=psutil, target=most)
    count = float(len(heavy(imports)))
    yield Row("  heavy modules", "", Spread(count, count, count), ours=count, target=0)


def heavy(imports: list[dict[str, Any]]) -> list[str]:
    """Those of HEAVY that importing memwatch loads into a bare interpreter."""
    loaded = {
        name for seen in imports if (seen["ground"], seen["what"]) == ("bare", "memwatch") for name in seen["loaded"]
    }
    return [name for name in HEAVY if name in loaded]


def rows(raw: dict[str, Any]) -> list[Row]:
    """The figures that raw values come to."""
    kept = float(raw["looks"]["descriptors"])
    return [
        *_look_rows(raw["looks"]),
        _board_row(raw["board"]),
        *_import_rows(raw["imports"]),
        Row("descriptors kept", "", Spread(kept, kept, kept), ours=kept),
    ]


def problems(raw: dict[str, Any]) -> list[str]:
    """Why the run says nothing; none when it is valid."""
    found = list(raw["looks"]["problems"])
    blocks, asked = raw["looks"]["blocks"] | raw["board"]["blocks"], raw["settings"]
    for name, values in blocks.items():
        if len(values) < asked["rounds"]:
            found.append(f"{len(values)} rounds of {name!r}, not {asked['rounds']}")
    for ground in ("bare", "numpy"):
        for what in ("memwatch", "psutil", "nothing"):
            count = sum((seen["ground"], seen["what"]) == (ground, what) for seen in raw["imports"])
            if count < asked["imports"]:
                found.append(f"{count} imports of {what} ({ground}), not {asked['imports']}")
    if found:
        return found
    clock = raw["machine"]["clock"]
    timer = statistics.median(raw["looks"]["each"]["timer"])
    if not clock["monotonic"] or clock["resolution"] > 1e-6 or not 0 <= timer < CLOCK:
        found.append(f"the clock cannot time a look: {clock}, {timer:.0f} ns to read")
    if any(value <= 0 for name, values in blocks.items() if name != "timer" for value in values):
        found.append("the clock went backwards, or stood")
    for name in ("sample: preads", "headroom: preads"):
        low, median, high = Spread.of(blocks[name])
        if high - low > NOISE * median:
            found.append(
                f"the machine is too busy: the middle half of {name!r} lies between {low / 1e3:.1f} and "
                f"{high / 1e3:.1f} us, more than {NOISE:.0%} of its median apart"
            )
    return found


# ----------------------------------------------------------------- speaking ---


def _distribution(each: dict[str, list[int]]) -> list[str]:
    shares = (0.5, 0.9, 0.99, 0.999)
    lines = []
    for name, said in (
        ("timer", "the timer itself"),
        ("sample: preads", "kernel's floor of a sample"),
        ("sample: C", "mw_sample(), C"),
        ("sample: memwatch", "memwatch.sample()"),
        ("sample: by hand", "pure Python"),
        ("sample: psutil", "psutil"),
        ("headroom: preads", "kernel's floor of headroom"),
        ("headroom: C", "mw_headroom(), C"),
        ("headroom: memwatch", "Sampler.headroom()"),
        ("rss: memwatch", "another worker's RSS"),
    ):
        ordered = sorted(each[name])
        values = [*(percentile(ordered, share) for share in shares), ordered[-1]]
        lines.append([said, *(f"{value / 1e3:.2f}" for value in values), ""])
    return table([["single looks, us", "p50", "p90", "p99", "p99.9", "max", ""]], lines)


def _rate_lines(rates: list[dict[str, Any]]) -> list[str]:
    lines = []
    for hz in sorted({seen["hz"] for seen in rates}):
        share = {
            what: statistics.median(
                100 * seen["cpu_ns"] / seen["took_ns"] for seen in rates if (seen["hz"], seen["what"]) == (hz, what)
            )
            for what in ("look", "nothing")
        }
        made = statistics.median(1e9 * seen["looks"] / seen["took_ns"] for seen in rates if seen["hz"] == hz)
        look, nothing = share["look"], share["nothing"]
        lines.append([f"{hz:,} Hz", f"{made:,.0f}", f"{look:.3f} %", f"{nothing:.3f} %", f"{look - nothing:.3f} %", ""])
    return table([["of a core, looking at", "looks/s made", "in all", "wake-ups alone", "looks alone", ""]], lines)


def as_text(raw: dict[str, Any], found: Sequence[str]) -> str:
    """The figures as a table of 100 columns, and how they came to be."""
    asked = raw["settings"]
    reads = " + ".join(raw["looks"]["reads"])
    levels = len(raw["looks"]["groups"])
    head = [
        ["", "", "", "pure", "kernel's", "", "middle", "", ""],
        ["what", "ours", "psutil", "Python", "floor", "ratio", "half", "must be", ""],
    ]
    lines = [
        *title(raw),
        "",
        *table(head, [row.cells() for row in rows(raw)]),
        "",
        *_distribution(raw["looks"]["each"] | raw["board"]["each"]),
        "",
        *_rate_lines(raw["rates"]),
        "",
    ]
    notes = [
        f"A sample reads {reads}; headroom all of that but statm. Here: {raw['cgroup']}.",
        f"Looks: {asked['rounds']} rounds of {asked['calls']} calls of each case, in turn; ratios are within a round, "
        "to the floor unless it says psutil. Floor: the same preads, from C. Pure Python: kept descriptors, and no "
        "more parsed than is needed. psutil: virtual_memory(), and for a sample memory_info().",
        f"Imports: {asked['imports']} fresh interpreters each, less an import of nothing; psutil's beside it. Heavy: "
        f"{', '.join(HEAVY)}.",
        f"A Sampler keeps 5 descriptors, and 3 to 5 for each level of cgroups, of which there are {levels} here.",
        "~ the target lies within the middle half of the values: no difference from it can be told.",
    ]
    for note in notes:
        lines += textwrap.wrap(note, WIDTH, subsequent_indent="  ")
    return "\n".join([*lines, "", *verdict(rows(raw), found, raw["quick"])])


def as_json(raw: dict[str, Any], found: Sequence[str]) -> dict[str, Any]:
    """Everything for programs: times in ns, sizes in bytes."""
    figures = [{**asdict(row), "measured": row.measured._asdict(), "met": row.met} for row in rows(raw)]
    return {"format": 1, "valid": not found, "problems": list(found), "rows": figures, **raw}


# ---------------------------------------------------------------- measuring ---


def measure(quick: bool) -> dict[str, Any]:
    """All raw values. Takes 50 s, or 8 s when *quick*."""
    from . import measuring

    asked = QUICK if quick else FULL
    raw = about(quick, asked)
    how = {name: asked[name] for name in ("rounds", "calls", "singles")}
    with measuring.limited() as (enter, raw["cgroup"]):
        tell("looks ...")
        raw["looks"] = measuring.part("looks", enter, **how)
        tell("looking at 1 to 10,000 Hz ...")
        raw["rates"] = measuring.part("rates", enter, rounds=asked["slices"], seconds=asked["seconds"], rates=RATES)
    raw["board"] = measuring.board(**how)
    tell("imports ...")
    raw["imports"] = measuring.imports(int(asked["imports"]))
    tell("")
    return raw


def _open(path: str) -> IO[str]:
    """For writing, without a loss of what is in it should the run come to nothing."""
    try:
        return open(path, "a", encoding="utf-8")
    except OSError as error:
        raise MemwatchError(f"cannot write {path}: {error.strerror}; choose another FILE") from None


def _keep(file: IO[str], values: dict[str, Any]) -> None:
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.truncate(0)
    json.dump(values, file)
    file.write("\n")
    file.flush()


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


Measure = Callable[[bool], dict[str, Any]]


def main(argv: Sequence[str] | None = None, *, measure: Measure | None = None) -> int:
    """0: a valid run, whatever its figures; 1: an invalid one; 2: it could not be done."""
    parser = argparse.ArgumentParser(
        prog="memwatch-bench",
        description="Measures what looking at memory costs here, and compares it with psutil, pure Python and the "
        "kernel's floor. Takes a minute. As root it makes a memory cgroup for that time, so that a limit is there. "
        "With --brake: what a brake costs, and how long each of its steps takes, beside a thread that polls psutil. "
        "With --workers: of workers that run out of memory together, how soon one brakes and the others know. "
        "With --watchdog: what the watchdog costs and how soon it acts, beside supervisord. "
        "With --replay: what a ReplayBuffer costs and holds, beside Stable-Baselines3, cpprb, TorchRL and tianshou "
        "(pip install -c .ci/constraints.txt '.[bench]' brings them with a torch of a known size). "
        "With --trend: how often leaks are seen, and what is none is taken for one, beside other methods.",
        epilog="Exits with 0 when the run was valid, whether or not the targets are met; else with 1.",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--brake", action="store_true", help="measure the brake instead, in five minutes")
    what.add_argument("--workers", action="store_true", help="measure several workers instead, in four minutes")
    what.add_argument("--watchdog", action="store_true", help="measure the watchdog instead, in twelve minutes")
    what.add_argument("--replay", action="store_true", help="measure replay buffers instead, in two minutes")
    what.add_argument("--trend", action="store_true", help="measure how leaks are told instead, in six minutes")
    parser.add_argument("--quick", action="store_true", help="in 8 s to 50 s, to see that it works; decides nothing")
    parser.add_argument("--json", metavar="FILE", help="keep the raw values: times in ns, sizes in bytes")
    arguments = parser.parse_args(argv)
    # So that a cgroup is removed then too.
    before = signal.signal(signal.SIGTERM, _end)
    try:
        return _run(arguments.quick, arguments.json, _suite(arguments), measure)
    except (MemwatchError, OSError) as error:
        tell("")
        print(f"memwatch-bench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        tell("")
        print("memwatch-bench: interrupted", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)


def _suite(asked: argparse.Namespace) -> Any:
    """The module whose measure(), problems(), as_json() and as_text() are asked."""
    for name in ("brake", "workers", "watchdog", "replay", "trend"):
        if getattr(asked, name):
            return import_module(f".bench_{name}", __package__)
    return sys.modules[__name__]


def _run(quick: bool, path: str | None, suite: Any, measure: Measure | None) -> int:
    from .sampler import PURE

    if PURE:
        raise MemwatchError("there is nothing to measure without the C module; unset MEMWATCH_PURE, on Linux")
    new = path is not None and not os.path.exists(path)
    file = None if path is None else _open(path)
    try:
        raw = (measure or suite.measure)(quick)
        found = suite.problems(raw)
        if file is not None:
            _keep(file, suite.as_json(raw, found))
    except BaseException:
        if new and path is not None:
            os.unlink(path)  # it says nothing
        raise
    finally:
        if file is not None:
            file.close()
    try:
        print(suite.as_text(raw, found), flush=True)
    except BrokenPipeError:
        # The reader has seen enough (| head); let the interpreter's own flush not complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
