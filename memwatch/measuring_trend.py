"""
What memwatch-bench --trend measures: made-up workers, and what each method takes them for.

A worker is six hours, a look each 10 s, about 2.3 GB with 20 MB of noise. Of most nothing leaks. Methods are given the
same looks; trend.py is asked twice, with RSS alone and with what a worker tells besides.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple

from . import trend

EVERY = 10.0  # s
HOURS = 6.0
LOOKS = int(HOURS * 3600 / EVERY)
MB = 1e6
BASE, NOISE = 2300 * MB, 20 * MB
RATE = MB / 60  # bytes a second that leaks
RSS_ALONE, TOLD = "trend, RSS alone", "trend, told"


class Trace(NamedTuple):
    """
    A worker's life; arrays of LOOKS values, in bytes.

    Attributes:
        rss: As the kernel says it.
        live: What its allocators have handed out.
        trials: How many it has begun.
        filled, budget: What its buffers hold, and hold when full.
        begins: When it begins to leak, in seconds; None: it does not.
    """

    rss: Any
    live: Any
    trials: Any
    filled: Any
    budget: float = 0.0
    begins: float | None = None


# -------------------------------------------------------------------------- the shapes ---

Shape = Callable[[Any, Any], Trace]
SHAPES: dict[str, Shape] = {}


def shape(make: Shape) -> Shape:
    SHAPES[make.__name__.replace("_", " ")] = make
    return make


def _trace(
    dice: Any,
    used: Any,
    *,
    kept: Any = 0.0,
    trials: Any = None,
    filled: Any = None,
    budget: float = 0.0,
    leaks: bool = False,
) -> Trace:
    """Of what is in use, what the allocator keeps on top of it, and buffers beside both."""
    import numpy as np

    filled = np.zeros(LOOKS) if filled is None else filled
    trials = 1 + np.arange(LOOKS) * EVERY // 60 if trials is None else trials  # short ones, of which nothing is seen
    rss = used + kept + filled + dice.normal(0, NOISE, LOOKS)
    # Two thirds are in use; the rest is code, and what threads and libraries have mapped.
    live = used - BASE / 3 + dice.normal(0, NOISE / 10, LOOKS)
    return Trace(rss, live, trials, filled, budget, 0.0 if leaks else None)


def _saw(dice: Any, time: Any) -> tuple[Any, Any]:
    """Trials of 5 to 30 minutes, which take 0.3 to 2 GB and give it back; and how many have begun."""
    period = dice.uniform(300, 1800)
    at = (time + dice.uniform(0, period)) / period
    return dice.uniform(300, 2000) * MB * (at % 1), 1 + at // 1


@shape
def flat(dice: Any, time: Any) -> Trace:
    """Nothing happens."""
    return _trace(dice, BASE + 0 * time)


@shape
def drift(dice: Any, time: Any) -> Trace:
    """It wanders, by 40 MB within some two hours, and comes back: caches, and what trials happen to need."""
    import numpy as np

    wander, keep = np.zeros(LOOKS), np.exp(-EVERY / 7200)
    for k, step in enumerate(dice.normal(0, 40 * MB * np.sqrt(1 - keep**2), LOOKS - 1)):
        wander[k + 1] = keep * wander[k] + step
    return _trace(dice, BASE + wander)


@shape
def warm_up(dice: Any, time: Any) -> Trace:
    """Half a GB to one more, ever slower: time constants of 5 to 30 minutes."""
    import numpy as np

    rise = dice.uniform(500, 1000) * MB
    return _trace(dice, BASE - rise * np.exp(-time / dice.uniform(300, 1800)))


@shape
def filling(dice: Any, time: Any) -> Trace:
    """A buffer of 0.5 to 2 GB fills within 1 to 5 hours."""
    import numpy as np

    budget = dice.uniform(500, 2000) * MB
    return _trace(
        dice, BASE + 0 * time, filled=np.minimum(budget * time / dice.uniform(3600, 18000), budget), budget=budget
    )


@shape
def sawtooth(dice: Any, time: Any) -> Trace:
    """Trials that take memory and give it back."""
    saw, trials = _saw(dice, time)
    return _trace(dice, BASE + saw, trials=trials)


@shape
def steps(dice: Any, time: Any) -> Trace:
    """Two to six times it needs 30 to 200 MB more, and stays there."""
    used = BASE + 0 * time
    for _ in range(dice.integers(2, 7)):
        used = used + dice.uniform(30, 200) * MB * (time > dice.uniform(0, time[-1]))
    return _trace(dice, used)


@shape
def uneven_trials(dice: Any, time: Any) -> Trace:
    """Trials of very different size, of 2 to 20 minutes; of what each frees the allocator keeps some until the next."""
    import numpy as np

    used, kept, trials, k = BASE + 0 * time, np.zeros(LOOKS), np.zeros(LOOKS), 0
    while k < LOOKS:
        end = k + max(int(dice.uniform(120, 1200) / EVERY), 1)
        size = min(dice.lognormal(5, 1), 3000) * MB
        used[k:end] += size
        trials[k:] += 1
        kept[end : end + (end - k)] = dice.uniform(0, 0.3) * size
        k = end
    return _trace(dice, used, kept=kept, trials=trials)


@shape
def leak(dice: Any, time: Any) -> Trace:
    """1 MB a minute."""
    return _trace(dice, BASE + RATE * time, leaks=True)


@shape
def leak_under_sawtooth(dice: Any, time: Any) -> Trace:
    """1 MB a minute, and trials that take memory and give it back."""
    saw, trials = _saw(dice, time)
    return _trace(dice, BASE + RATE * time + saw, trials=trials, leaks=True)


@shape
def leak_in_stairs(dice: Any, time: Any) -> Trace:
    """1 MB a minute, but holes in the heap are filled first: RSS jumps by 8 to 64 MB."""
    import numpy as np

    leaked, height = RATE * time, dice.uniform(8, 64) * MB
    return _trace(dice, BASE + leaked, kept=np.ceil(leaked / height) * height - leaked, leaks=True)


# ------------------------------------------------------------------------- the methods ---

# Those of RSS alone look at the last two hours, by minutes, each 10 minutes; a finding counts the second time.
WINDOW, BLOCK, STRIDE = 720, 6, 60
RISE_LEAST = 10 * MB
Method = Callable[[Any], bool]


def least_squares(minutes: Any) -> bool:
    """R2 above 0.5, and up."""
    import numpy as np

    slope, _ = np.polyfit(np.arange(len(minutes)), minutes, 1)
    return bool(slope > 0 and np.corrcoef(np.arange(len(minutes)), minutes)[0, 1] ** 2 > 0.5)


def mann_kendall(minutes: Any) -> bool:
    """One value is above another that came before, more often than by chance: z above 3.1, p < 0.001."""
    import numpy as np

    n = len(minutes)
    above = np.sign(minutes[None, :] - minutes[:, None])[np.triu_indices(n, 1)].sum()
    return bool((above - 1) / np.sqrt(n * (n - 1) * (2 * n + 5) / 18) > 3.1)


def theil_sen(minutes: Any) -> bool:
    """The median of all slopes is more than 10 MB in the window, and so it is in both of its halves."""
    import numpy as np

    def slope(values: Any) -> float:
        i, j = np.triu_indices(len(values), 1)
        return float(np.median((values[j] - values[i]) / (j - i)))

    half = len(minutes) // 2
    least = RISE_LEAST / len(minutes)
    return all(slope(it) > least for it in (minutes, minutes[:half], minutes[half:]))


def ratchet(minutes: Any) -> bool:
    """The low tenth of each of eight blocks lies above the one before; once it need not."""
    import numpy as np

    floors = [np.percentile(block, 10) for block in np.array_split(minutes, 8)]
    rises = sum(b > a for a, b in pairwise(floors))
    return bool(rises >= 6 and floors[-1] - floors[0] > RISE_LEAST)


def either(minutes: Any) -> bool:
    """Theil-Sen or the ratchet."""
    return theil_sen(minutes) or ratchet(minutes)


METHODS: dict[str, Method] = {
    "least squares": least_squares,
    "Mann-Kendall": mann_kendall,
    "Theil-Sen, confirmed": theil_sen,
    "ratchet, confirmed": ratchet,
    "either, after 90 min": either,
}
AT_ONCE = {"least squares", "Mann-Kendall"}
AFTER = {"either, after 90 min": 5400.0}  # s; what was before is not looked at


def first_alarm(method: str, rss: Any) -> float | None:
    """When the method says leak for the first time, in seconds; None: never."""
    import numpy as np

    skip = int(AFTER.get(method, 0.0) / EVERY)
    before = method in AT_ONCE
    for end in range(skip + WINDOW // 2, LOOKS + 1, STRIDE):
        looks = rss[max(skip, end - WINDOW) : end]
        found = METHODS[method](np.median(looks[: len(looks) // BLOCK * BLOCK].reshape(-1, BLOCK), axis=1))
        if found and before:
            return end * EVERY
        before = found or method in AT_ONCE
    return None


def first_leak(trace: Trace, told: bool) -> float | None:
    """The same of trend.py."""
    state = trend.begin()
    every = (trace.rss, trace.live, trace.filled, trace.trials)
    rss, live, filled, trials = (it.astype(int).tolist() for it in every)
    for k in range(LOOKS):
        reading = trend.Reading(k * EVERY, rss[k])
        if told:
            reading = reading._replace(live=live[k], budget=int(trace.budget), filled=filled[k], trials=trials[k])
        state, verdict = trend.step(state, reading)
        if verdict.kind is trend.Kind.LEAK:
            return k * EVERY
    return None


# ----------------------------------------------------------------------------- a run ---


def _alarms(case: tuple[str, int]) -> dict[str, float | None]:
    """Of one worker: when each method says leak."""
    import numpy as np

    name, seed = case
    trace = SHAPES[name](np.random.default_rng([seed, *name.encode()]), np.arange(LOOKS) * EVERY)
    found = {method: first_alarm(method, trace.rss) for method in METHODS}
    return found | {RSS_ALONE: first_leak(trace, False), TOLD: first_leak(trace, True)}


def alarms(seeds: int) -> Iterator[tuple[str, dict[str, list[float | None]]]]:
    """For each shape, and each method: when it said leak, of each seed."""
    from multiprocessing import get_context

    # Not by fork(): whoever asks may have threads.
    with get_context("spawn").Pool() as pool:
        for name in SHAPES:
            every = pool.map(_alarms, [(name, seed) for seed in range(seeds)], chunksize=4)
            yield name, {method: [it[method] for it in every] for method in every[0]}


def leaks(name: str) -> bool:
    """Whether workers of that shape do."""
    import numpy as np

    return SHAPES[name](np.random.default_rng(0), np.arange(LOOKS) * EVERY).begins is not None
