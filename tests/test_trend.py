"""Whether memory that grows is a leak: made-up workers, look by look; and memwatch-bench --trend, which counts them."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from memwatch import bench_trend, measuring_trend, trend
from memwatch.measuring_trend import RSS_ALONE, SHAPES, TOLD, first_alarm, first_leak
from memwatch.sampler import PURE
from memwatch.trend import Kind, Limit, Reading

MB, MINUTE = 10**6, 60.0
At = Callable[[float], int]


def told(
    minutes: float,
    rss: At,
    live: At | None = None,
    *,
    every: float = 10.0,
    kept: At | None = None,
    filled: At = lambda _: 0,
    budget: int = 0,
    trials: At | None = lambda time: 1 + int(time // 60),
    state: trend.State | None = None,
    begins: float = 0.0,
) -> tuple[trend.State, list[trend.Verdict]]:
    """What is thought of a worker after each look."""
    state, verdicts = state or trend.begin(), []
    for k in range(int(minutes * 60 / every)):
        time = begins + k * every
        heap = [None if it is None else it(time) for it in (live, kept)]
        reading = Reading(time, rss(time), heap[0], budget, filled(time), heap[1], trials and trials(time))
        state, verdict = trend.step(state, reading)
        verdicts.append(verdict)
    return state, verdicts


def flat(_: float) -> int:
    return 1000 * MB


def grows(time: float) -> int:
    """30 MB a minute."""
    return 1000 * MB + int(time / 2) * MB


def kinds(verdicts: list[trend.Verdict]) -> set[Kind]:
    return {it.kind for it in verdicts}


def test_what_a_program_has_in_use_and_grows_is_a_leak() -> None:
    """Its rate is what it grows by; who is sure has reason to be."""
    state, verdicts = told(40, grows, grows)
    last = verdicts[-1]

    assert Kind.LEAK is last.kind
    assert 0.5 * MB == pytest.approx(last.rate, rel=0.05)
    assert last.confidence > 0.9
    assert last.since is not None
    assert trend.AGE_LEAST <= last.since + trend.BIN
    assert state.verdict.kind is Kind.LEAK


def test_of_a_young_worker_nothing_is_said() -> None:
    """Programs warm up."""
    assert {Kind.STEADY} == kinds(told(14, grows, grows)[1])
    assert {Kind.STEADY} == kinds(told(29, grows)[1])
    assert Kind.LEAK in kinds(told(60, grows)[1])


def test_what_stays_is_steady() -> None:
    """And what falls is, too."""
    assert {Kind.STEADY} == kinds(told(240, flat, flat)[1])
    assert {Kind.STEADY} == kinds(told(240, lambda time: 2000 * MB - int(time * 50_000), flat)[1])


def test_a_buffer_that_fills_is_none() -> None:
    """What it said it would hold is taken off; once it is full that is over."""
    budget = 2000 * MB

    def filled(time: float) -> int:
        return min(int(time / 2) * MB, budget)

    _, verdicts = told(100, lambda time: 500 * MB + filled(time), flat, filled=filled, budget=budget)

    assert {Kind.STEADY, Kind.FILLING} == kinds(verdicts)
    assert 0.5 * MB == pytest.approx(verdicts[350].rate, rel=0.05)
    assert (Kind.FILLING, Kind.STEADY) == (verdicts[350].kind, verdicts[-1].kind)


def test_a_leak_beside_a_buffer_that_fills_is_one() -> None:
    """Only what the buffer holds is taken off."""
    _, verdicts = told(
        60, lambda time: grows(time) + int(time) * MB, grows, filled=lambda time: int(time) * MB, budget=9000 * MB
    )

    assert Kind.LEAK is verdicts[-1].kind
    assert 0.5 * MB == pytest.approx(verdicts[-1].rate, rel=0.05)


KEPT = [
    pytest.param(lambda time: grows(time) - 900 * MB, Kind.RETENTION, id="the-allocator-keeps-it"),
    pytest.param(None, Kind.RETENTION, id="nobody-says-who-keeps-it"),
    pytest.param(lambda _: 100 * MB, Kind.LEAK, id="nobody-knows-of-it"),
]


@pytest.mark.parametrize(("kept", "expected"), KEPT)
def test_what_grows_over_steady_live_bytes(kept: At | None, expected: Kind) -> None:
    """It is the allocator's, or mapped beside it."""
    assert {Kind.STEADY, expected} == kinds(told(90, grows, lambda _: 900 * MB, kept=kept)[1])


def test_one_trial_that_takes_ever_more_is_none() -> None:
    """It may give all of it back: some must have ended."""
    assert {Kind.STEADY} == kinds(told(120, grows, grows, trials=lambda _: 1)[1])


def test_trials_that_come_and_go_are_none() -> None:
    """A sawtooth of 25 minutes, told as it is."""
    wave = 25 * MINUTE

    def rss(time: float) -> int:
        return 1000 * MB + int(time % wave) * MB

    assert {Kind.STEADY} == kinds(told(360, rss, rss, trials=lambda time: 1 + int(time // wave))[1])


@pytest.mark.parametrize("gap", ["asleep", "fallen", "back"])
def test_what_was_before_says_nothing_of_a_new_life(gap: str) -> None:
    """Nobody looked for long, it holds half of what it did, or the clock is another."""
    state, verdicts = told(60, grows, grows)
    begins = {"asleep": 2 * 3600.0, "fallen": 3600.0, "back": 60.0}[gap]
    size = 500 * MB if gap == "fallen" else 3000 * MB
    state, after = told(1, lambda _: size, lambda _: size, state=state, begins=begins)

    assert Kind.LEAK is verdicts[-1].kind
    assert {Kind.STEADY} == kinds(after)
    assert () == state.bins[:-6]


def test_looks_that_stop_for_a_moment_are_one_series() -> None:
    """The watchdog looks each minute, at least."""
    assert Kind.LEAK is told(90, grows, grows, every=60.0)[1][-1].kind


def test_it_remembers_little_however_long_it_goes_on() -> None:
    """A week of looks, each 10 s; and those near a limit, 20 a second."""
    week, _ = told(7 * 24 * 60, flat, flat)
    near, _ = told(10, flat, flat, every=0.05)

    assert trend.BINS_MOST // 2 <= len(week.bins) < trend.BINS_MOST
    assert len(near.bins) < trend.BINS_MOST
    assert week.width > 3600


def test_a_slow_leak_of_days_is_seen() -> None:
    """0.1 MB a minute: bins grow with the life."""
    assert Kind.LEAK is told(2 * 24 * 60, *[lambda time: 1000 * MB + int(time * MB / 600)] * 2, every=60.0)[1][-1].kind


def test_the_nearest_limit_is_met_first() -> None:
    """At the rate at which it grows; what lies behind is none."""
    leak = trend.Verdict(Kind.LEAK, 2.0 * MB, 0.9, 0.0, 1000 * MB)
    far, near, behind = (
        Limit("max_rss", 8000 * MB, 7000 * MB),
        Limit("available", 2000 * MB, 600 * MB),
        Limit("x", 1, 0),
    )
    found = trend.forecast(leak, [far, near, behind])

    assert found is not None
    assert ("available", 2000 * MB, 300.0) == (found.limit, found.limit_bytes, found.seconds)
    assert trend.forecast(leak, [behind]) is None
    assert trend.forecast(leak._replace(kind=Kind.STEADY), [far]) is None


# ------------------------------------------------------------------------- made-up workers ---

SEEDS = 10


def test_what_is_in_use_is_never_said_to_be_the_allocators() -> None:
    """It grows ever slower: no leak yet, by what the program uses, while RSS alone would pass for one."""

    def slows(time: float) -> int:
        return 1000 * MB + int(time**0.6 * MB)

    assert Kind.RETENTION not in kinds(told(240, slows, slows)[1])


def test_a_few_megabytes_are_none() -> None:
    """Whatever their shape."""
    assert {Kind.STEADY} == kinds(told(120, *[lambda time: 1000 * MB + int(time * 500)] * 2)[1])


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_shapes_are_taken_for_what_they_are(name: str) -> None:
    """Who tells what it has in use is told right, nearly always; the table of all of it: memwatch-bench --trend."""
    import numpy as np

    caught = alone = 0
    for seed in range(SEEDS):
        trace = SHAPES[name](np.random.default_rng([seed, 1]), np.arange(measuring_trend.LOOKS) * measuring_trend.EVERY)
        caught += first_leak(trace, told=True) is not None
        alone += first_leak(trace, told=False) is not None

    if measuring_trend.leaks(name):
        assert caught >= SEEDS - 4
        assert alone >= SEEDS / 2
    else:
        assert caught <= 1
        # By RSS alone a buffer that fills is a leak.
        assert alone == SEEDS if name == "filling" else alone <= 3


@pytest.mark.slow
def test_two_trials_of_which_the_second_is_larger_are_none() -> None:
    """A tooth and a half, and noise: 17 of 100 such workers were said to leak, by RSS alone; each of these was."""
    import numpy as np

    time = np.arange(measuring_trend.LOOKS) * measuring_trend.EVERY
    for seed in (16, 17, 21, 29, 30, 32, 35, 42):
        trace = SHAPES["sawtooth"](np.random.default_rng([seed, 1]), time)
        assert first_leak(trace, told=False) is None, seed


def test_the_methods_see_a_line_and_nothing_in_noise() -> None:
    """Those that trend.py is compared with are no straw men."""
    import numpy as np

    time = np.arange(measuring_trend.LOOKS) * measuring_trend.EVERY
    noise = np.random.default_rng(3).normal(0, measuring_trend.NOISE, measuring_trend.LOOKS)
    for method in measuring_trend.METHODS:
        assert first_alarm(method, measuring_trend.BASE + time * MB / 10 + noise) is not None, method
        if method != "Mann-Kendall":  # which is wrong once in a thousand times that it is asked, and more
            assert first_alarm(method, measuring_trend.BASE + noise) is None, method


def raw(said: float | None, seeds: int = 1) -> dict[str, object]:
    methods = {name: [said] for name in [*measuring_trend.METHODS, RSS_ALONE, TOLD]}
    machine = {"kernel": "Linux", "cpu": "one", "cores": 1, "memory": 10**9}
    versions = dict.fromkeys(("memwatch", "python", "psutil", "numpy", "cffi"), "1")
    known = {"quick": False, "settings": {"seeds": seeds}, "machine": machine, "versions": versions, "commit": None}
    return known | {"alarms": dict.fromkeys(SHAPES, methods), "leaky": ["leak"]}


def test_alarms_are_counted_and_late_ones_are_late() -> None:
    """A third of the workers were said to leak, in the middle after two minutes."""
    assert 2 / 3 == bench_trend.share([60.0, None, 180.0])
    assert 2.0 == bench_trend.delay([60.0, None, 180.0])
    assert bench_trend.delay([None]) is None
    assert [100.0, 100.0] * 2 == [it.measured for it in bench_trend.figures(raw(60.0))]
    assert [0.0, 0.0] * 2 == [it.measured for it in bench_trend.figures(raw(None))]


def test_too_few_workers_say_nothing() -> None:
    """Each missing one is named."""
    assert [] == bench_trend.problems(raw(None))
    assert any("1 workers of 'flat'" in it for it in bench_trend.problems(raw(None, seeds=2)))


@pytest.mark.slow
@pytest.mark.skipif(PURE, reason="memwatch-bench measures the C module (MEMWATCH_PURE is set)")
def test_a_real_run_prints_each_shape(tmp_path: Path) -> None:
    """As a person types it."""
    file = tmp_path / "raw.json"
    command = [sys.executable, "-P", "-m", "memwatch.bench", "--quick", "--trend", "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)

    assert (0, "") == (done.returncode, done.stderr)
    assert all(f"\n{name} " in done.stdout for name in SHAPES)
    assert max(map(len, done.stdout.splitlines())) <= 100
    assert set(SHAPES) == set(json.loads(file.read_text())["alarms"])
