"""A worker that its watchdog wants to end does so between two trials, and no trial is lost."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from support.armed import HERE, WAIT, End, Worker, environment, run

from memwatch import inject, running
from memwatch.board import Drain
from memwatch.sampler import PURE

pytestmark = [
    pytest.mark.skipif(PURE, reason="who is asked is the native thread's alone (MEMWATCH_PURE is set)"),
    pytest.mark.slow,
]

DRAINED = running.DRAINED


def drained(folder: Path, script: str, at: str = "begun", *, why: Drain = Drain.AGE, base: Any = None) -> End:
    """A worker that is asked to drain once it has said *at*."""
    with Worker(folder, WAIT + script, env=environment(folder, base)) as it:
        it.hears(at)
        it.ask(why)
        return it.end()


# -------------------------------------------------------------------------- guard, trial ---


@pytest.mark.parametrize(
    ("body", "said"),
    [
        pytest.param(
            """
@memwatch.guard
def one():
    said("begun")
    asked()
    return 7

for _ in range(3):
    said("dealt with", one())
""",
            ["begun", "dealt with 7"],
            id="guard",
        ),
        pytest.param(
            """
for _ in range(3):
    with memwatch.trial("a"):
        said("begun")
        asked()
    said("dealt with")
""",
            ["begun", "dealt with"],
            id="trial",
        ),
        pytest.param(
            """
@memwatch.guard
def inner():
    said("inner")

@memwatch.guard
def outer():
    said("begun")
    asked()
    inner()
    with memwatch.trial("part"):
        said("part")

outer()
outer()
""",
            ["begun", "inner", "part"],
            id="parts-of-a-trial-are-no-trials",
        ),
        pytest.param(
            """
@memwatch.guard
def one():
    said("begun")
    asked()

try:
    one()
    one()
except Exception:
    said("caught")
finally:
    said("cleaned up", memwatch.draining())
""",
            ["begun", "cleaned up age"],
            id="finally-runs",
        ),
        pytest.param(
            """
from concurrent.futures import ThreadPoolExecutor

@memwatch.guard
def one():
    said("begun")
    asked()

memwatch.start()
with ThreadPoolExecutor(1) as pool:
    for future in [pool.submit(one), pool.submit(one)]:
        future.result()
""",
            ["begun"],
            id="from-another-thread-through-its-future",
        ),
    ],
)
def test_it_leaves_once_its_trial_is_over(tmp_path: Path, body: str, said: list[str]) -> None:
    """By SystemExit(75), where the next one would begin."""
    assert End(DRAINED, said, []) == drained(tmp_path, body)


def test_it_leaves_before_its_first_trial(tmp_path: Path) -> None:
    """Asked while nothing but the thread that looks is there."""
    body = """
said("begun", memwatch.draining())
asked()
memwatch.guard(lambda: said("a trial"))()
memwatch.guard(lambda: said("a trial"))()
"""
    end = drained(tmp_path, body, "begun None")

    assert DRAINED == end.status
    assert ["begun None"] == end.said[:1]
    assert len(end.said) <= 2  # the brake's own thread reads its orders when it first looks


def test_a_script_may_see_to_it_itself(tmp_path: Path) -> None:
    """draining() says why, in the watchdog's words; one that does not ask is not disturbed."""
    body = """
said("begun")
asked()
said(memwatch.draining())
"""
    assert End(0, ["begun", "headroom"], []) == drained(tmp_path, body, why=Drain.HEADROOM)


def test_what_it_says_is_no_trouble(tmp_path: Path) -> None:
    """Of who asks for memory, a line without "oom" in it."""
    body = """
import logging
logging.basicConfig(level=logging.INFO, format="%(message)s")
memwatch.guard(lambda: (said("begun"), asked()))()
memwatch.guard(lambda: None)()
"""
    end = drained(tmp_path, body, why=Drain.HEADROOM)
    line = "this worker ends here, between two trials, as its watchdog has asked it to (memory is short)"

    assert End(DRAINED, ["begun"], [line]) == end


def test_without_a_watchdog_nobody_drains(tmp_path: Path) -> None:
    """Nothing changes."""
    body = "import memwatch; memwatch.guard(lambda: print(memwatch.draining()))(); print(memwatch.draining())"
    env = {**os.environ, "MEMWATCH_BOARD": str(tmp_path / "board"), "MEMWATCH_CONFIG": "off"}

    assert End(0, ["None", "None"], []) == run(tmp_path, body, env=env)


SHORT = """
from pathlib import Path
from support.studies import HIGH, LOW, Machine, look, headroom
from support.wait import until
machine = Machine(Path({folder!r}))
machine.start()
machine.take(HIGH - LOW)
until(lambda: look() and headroom() == LOW)
said("begun")
"""


def test_it_does_not_wait_for_memory_first(tmp_path: Path) -> None:
    """One that would have to wait before it begins is not begun."""
    body = SHORT.format(folder=str(tmp_path)) + "memwatch.guard(lambda: None, label='a')()"
    end = drained(tmp_path, body, base=os.environ | {"PYTHONPATH": str(HERE)})

    assert (DRAINED, ["begun"]) == (end.status, end.said)


# ------------------------------------------------------------------------------- Optuna ---

optuna = pytest.importorskip("optuna", reason="needs Optuna: pip install 'memwatch[optuna]'")

STUDY = """
import optuna
optuna.logging.set_verbosity(optuna.logging.ERROR)
storage = {storage!r}

def show(study):
    said([it.state.name for it in study.get_trials(deepcopy=False)])

def objective(trial):
    x = trial.suggest_float("x", 0, 1)
    if trial.number == 1:
        said("begun")
        asked()
    return x

def create(name="a study"):
    return optuna.create_study(storage=storage, study_name=name, load_if_exists=True)

study = create()
"""
FINALLY = "\ntry:\n    {call}\n    said('goes on')\nfinally:\n    show(study)\n"
IN_MEMORY = "study 'a study' is in memory, and gone with this worker, which begins anew: give it a storage"


@pytest.mark.parametrize(
    ("kind", "call", "said"),
    [
        ("memory", "study.optimize(objective, 5)", ["begun", "['COMPLETE', 'COMPLETE']"]),
        ("sqlite", "study.optimize(objective, 5, None, 1, (ValueError,), [])", ["begun", "['COMPLETE', 'COMPLETE']"]),
        ("sqlite", "study.optimize(objective)", ["begun", "['COMPLETE', 'COMPLETE']"]),
        (
            "sqlite",
            "import memwatch.integrations.optuna as it; study.optimize(it.guard(objective), n_trials=5)",
            ["begun", "['COMPLETE', 'COMPLETE']"],
        ),
        (
            "memory",
            "import memwatch.integrations.optuna as it; it.optimize(study, objective, 5)",
            ["begun", "['COMPLETE', 'COMPLETE']"],
        ),
    ],
)
def test_a_study_is_left_once_the_trial_is_told(tmp_path: Path, kind: str, call: str, said: list[str]) -> None:
    """It is COMPLETE, and none is RUNNING, in a script that knows nothing of memwatch."""
    storage = f"sqlite:///{tmp_path}/db" if kind == "sqlite" else None
    end = drained(tmp_path, STUDY.format(storage=storage) + FINALLY.format(call=call))

    assert End(DRAINED, said, [IN_MEMORY] if kind == "memory" else []) == end


def test_of_several_threads_each_ends_its_trial(tmp_path: Path) -> None:
    """n_jobs=2: what was begun is told, and then the worker leaves."""
    call = "study.optimize(objective, n_trials=50, n_jobs=2)"
    body = STUDY.format(storage=None).replace("if trial.number == 1", "if trial.number in (0, 1)")
    end = drained(tmp_path, body + FINALLY.format(call=call))

    assert (DRAINED, "['COMPLETE', 'COMPLETE']") == (end.status, end.said[-1])


def test_a_study_within_a_trial_is_part_of_it(tmp_path: Path) -> None:
    """It runs to its end although the worker is asked to leave meanwhile, and it is no call that is counted."""
    body = (
        STUDY.format(storage=f"sqlite:///{tmp_path}/db")
        + """
def outer(trial):
    inner = create(f"inner {trial.number}")
    inner.optimize(objective, n_trials=3)
    show(inner)
    return 1.0
"""
    )
    end = drained(tmp_path, body + FINALLY.format(call="study.optimize(outer, n_trials=2)"))

    assert End(DRAINED, ["begun", str(["COMPLETE"] * 3), str(["COMPLETE"])], []) == end
    calls = json.loads((tmp_path / "state/worker_1.json").read_text())["calls"]
    assert [("1|a study", 1)] == [(key.rpartition("|")[0], done) for key, done in calls.items()]


LIVES = """
import optuna
optuna.logging.set_verbosity(optuna.logging.ERROR)

def objective(trial):
    if trial.number in (1, 4):
        said("begun")
        asked()
    if trial.number == 2:
        raise ValueError
    return 1.0

for name in ["first", "second"]:
    study = optuna.create_study(storage={storage!r}, study_name=name, load_if_exists=True)
    study.optimize(objective, n_trials={n_trials}, catch=(ValueError,))
    said(name, len(study.trials))
"""


def test_trials_are_counted_over_all_lives(tmp_path: Path) -> None:
    """Exactly so many as the script asks for; a call that has come to its end is not made again."""
    body = LIVES.format(storage=f"sqlite:///{tmp_path}/db", n_trials=5)
    lives = [drained(tmp_path, body) for _ in range(4)]

    assert [
        End(DRAINED, ["begun"], []),
        End(DRAINED, ["begun"], []),  # its last trial
        End(DRAINED, ["first 5", "begun"], []),
        End(DRAINED, ["first 5", "begun"], []),
    ] == lives
    assert End(0, ["first 5", "second 5"], []) == run(tmp_path, WAIT + body)


@pytest.mark.parametrize(
    "text",
    [
        "",
        '{"calls": {"1|first',
        '{"calls": [1]}',
        '{"calls": {"1|first": -1}}',
        '{"calls": {"1|first": true}}',
        "[" * 9999,
    ],
    ids=["empty", "torn", "list", "negative", "bool", "deep"],
)
def test_a_file_that_is_none_of_ours_counts_nothing(
    tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A warning, and 0; it is replaced by one that is whole."""
    from memwatch.integrations._progress import Progress

    path = inject.progress_file(str(tmp_path), 1)
    Path(path).write_text(text)
    progress = Progress(path, "1|first")

    assert 0 == progress.done
    assert "cannot be used" in caplog.text

    progress.count()

    assert 1 == Progress(path, "1|first").done
    assert ["worker_1.json"] == os.listdir(tmp_path)


def test_a_trial_that_waits_for_memory_is_failed(tmp_path: Path) -> None:
    """Optuna has begun it: it is told, and the worker leaves."""
    body = STUDY.format(storage=f"sqlite:///{tmp_path}/db") + SHORT.format(folder=str(tmp_path))
    call = FINALLY.format(call="study.optimize(lambda trial: 1.0, n_trials=3)")
    end = drained(tmp_path, body + call, base=os.environ | {"PYTHONPATH": str(HERE)})

    assert (DRAINED, ["begun", "['FAIL']"]) == (end.status, end.said)


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("__version__ = '3.6.1'\nclass Study: pass", "needs Optuna 4 or later, and this is 3.6.1"),
        ("__version__ = 'odd'", "invalid literal"),
    ],
    ids=["old", "another"],
)
def test_an_optuna_that_cannot_be_guarded_is_left_alone(tmp_path: Path, module: str, line: str) -> None:
    """One line, and the script runs."""
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/optuna.py").write_text(module)
    env = environment(tmp_path, os.environ | {"PYTHONPATH": str(tmp_path / "lib")})
    end = run(tmp_path, "import optuna; print(optuna.__version__)", env=env)

    assert (0, 1, 1) == (end.status, len(end.said), len(end.stderr))
    assert end.stderr[0].startswith("memwatch: Optuna's trials are not guarded (")
    assert line in end.stderr[0]


def test_a_script_without_optuna_may_ask_for_it(tmp_path: Path) -> None:
    """It is as absent as it was; to ask for it loads nothing."""
    body = """
    import importlib.util, sys
    sys.meta_path[:] = [it for it in sys.meta_path if it.__class__.__name__ == "Finder"]
    print(importlib.util.find_spec("optuna"))
    try:
        import optuna
    except ModuleNotFoundError as error:
        print(error)
    """
    assert End(0, ["None", "No module named 'optuna'"], []) == run(tmp_path, body)


def test_what_optuna_refuses_it_refuses_itself(tmp_path: Path) -> None:
    """In its own words, and an objective's TypeError is the objective's."""
    body = (
        STUDY.format(storage=None)
        + """
def wrong(trial):
    said("called")
    raise TypeError("of the objective")

async def coroutine(trial):
    pass

for call in [lambda: study.optimize(), lambda: study.optimize(wrong, nonsense=1), lambda: study.optimize(wrong, 1)]:
    try:
        call()
    except TypeError as error:
        said(error)
"""
    )
    missing = "Study.optimize() missing 1 required positional argument: 'func'"
    unknown = "Study.optimize() got an unexpected keyword argument 'nonsense'"

    assert End(0, [missing, unknown, "called", "of the objective"], []) == run(tmp_path, WAIT + body)
