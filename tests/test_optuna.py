"""Trials of Optuna: what becomes of a braked one, what the study says of it, and that none is left RUNNING."""

import contextlib
import copy
import logging
import pickle
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support.wait import until

import memwatch
from memwatch.board import Board
from memwatch.identity import Identity
from memwatch.sampler import PURE

optuna = pytest.importorskip("optuna", reason="needs Optuna: pip install 'memwatch[optuna]'")

from support import studies  # noqa: E402
from support.studies import HIGH, LOW, RSS, Machine, ready, states, study, wait  # noqa: E402

from memwatch.integrations import _writer  # noqa: E402
from memwatch.integrations.optuna import guard, optimize  # noqa: E402

pytestmark = pytest.mark.skipif(PURE, reason="the brake is the native thread's alone (MEMWATCH_PURE is set)")

GB = 1_000_000_000
KINDS = ["memory", "sqlite", "journal"]
SHARED = ["sqlite", "journal"]  # with other processes


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    yield
    optuna.logging.set_verbosity(before)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    monkeypatch.setenv("MEMWATCH_BOARD", str(tmp_path / "board"))
    it = Machine(tmp_path)
    it.start()
    ready()
    yield it
    memwatch.stop()


@pytest.fixture
def where(kind: str, tmp_path: Path) -> str:
    return studies.place(kind, tmp_path)


# ----------------------------------------------------------------------- what a brake leaves ---


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("braked", "state"), [(None, "FAIL"), ("fail", "FAIL"), ("prune", "PRUNED")])
def test_a_braked_trial_says_why_and_the_study_goes_on(where: str, machine: Machine, braked: Any, state: str) -> None:
    """In one user attribute; in bytes and seconds, by name."""

    def objective(trial: Any) -> float:
        x = trial.suggest_float("x", 0, 1)
        memwatch.label("split 3/5")
        if trial.number == 1:
            machine.brake()
        return float(x)

    with study(where) as it:
        optimize(it, objective, n_trials=3, braked=braked)
        trials = it.get_trials()
    note = trials[1].user_attrs["memwatch"]

    assert ["COMPLETE", state, "COMPLETE"] == [trial.state.name for trial in trials]
    assert "Trial #1 killed to prevent OOM crash: available 1.8 GB, threshold 2.0 GB" == note["reason"]
    assert ("split 3/5", f"x={trials[1].params['x']!r}") == (note["detail"], note["parameters"])
    assert (LOW, 2 * GB) == (note["available_bytes"], note["threshold_bytes"])
    assert RSS + HIGH - LOW == note["rss_bytes"] == note["peak_rss_bytes"] == note["freed_bytes"] + RSS
    assert 0 < note["seconds"] < studies.LAST
    assert isinstance(note["asynchronous"], bool)


def test_guard_alone_needs_the_brake_in_catch(machine: Machine) -> None:
    """study.optimize() stops at what is not in its `catch`, as always; pruned trials it knows."""

    def objective(trial: Any) -> float:
        if trial.number % 2:
            machine.brake()
        return 0.0

    with study("") as it:
        it.optimize(guard(objective), n_trials=2, catch=(memwatch.EmergencyBrake,))
        it.optimize(guard(objective, braked="prune"), n_trials=2)
        with pytest.raises(memwatch.EmergencyBrake, match="Trial #5 killed"):
            it.optimize(guard(objective), n_trials=2)

        assert ["COMPLETE", "FAIL", "COMPLETE", "PRUNED", "COMPLETE", "FAIL"] == states(it)


@pytest.mark.parametrize("braked", ["fail", "prune"])
def test_a_trial_that_was_not_admitted_fails_too(machine: Machine, braked: Any) -> None:
    """As an EmergencyBrake, which `catch` has; its peak is not that of the trial before."""
    machine.start(admit_timeout=0.05)

    def objective(_: Any) -> float:
        return 0.0

    with study("") as it:
        optimize(it, objective, n_trials=1, limit="3GB")
        machine.take(HIGH - LOW)
        until(lambda: studies.look() and studies.headroom() == LOW)
        optimize(it, objective, n_trials=1, braked=braked)
        note = it.get_trials()[1].user_attrs["memwatch"]

    assert {"fail": "FAIL", "prune": "PRUNED"}[braked] == states(it)[1]
    assert note["reason"].startswith("Trial #1 not begun: available 1.8 GB after waiting")
    assert note["peak_rss_bytes"] is None


@pytest.mark.parametrize("catch", [(), (Exception,), Exception])
def test_f75_too_many_brakes_end_the_study(machine: Machine, catch: Any) -> None:
    """Also where somebody catches everything: every further trial would fail at once, for ever."""
    machine.start(max_brakes=2)
    ended = contextlib.nullcontext() if catch else pytest.raises(memwatch.TooManyBrakes, match="Trial #2 is not begun")

    with study("") as it, ended:
        optimize(it, lambda _: machine.brake(), catch=catch)

    assert ["FAIL"] * 3 == states(it)
    assert "max_brakes is 2" in it.get_trials()[2].user_attrs["memwatch"]["reason"]


# ----------------------------------------------------------------- however an objective ends ---


class Mine(BaseException):
    """Nobody's but this test's."""


def raises(error: BaseException) -> Callable[[Any], float]:
    def objective(_: Any) -> float:
        raise error

    return objective


class End(NamedTuple):
    """How an objective ends, what then becomes of its trial, and what comes out of the study."""

    objective: Callable[[Any], Any]
    state: str
    out: type[BaseException] | None = None
    catch: Any = ()


ENDS = {
    "value": End(lambda _: 1.0, "COMPLETE"),
    "none": End(lambda _: None, "FAIL"),
    "pruned": End(raises(optuna.TrialPruned()), "PRUNED"),
    "error": End(raises(ValueError("mine")), "FAIL", ValueError),
    "error-in-catch": End(raises(ValueError("mine")), "FAIL", catch=ValueError),
    "memory-error": End(raises(MemoryError("mine")), "FAIL", MemoryError),
    "ctrl-c": End(raises(KeyboardInterrupt()), "FAIL", KeyboardInterrupt, (Exception,)),
    "exit": End(raises(SystemExit(3)), "FAIL", SystemExit, (Exception,)),
    "generator-exit": End(raises(GeneratorExit()), "FAIL", GeneratorExit),
    "base-exception": End(raises(Mine("why")), "FAIL", Mine),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["optimize", "guard", "two jobs"])
@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_however_an_objective_ends_its_trial_has_ended(where: str, machine: Machine, how: str, end: End) -> None:
    """Left to itself Optuna keeps a trial RUNNING after SystemExit. What was raised comes out all the same."""
    ended: Any = contextlib.nullcontext() if end.out is None else pytest.raises(end.out)
    with study(where) as it:
        with ended as caught:
            if how == "guard":
                it.optimize(guard(end.objective), n_trials=1, catch=end.catch)
            else:
                # What the last two of two jobs raise, Optuna drops.
                n = 1 if how == "optimize" else 4
                optimize(it, end.objective, n_trials=n, catch=end.catch, n_jobs=1 if how == "optimize" else 2)
        trials = it.get_trials()

    assert {end.state} == {trial.state.name for trial in trials}
    if end.out in (SystemExit, GeneratorExit, Mine):
        reason = f"{type(caught.value).__name__}: {caught.value}".removesuffix(": ")
        assert {reason} == {trial.user_attrs["memwatch"]["reason"] for trial in trials}


def test_system_exit_in_a_callback_leaves_nothing_running(machine: Machine) -> None:
    def callback(*_: Any) -> None:
        raise SystemExit

    with study("") as it, pytest.raises(SystemExit):
        optimize(it, lambda _: 0.0, n_trials=3, callbacks=[callback])

    assert ["COMPLETE"] == states(it)


class Sampler(optuna.samplers.RandomSampler):
    """Does something before a trial begins, and before it is told: inside of Optuna's own code."""

    def __init__(self, before: Callable[[], None], after: Callable[[], None]) -> None:
        super().__init__(seed=1)
        self._before, self._after = before, after

    def before_trial(self, *args: Any) -> None:
        super().before_trial(*args)
        self._before()

    def after_trial(self, *args: Any) -> None:
        super().after_trial(*args)
        self._after()


def nothing() -> None:
    pass


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


def interrupt_twice() -> None:
    interrupt()
    interrupt()


def leave() -> None:
    sys.exit(3)


def break_storage() -> None:
    raise OSError("disk full")


class Landing(NamedTuple):
    """Where it comes, what, what comes out of the study, and how its trials end."""

    at: str
    deed: Callable[[], None]
    out: type[BaseException]
    ends: list[str]


LANDINGS = {
    "f69-ctrl-c-in-ask": Landing("ask", interrupt, KeyboardInterrupt, ["COMPLETE", "FAIL"]),
    "ctrl-c-in-the-objective": Landing("objective", interrupt, KeyboardInterrupt, ["COMPLETE", "FAIL"]),
    "f69-ctrl-c-in-tell": Landing("tell", interrupt, KeyboardInterrupt, ["COMPLETE", "COMPLETE"]),
    "ctrl-c-twice-in-tell": Landing("tell", interrupt_twice, KeyboardInterrupt, ["COMPLETE", "FAIL"]),
    "ctrl-c-in-a-callback": Landing("callback", interrupt, KeyboardInterrupt, ["COMPLETE", "COMPLETE"]),
    "exit-in-tell": Landing("tell", leave, SystemExit, ["COMPLETE", "FAIL"]),
    "error-in-tell": Landing("tell", break_storage, Exception, ["COMPLETE", "FAIL"]),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("landing", LANDINGS.values(), ids=LANDINGS)
def test_wherever_a_study_is_stopped_no_trial_is_left_running(
    where: str, machine: Machine, landing: Landing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its second trial; Optuna alone leaves what Ctrl-C found between two trials RUNNING."""
    at, deed, out, ends = landing
    asked = told = 0

    def on_ask() -> None:
        nonlocal asked
        asked += 1
        if at == "ask" and asked == 2:
            deed()

    def tell(*args: Any, **kwargs: Any) -> Any:
        nonlocal told
        told += 1
        if at == "tell" and told == 2:
            deed()
        return write(*args, **kwargs)

    def objective(trial: Any) -> float:
        if at == "objective" and trial.number == 1:
            deed()
        return 0.0

    def callback(_: Any, trial: Any) -> None:
        if at == "callback" and trial.number == 1:
            deed()

    with study(where, sampler=Sampler(on_ask, nothing)) as it:
        write = it._storage.set_trial_state_values
        monkeypatch.setattr(it._storage, "set_trial_state_values", tell)
        with pytest.raises(out):
            optimize(it, objective, n_trials=5, callbacks=[callback])
        after = states(it)

    assert ends == after
    assert signal.default_int_handler is signal.getsignal(signal.SIGINT)


def test_ctrl_c_in_the_last_trials_tell_comes_out_at_the_end(machine: Machine) -> None:
    with study("", sampler=Sampler(nothing, interrupt)) as it, pytest.raises(KeyboardInterrupt):
        optimize(it, lambda _: 0.0, n_trials=1)

    assert ["COMPLETE"] == states(it)


def test_a_handler_of_somebody_elses_stands(machine: Machine) -> None:
    """It is called in the midst of whatever runs, as it was before."""
    came = []
    before = signal.signal(signal.SIGINT, lambda *_: came.append(1))
    try:
        with study("", sampler=Sampler(nothing, interrupt)) as it:
            optimize(it, lambda _: 0.0, n_trials=2)
    finally:
        signal.signal(signal.SIGINT, before)

    assert [1, 1] == came
    assert ["COMPLETE"] * 2 == states(it)


def test_f65_a_study_within_a_trial_of_another(machine: Machine) -> None:
    """A brake ends the inner trial, and both go on; Ctrl-C as that one is told ends both, and leaves none RUNNING."""
    inner_states = []

    def inner(trial: Any) -> float:
        if trial.number == 1:
            machine.brake()
        return 0.0

    def outer(_: Any) -> float:
        with study("", name="inner") as it:
            optimize(it, inner, n_trials=3)
            inner_states.append(states(it))
        return 0.0

    def interrupted(_: Any) -> float:
        with study("", name="inner", sampler=Sampler(nothing, interrupt)) as it:
            try:
                optimize(it, lambda _: 0.0, n_trials=3)
            finally:
                inner_states.append(states(it))
        return 0.0

    with study("") as it:
        optimize(it, outer, n_trials=1)
        with pytest.raises(KeyboardInterrupt):
            optimize(it, interrupted, n_trials=3)

    assert [["COMPLETE", "FAIL", "COMPLETE"], ["COMPLETE"]] == inner_states
    assert ["COMPLETE", "FAIL"] == states(it)


@pytest.mark.parametrize("kind", KINDS)
def test_of_two_jobs_the_newest_is_braked(where: str, machine: Machine) -> None:
    """In threads; the other one goes on to its end."""
    asked, begun, ended = [], threading.Event(), threading.Event()

    def on_ask() -> None:
        asked.append(1)
        assert len(asked) == 1 or begun.wait(studies.LAST)

    def objective(_: Any) -> float:
        if begun.is_set():
            machine.brake()
        begun.set()
        wait(ended.is_set)
        return 0.0

    with study(where, sampler=Sampler(on_ask, nothing)) as it:
        optimize(it, objective, n_trials=2, n_jobs=2, callbacks=[lambda *_: ended.set()])

        assert ["COMPLETE", "FAIL"] == sorted(states(it))


# --------------------------------------------------------------------------- the trial itself ---


@pytest.mark.parametrize("kind", KINDS)
def test_f69_a_call_of_the_trials_is_never_cut(where: str, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told in the midst of a write to the storage, the trial ends when that is done: all of it is there."""
    with study(where) as it:
        storage = it._storage
        write, at = storage.set_trial_user_attr, []

        def slow(trial_id: int, key: str, value: Any) -> None:
            if key == "mine":
                machine.take(HIGH - LOW)
                until(machine.is_told)
                for _ in range(100):  # lines at which it could be cut
                    sum(range(100))
                machine.take(0)
            write(trial_id, key, value)
            at.append(key)

        def objective(trial: Any) -> float:
            trial.set_user_attr("mine", 1)
            at.append("after it")
            return 0.0

        monkeypatch.setattr(storage, "set_trial_user_attr", slow)
        optimize(it, objective, n_trials=1)
        trial = it.get_trials()[0]

    assert "FAIL" == trial.state.name
    assert 1 == trial.user_attrs["mine"]
    assert ["mine", "memwatch"] == [key for key in at if key != "memwatch_owner"]


def methods_of_a_trial() -> list[str]:
    return sorted(name for name, it in vars(optuna.Trial).items() if not name.startswith("_") and callable(it))


def properties_of_a_trial() -> list[str]:
    return sorted(name for name, it in vars(optuna.Trial).items() if isinstance(it, property))


def test_every_public_method_is_shielded(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of Optuna's next version, too: they are taken from its class."""
    up: list[str] = []

    class Shield(memwatch.shield):
        def __enter__(self) -> None:
            up.append("up")
            super().__enter__()

    monkeypatch.setattr(memwatch, "shield", Shield)
    untouched = []

    def objective(trial: Any) -> float:
        for name in methods_of_a_trial():
            up.clear()
            with contextlib.suppress(Exception):  # no arguments are given
                getattr(trial, name)()
            untouched.extend([] if up else [name])
        for name in properties_of_a_trial():
            up.clear()
            getattr(trial, name)
            untouched.extend([] if up else [name])
        return 0.0

    with study("") as it:
        optimize(it, objective, n_trials=1)

    assert {"suggest_float", "report", "should_prune", "set_user_attr"} <= set(methods_of_a_trial())
    assert {"params", "user_attrs"} <= set(properties_of_a_trial())
    assert [] == untouched


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_a_trial_like_any(where: str, machine: Machine) -> None:
    """Its state is the original's; pickled or copied it is a plain one."""
    seen: dict[str, Any] = {}

    def objective(trial: Any) -> float:
        x = trial.suggest_float("x", 0, 1)
        trial.suggest_int("n", 1, 5)
        trial.suggest_categorical("c", ["a", "b"])
        trial.report(0.5, 1)
        assert not trial.should_prune()
        trial.mine = "kept"
        assert isinstance(trial, optuna.Trial)
        seen["params"], seen["type"] = trial.params, type(trial).__name__
        seen["copy"] = copy.copy(trial)
        if where:
            seen["pickled"] = pickle.loads(pickle.dumps(trial))
        return float(x)

    def original(trial: Any) -> Any:
        value = guard(objective)(trial)
        seen["original"] = trial
        return value

    with study(where) as it:
        it.optimize(original, n_trials=1)
        frozen = it.get_trials()[0]
        copies = [seen["copy"], *([seen["pickled"]] if where else [])]

        assert "Trial" == seen["type"]
        assert frozen.params == seen["params"] == seen["original"].params
        assert "kept" == seen["original"].mine
        assert [optuna.Trial] * len(copies) == [type(each) for each in copies]
        assert [(frozen.params, "kept")] * len(copies) == [(each.params, each.mine) for each in copies]
        for each in copies:
            if (engine := getattr(getattr(each.storage, "_backend", None), "engine", None)) is not None:
                engine.dispose()


def plain_objective(trial: Any) -> float:
    """Of this module, so that it can be pickled."""
    return float(trial.suggest_float("x", 0, 1))


def test_a_guarded_objective_can_be_pickled(machine: Machine) -> None:
    """For workers that are spawned; with its settings."""
    it = pickle.loads(pickle.dumps(guard(plain_objective, braked="fail", limit="3GB")))
    with study("") as made:
        made.optimize(it, n_trials=1)

    assert (plain_objective, "fail", "3GB") == it.__reduce__()[1]
    assert ["COMPLETE"] == states(made)


# ----------------------------------------------------------------------------- what is refused ---


async def coroutine(_: Any) -> float:
    return 0.0


REFUSED = [
    pytest.param(plain_objective, {"limit": "3 pounds"}, memwatch.SettingsError, "limit='3 pounds': .*unit", id="unit"),
    pytest.param(plain_objective, {"limit": "10%"}, memwatch.SettingsError, "limit='10%': a share", id="share"),
    pytest.param(plain_objective, {"limit": 0}, memwatch.SettingsError, "limit=0: ", id="none"),
    pytest.param(plain_objective, {"braked": "skip"}, memwatch.SettingsError, 'must be "fail" or "prune"', id="braked"),
    pytest.param(coroutine, {}, TypeError, "a coroutine function", id="coroutine"),
    pytest.param("objective", {}, TypeError, "takes a function", id="no-function"),
    pytest.param(guard(plain_objective), {"limit": "3GB"}, memwatch.SettingsError, "guarded already", id="twice"),
]


@pytest.mark.parametrize(("objective", "settings", "error", "message"), REFUSED)
def test_what_cannot_be_meant_is_refused(objective: Any, settings: Any, error: type[Exception], message: str) -> None:
    """Before anything starts: no trial is begun."""
    with study("") as it:
        for refuse in (lambda: guard(objective, **settings), lambda: optimize(it, objective, n_trials=0, **settings)):
            with pytest.raises(error, match=message):
                refuse()

        assert [] == states(it)


def test_an_old_optuna_is_refused_a_limit_and_nothing_else(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before 5.0 a trial takes no constraint."""
    monkeypatch.delattr(optuna.Trial, "set_constraint", raising=False)
    monkeypatch.delattr(optuna.trial.BaseTrial, "set_constraint", raising=False)
    with study("") as it:
        for refuse in (lambda: guard(plain_objective, limit="3GB"), lambda: optimize(it, plain_objective, limit="3GB")):
            with pytest.raises(memwatch.SettingsError, match=r"limit='3GB' needs Optuna 5 .*pip install -U optuna"):
                refuse()
        assert [] == states(it)
        optimize(it, plain_objective, n_trials=1)

        assert ["COMPLETE"] == states(it)


@pytest.mark.slow
def test_without_optuna_it_says_what_to_install() -> None:
    script = "import sys; sys.modules['optuna'] = None; import memwatch.integrations.optuna"
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)

    assert 1 == said.returncode
    assert "memwatch.integrations.optuna needs Optuna: pip install 'memwatch[optuna]'" in said.stderr.splitlines()[-1]


def test_a_guarded_objective_is_guarded_once(machine: Machine) -> None:
    """Two guards would have each brake twice, and the outer one's word replace the inner one's."""
    objective = guard(plain_objective)

    assert objective is guard(objective)


# ------------------------------------------------------------------------------ peak and limit ---


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_limit_tells_the_sampler(where: str, machine: Machine) -> None:
    """By how much, in GB, a trial's peak was above it; of a braked trial at least a little."""
    sizes = [0, 1 * GB, 2 * GB, HIGH - LOW]

    def objective(trial: Any) -> float:
        machine.use(sizes[trial.number % 4])
        return 0.0

    with study(where) as it:
        optimize(it, objective, n_trials=4, limit="2GB")
        optimize(it, objective, n_trials=4, limit=4 * GB, braked="fail")
        trials = it.get_trials()
    over = [trial.constraints["memwatch.rss"] for trial in trials]
    peaks = [trial.user_attrs["memwatch"]["peak_rss_bytes"] for trial in trials]

    # With a limit a braked trial is pruned, for samplers learn nothing from FAIL.
    assert ["COMPLETE"] * 3 + ["PRUNED"] + ["COMPLETE"] * 3 + ["FAIL"] == [trial.state.name for trial in trials]
    assert [RSS + size // 4096 * 4096 for size in sizes] * 2 == peaks
    assert [(peak - 2 * GB) / 1e9 for peak in peaks[:4]] == over[:4]
    assert [(peak - 4 * GB) / 1e9 for peak in peaks[4:7]] + [0.001] == over[4:]


PEAKS = [
    pytest.param(0.0, 7 * 2**20, False, id="short-and-small"),
    pytest.param(0.0, 8 * 2**20, True, id="short-and-large"),
    pytest.param(0.1, 0, True, id="long-and-small", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("seconds", "size", "is_written"), PEAKS)
def test_the_peak_is_written_where_it_is_worth_the_time(
    machine: Machine, seconds: float, size: int, is_written: bool
) -> None:
    """A trial of 10 ms that took nothing costs no third more."""

    def objective(_: Any) -> float:
        end = time.monotonic() + seconds
        machine.use(size)
        wait(lambda: time.monotonic() >= end)
        return 0.0

    with study("") as it:
        optimize(it, objective, n_trials=1)
        attributes = it.get_trials()[0].user_attrs

    if seconds or is_written:
        assert {"memwatch": {"peak_rss_bytes": RSS + size}} == attributes
    else:
        assert {} == attributes


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [it.getMessage() for it in caplog.records if it.name == "memwatch" and it.levelno == logging.WARNING]


def test_a_storage_that_takes_no_attributes_changes_no_outcome(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said once, and the trial's own value counts."""
    monkeypatch.setattr(_writer, "_said", set())

    def refuse(*_: Any) -> None:
        raise optuna.exceptions.StorageInternalError("disk full")

    with study("") as it:
        monkeypatch.setattr(it._storage, "set_trial_user_attr", refuse)
        optimize(it, lambda _: machine.use(8 * 2**20) or 1.0, n_trials=2)

        assert ["COMPLETE"] * 2 == states(it)
    assert ["cannot write to the study what a trial took: StorageInternalError: disk full"] == said(caplog)


# ------------------------------------------------------------------------------------ the owner ---


def owners(it: Any) -> list[str | None]:
    return [trial.user_attrs.get("memwatch_owner") for trial in it.get_trials()]


@pytest.mark.slow
@pytest.mark.parametrize("kind", SHARED)
def test_after_a_second_the_study_says_who_runs_a_trial(where: str, machine: Machine) -> None:
    """So that it is known on other machines, and after a reset; a shorter trial is not worth the write."""
    began = []

    def objective(trial: Any) -> float:
        if trial.number == 1:
            began.append(time.monotonic())
            with study(where) as seen_by_others:
                wait(lambda: owners(seen_by_others)[1])
            began.append(time.monotonic())
        return 0.0

    with study(where) as it:
        optimize(it, objective, n_trials=3)

        assert [None, str(Identity.mine()), None] == owners(it)
    assert began[1] - began[0] > 0.9


@pytest.mark.parametrize("kind", SHARED)
def test_a_worker_that_is_not_on_the_board_says_at_once_who_it_is(
    where: str, machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that start() gave another board: its key is not found where others look."""
    machine.start(board=tmp_path / "another")

    def objective(_: Any) -> float:
        with study(where) as seen_by_others:
            wait(lambda: owners(seen_by_others)[-1])
        return 0.0

    with study(where) as it:
        optimize(it, objective, n_trials=1)

        assert [str(Identity.mine())] == owners(it)


@pytest.mark.parametrize("kind", SHARED)
def test_of_two_trials_at_once_both_say_at_once_who_runs_them(where: str, machine: Machine) -> None:
    """The board has the key of one."""

    def objective(trial: Any) -> float:
        with study(where) as seen_by_others:
            wait(lambda: owners(seen_by_others) == [str(Identity.mine())] * 2)
        return 0.0

    with study(where) as it:
        optimize(it, objective, n_trials=2, n_jobs=2)

        assert ["COMPLETE"] * 2 == states(it)


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_of_sqlite_in_memory_no_other_thread_knows(machine: Machine, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each thread has a database of its own there: the writer would find no table."""
    monkeypatch.setattr(_writer, "AFTER", 0.0)
    with study(url) as it:
        optimize(it, lambda _: 0.0, n_trials=2)

        assert [None, None] == owners(it)


def test_a_write_that_fails_disturbs_nobody(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said once, however many trials there are."""
    monkeypatch.setattr(_writer, "_said", set())
    machine.start(board=tmp_path / "another")
    tried = threading.Event()

    def objective(_: Any) -> float:
        assert tried.wait(studies.LAST)
        tried.clear()
        return 0.0

    with study(studies.place("sqlite", tmp_path)) as it:

        def refuse(*_: Any) -> None:
            tried.set()
            raise optuna.exceptions.StorageInternalError("database is locked")

        monkeypatch.setattr(it._storage, "set_trial_user_attr", refuse)
        optimize(it, objective, n_trials=3)

        assert ["COMPLETE"] * 3 == states(it)
    assert ["cannot write to the study who runs its trials: StorageInternalError: database is locked"] == said(caplog)


@pytest.mark.slow
def test_the_writer_is_one_thread_that_no_brake_cuts(machine: Machine, tmp_path: Path) -> None:
    """Though it was started within a trial, whose threads are ended with it."""

    def threads() -> list[threading.Thread]:
        return [it for it in threading.enumerate() if it.name == "memwatch owner"]

    _writer._writer = None
    before = set(threads())

    def outer() -> None:
        with study(studies.place("sqlite", tmp_path)) as it:
            optimize(it, lambda _: 0.0, n_trials=3)
        machine.brake()

    with pytest.raises(memwatch.EmergencyBrake):
        memwatch.guard(outer)()
    mine = set(threads()) - before

    assert 1 == len(mine)
    assert mine.pop().is_alive()


def test_the_key_is_on_the_board_from_the_first_line(machine: Machine) -> None:
    """And gone with the trial."""
    keys = []

    def objective(_: Any) -> float:
        with Board.open() as board:
            keys.extend(work.key for slot in board.slots() if (work := slot.work()))
        return 0.0

    with study("") as it:
        optimize(it, objective, n_trials=2)
    with Board.open() as board:
        keys.extend(work.key for slot in board.slots() if (work := slot.work()))

    assert 0 == keys[-1]
    assert 2 == len(set(keys[:-1]))
    assert 0 not in keys[:-1]


# ------------------------------------------------------------------- that the sampler learns ---

SEEDS, TRIALS = range(3), 40


def brakes(machine: Machine, seed: int, limit: str | None) -> list[bool]:
    """Whether each trial of a search was braked; the best values lie where memory ends, and beyond."""

    def objective(trial: Any) -> float:
        width, rate = trial.suggest_float("width", 0, 1), trial.suggest_float("rate", 0, 1)
        machine.use(round(4.2 * GB * width))  # above the floor, where the worker would be killed
        return float((rate - 0.3) ** 2 - width)

    with study("", sampler=optuna.samplers.TPESampler(seed=seed)) as it:
        for _ in range(TRIALS):
            ready()
            optimize(it, objective, n_trials=1, limit=limit)
        return ["reason" in trial.user_attrs.get("memwatch", {}) for trial in it.get_trials()]


@pytest.mark.slow
def test_with_a_limit_later_trials_brake_less(machine: Machine) -> None:
    """Same seeds: the second half of each search, with limit="3GB" and without. `pytest -rP` prints it."""
    machine.start(max_brakes=1_000)
    late: dict[str | None, list[int]] = {None: [], "3GB": []}
    print("seed  limit   braked in trials 0-19  20-39")
    for seed in SEEDS:
        for limit, counts in late.items():
            found = brakes(machine, seed, limit)
            counts.append(sum(found[TRIALS // 2 :]))
            print(f"{seed:4}  {limit or '-':<5}  {sum(found[: TRIALS // 2]):22}  {counts[-1]:5}")
    without, with_limit = late[None], late["3GB"]
    print(f"median of trials 20-39: {statistics.median(without)} without, {statistics.median(with_limit)} with")

    assert all(after < before for before, after in zip(without, with_limit, strict=True))
    assert 2 * sum(with_limit) < sum(without)
