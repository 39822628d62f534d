"""memwatch-bench --replay: what a ReplayBuffer costs and holds, beside those of four libraries for learning."""

import statistics
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from .bench_brake import BUSY, Figure
from .bench_common import WIDTH, Spread, about, table, tell, title, verdict
from .measuring_replay import BATCH, INTO, OURS, SHARED, STORES, TENSORS
from .units import format_size

# A quick run is for tests and CI: it shows that all works, and too little to decide anything.
FULL = {"rounds": 100, "capacities": [200_000, 1_000_000], "images": 20_000, "overwrites": 10, "samples": 100_000}
FULL |= {"repeats": 3, "tests": 4}
QUICK = {"rounds": 4, "capacities": [2_000, 4_000], "images": 512, "overwrites": 2, "samples": 2_000}
QUICK |= {"repeats": 1, "tests": 1}

CALLS = {"add": 500, "extend": 20, "sample": 50}  # of a block: 25 ms, most of it the slowest peer's
FEW = 5  # of a block of images
SIZES = {"vectors": 256, "images": 32}  # of a sample

# How much faster than each it must be; and than the fastest of them.
ADD = {"Stable-Baselines3": 2.0, "cpprb": 8.0, "TorchRL": 40.0, "tianshou": 15.0}
SAMPLE = {"Stable-Baselines3": 5.0, "cpprb": 3.0, "TorchRL": 8.0, "tianshou": 4.0}
EXTEND, IMAGES = 2.0, 1.0
RESIDENT = {"vectors": 1.03, "images": 1.03}
ONCE = {"vectors": 0.62, "images": 0.51}
AS_TORCH = 1.4
GROWTH = 256.0  # KiB
TEST = 1.5e9  # ns

INSTALL = "pip install 'memwatch[bench]'"
PINNED = "pip install -c .ci/constraints.txt '.[bench]'"
NEEDED = 5_000_000_000  # bytes; two buffers of images are 2.3 GB


# ------------------------------------------------------------------ judging ---

Blocks = dict[str, list[float]]


def times(blocks: Blocks, slow: str, quick: str = OURS) -> tuple[float, ...]:
    """How many times as long the one takes as the other, round by round."""
    return tuple(a / b for a, b in zip(blocks[slow], blocks[quick], strict=True))


def _peers(blocks: Blocks) -> list[str]:
    return [name for name in blocks if name in STORES and name != OURS]


def _faster(what: str, blocks: Blocks, peer: str, target: float, where: str) -> Figure:
    return Figure(what, where, "ratio", times(blocks, peer), 0.5, ">=", target)


def _hardest(blocks: dict[str, Blocks]) -> str | None:
    """Of peers that were each measured beside ours, the one that came nearest to it, or was faster."""
    return min(blocks, key=lambda peer: statistics.median(times(blocks[peer], peer)), default=None)


def figures(raw: dict[str, Any]) -> list[Figure]:
    """What raw values come to."""
    return [*_held(raw), *_speeds(raw), *_rest(raw)]


def _held(raw: dict[str, Any]) -> Iterator[Figure]:
    for it in raw["resident"]:
        if it["store"] != OURS:
            continue
        target = (ONCE if it["shared"] else RESIDENT)[it["shape"]]
        how = "next_of, " if it["shared"] else ""
        what = f"resident / needed: {how}{it['capacity']:,} {it['shape']}"
        yield Figure(what, "held", "ratio", (it["grown"] / it["needed"],), 0.5, target=target)


def _speeds(raw: dict[str, Any]) -> Iterator[Figure]:
    first, *_ = raw["vectors"].values()
    for peer in _peers(first["add"]):
        yield _faster(f"add one: {peer} / ours", first["add"], peer, ADD[peer], "add")
    # Each with ours of the same round.
    beside = dict.fromkeys(_peers(first["extend"]), first["extend"])
    if nearest := _hardest(beside):
        what = f"extend: the fastest, {nearest} / ours"
        yield _faster(what, first["extend"], nearest, EXTEND, "extend")
    for capacity, deeds in raw["vectors"].items():
        for peer in _peers(deeds["sample"]):
            what = f"sample(256), {int(capacity):,}: {peer} / ours"
            yield _faster(what, deeds["sample"], peer, SAMPLE[peer], f"sample {capacity}")
    if nearest := _hardest(raw["images"]):
        what = f"images: the fastest, {nearest} / ours"
        yield _faster(what, raw["images"][nearest], nearest, IMAGES, "images")


def _rest(raw: dict[str, Any]) -> Iterator[Figure]:
    first, *_ = raw["vectors"].values()
    if TENSORS in first["sample"]:
        yield Figure("as tensors / as arrays", "", "ratio", times(first["sample"], TENSORS), 0.5, target=AS_TORCH)
    grown = tuple((max(marks) - marks[0]) / 1024 for marks in raw["growth"])
    asked = raw["settings"]
    what = f"RSS growth, {asked['overwrites']} overwrites, {asked['samples']:,} samples: KiB"
    yield Figure(what, "", "", (max(grown),), 0.5, target=GROWTH)
    yield Figure(
        "assert_no_leak, one test, the slowest", "", "ms", (float(max(raw["tests"]["clean"])),), 0.5, target=TEST
    )
    yield Figure("  the median of them", "", "ms", tuple(map(float, raw["tests"]["clean"])), 0.5)
    if raw["tests"]["leaky"]:
        yield Figure("  of a function that leaks", "", "ms", tuple(map(float, raw["tests"]["leaky"])), 0.5)


def problems(raw: dict[str, Any]) -> list[str]:
    """Why the run says nothing; none when it is valid."""
    found, asked = [], raw["settings"]
    for capacity in asked["capacities"]:
        for deed, blocks in raw["vectors"].get(str(capacity), {"sample": {OURS: []}}).items():
            short = [name for name, values in blocks.items() if len(values) < asked["rounds"]]
            found += [f"{len(blocks[it])} rounds of {deed} with {it}, not {asked['rounds']}" for it in short]
    found += [
        f"{it['store']} full of {it['shape']} took no memory: {it['grown']} bytes"
        for it in raw["resident"]
        if it["grown"] <= 0
    ]
    missed = asked["tests"] - len(raw["tests"]["leaky"])
    if missed:
        found.append(f"{missed} of {asked['tests']} leaks were not found by assert_no_leak")
    if raw["others"] > BUSY:
        found.append(f"the machine is too busy: others took {raw['others']:.0%} of its cores before it was measured")
    return found


# ----------------------------------------------------------------- speaking ---


def _row(what: str, unit: float, blocks: Blocks, decimals: int = 2) -> list[str]:
    """A line of medians, in *unit*."""
    cells = []
    for name in (OURS, SHARED, INTO, TENSORS, *ADD):
        values = blocks.get(name)
        cells.append("-" if not values else f"{statistics.median(values) / unit:,.{decimals}f}")
    return [what, *cells, ""]


def medians(raw: dict[str, Any]) -> list[list[str]]:
    """All stores beside each other."""
    first, *_ = raw["vectors"].values()
    lines = [_row("add one", 1e3, first["add"]), _row("extend, a transition", 1e3 * BATCH, first["extend"], 3)]
    for capacity, deeds in raw["vectors"].items():
        lines.append(_row(f"sample(256), {int(capacity):,}", 1e3, deeds["sample"], 1))
    images = raw["own images"] | {peer: blocks[peer] for peer, blocks in raw["images"].items()}
    lines.append(_row("sample(32), images", 1e3, images, 1))
    for shape in SIZES:
        held: dict[bool, Blocks] = {False: {}, True: {}}
        for it in raw["resident"]:
            if it["shape"] == shape:
                name = SHARED if it["shared"] and it["store"] == OURS else it["store"]
                held[it["shared"]].setdefault(name, []).append(it["grown"] / it["needed"])
        ours = held[True].pop(SHARED, [])
        lines.append(_row(f"resident, {shape}", 1, held[False] | {SHARED: ours}))
        if held[True]:
            lines.append(_row("  next_obs kept once", 1, held[True]))
    return lines


def wins(raw: dict[str, Any]) -> list[str]:
    """Where a peer is faster, or holds less: a line each, and one where no difference can be told."""
    rows: list[tuple[str, Blocks]] = []
    for capacity, deeds in raw["vectors"].items():
        rows += [(f"{deed} at {int(capacity):,}", blocks) for deed, blocks in deeds.items()]
    rows += [("sample(32) of images", blocks) for blocks in raw["images"].values()]
    found = []
    for what, blocks in rows:
        for peer in _peers(blocks):
            spread = Spread.of(times(blocks, peer))
            if spread.high < 1:
                found.append(f"{peer} is faster: {what}, {1 / spread.median:.2f} times.")
            elif spread.low <= 1:
                found.append(f"No difference from {peer} can be told: {what}.")
    held = {
        (it["store"], it["shape"], it["capacity"], it["shared"]): it["grown"] / it["needed"] for it in raw["resident"]
    }
    for (store, shape, capacity, shared), share in held.items():
        ours = held.get((OURS, shape, capacity, shared), 0.0)
        if share < ours - 0.005:
            how = ", next_obs kept once" if shared else ""
            found.append(f"{store} holds less: {share:.2f} of the bytes needed, not {ours:.2f} ({shape}{how}).")
    return found or ["No peer is faster in a row, or holds less."]


def _notes(raw: dict[str, Any]) -> Iterator[str]:
    asked = raw["settings"]
    there = [f"{name} {version}" for name, version in raw["peers"].items() if version is not None]
    missing = [name for name, version in raw["peers"].items() if version is None]
    if there:
        yield f"Beside it, in the same processes: {', '.join(there)}."
    if missing:
        yield (
            f"Not measured: {', '.join(missing)}; not installed: {INSTALL}, or in a checkout, with torch for the "
            f"CPU, of a known size: {PINNED}."
        )
    yield from wins(raw) if there else ()
    yield (
        f"Times are in us, medians of {asked['rounds']} rounds, all in turn; ratios are within a round. Vectors: obs "
        f"17, action 6, float32; extend: batches of {BATCH}. Images: 84x84x4 uint8, {asked['images']:,}, ours and one "
        "peer in a process. torch has one thread."
    )
    yield (
        "Each as it is documented, and what add() takes is made beforehand (TensorDict, Batch). Stable-Baselines3: "
        "256 environments, one for add; samples are tensors. cpprb: its own batches. TorchRL: ReplayBuffer over "
        "LazyTensorStorage. tianshou: ReplayBuffer; extend: VectorReplayBuffer of 256."
    )
    yield (
        "Resident: what RSS of a fresh process grew by, full, over the bytes that all transitions have with both "
        "observations. next_obs kept once: Stable-Baselines3's optimize_memory_usage, cpprb's next_of, tianshou's "
        f"ignore_obs_next. An episode of it has {BATCH} steps."
    )
    yield "~ the target lies within the middle half of the values: no difference from it can be told."


def _cells(figure: Figure) -> list[str]:
    what, median, half, must, judged = figure.cells()
    return [what, median, half, must, judged]


def as_text(raw: dict[str, Any], found: Sequence[str]) -> str:
    """The figures as a table of 100 columns at most, and how they came to be."""
    every = figures(raw)
    head = [
        ["", "", "", "", "", "Stable-", "", "", "", ""],
        ["us", "memwatch", "next_of", "out=", "as_torch", "Baselines3", "cpprb", "TorchRL", "tianshou", ""],
    ]
    lines = [*title(raw), "", *table(head, medians(raw)), ""]
    lines += [*table([["what", "median", "middle half", "must be", ""]], [_cells(it) for it in every]), ""]
    for note in _notes(raw):
        lines += textwrap.wrap(note, WIDTH, subsequent_indent="  ")
    return "\n".join([*lines, "", *verdict(every, found, raw["quick"])])


def as_json(raw: dict[str, Any], found: Sequence[str]) -> dict[str, Any]:
    """Everything for programs: times in ns, sizes in bytes."""
    rows = [figure.as_json() for figure in figures(raw)]
    return {"format": 1, "valid": not found, "problems": list(found), "rows": rows, **raw}


# ---------------------------------------------------------------- measuring ---


def _vectors(raw: dict[str, Any], names: Sequence[str]) -> None:
    from .measuring_replay import part

    for number, capacity in enumerate(raw["settings"]["capacities"]):
        tell(f"vectors, {capacity:,} ...")
        deeds = CALLS if not number else {"sample": CALLS["sample"]}
        arguments = {"deeds": deeds, "size": SIZES["vectors"], "rounds": raw["settings"]["rounds"], "own": True}
        beside = names if not (number and raw["quick"]) else names[:1]  # importing them takes 6 s
        raw["vectors"][str(capacity)] = part("beside", shape="vectors", capacity=capacity, names=beside, **arguments)


def _images(raw: dict[str, Any], names: Sequence[str]) -> None:
    from .measuring_replay import part

    asked = raw["settings"]
    arguments = {"shape": "images", "capacity": asked["images"], "deeds": {"sample": FEW}, "size": SIZES["images"]}
    arguments |= {"rounds": asked["rounds"]}
    tell("images ...")
    raw["own images"] = part("beside", names=[OURS], own=True, **arguments)["sample"]
    for peer in names[1:]:
        tell(f"images, {peer} ...")
        raw["images"][peer] = part("beside", names=[OURS, peer], own=False, **arguments)["sample"]


def _resident(raw: dict[str, Any], names: Sequence[str]) -> None:
    from .measuring_replay import part

    asked = raw["settings"]
    few, many = asked["capacities"]
    cases = [(OURS, "vectors", many), *((name, "vectors", few) for name in names)]
    cases += [(name, "images", asked["images"]) for name in names]
    for store, shape, capacity in cases:
        for shared in (False, True) if STORES[store].can_share else (False,):
            tell(f"resident, {shape}, {store} ...")
            case = {"store": store, "shape": shape, "capacity": capacity, "shared": shared}
            raw["resident"].append(case | part("resident", **case))


def measure(quick: bool) -> dict[str, Any]:
    """All raw values. Takes two minutes, or 15 s when *quick*, which leaves most of the peers' out."""
    from . import measuring_brake, measuring_replay
    from .measuring import Unmeasured
    from .sampler import Sampler

    asked: dict[str, Any] = QUICK if quick else FULL
    peers = measuring_replay.installed()
    names = [OURS, *(name for name, version in peers.items() if version is not None)]
    with Sampler() as sampler:
        room = sampler.headroom()
    if not quick and room is not None and room < NEEDED:
        raise Unmeasured(
            f"buffers of images need {format_size(NEEDED)}, and {format_size(room)} are available: end something else"
        )
    raw = about(quick, asked) | {"peers": peers, "others": measuring_brake.others()}
    raw |= {"vectors": {}, "images": {}, "own images": {}, "resident": [], "growth": []}
    _vectors(raw, names)
    # A process for each takes 2 s to import what it is beside.
    _images(raw, names[:2] if quick else names)
    _resident(raw, names[:1] if quick else names)
    tell("overwriting ...")
    arguments = {"capacity": asked["capacities"][0], "overwrites": asked["overwrites"], "samples": asked["samples"]}
    raw["growth"] = [measuring_replay.part("growth", **arguments) for _ in range(asked["repeats"])]
    tell("tests ...")
    raw["tests"] = measuring_replay.part("tests", rounds=asked["tests"])
    tell("")
    return raw
