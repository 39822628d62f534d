"""What `memwatch run` puts into a worker: it reports on the board before its script begins, and leaves no trace."""

import ast
import os
import signal
import subprocess
import sys
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from support.armed import HERE, End, Worker, environment, run
from support.wait import until

from memwatch import inject
from memwatch.board import Board
from memwatch.sampler import PURE

pytestmark = pytest.mark.skipif(PURE, reason="who is armed is the native thread's alone (MEMWATCH_PURE is set)")

FILE = Path(inject.FOLDER) / "sitecustomize.py"

# What a script says of itself: the worker that the board takes it for.
SAY = """
import os
def number(pid=None):
    from memwatch.board import Board
    with Board.open() as board:
        return [it.work().worker for it in board.slots() if it.owner.pid == (pid or os.getpid())]
print("worker", *number())
"""


def test_the_file_is_one_that_any_python_can_read() -> None:
    """Also one that is too old to be armed, so that it says so."""
    ast.parse(FILE.read_text(encoding="utf-8"), feature_version=(3, 6))


# ------------------------------------------------------------------- who is armed ---


def _script(folder: Path) -> list[str]:
    (folder / "it.py").write_text(SAY)
    return [sys.executable, str(folder / "it.py")]


def _module(folder: Path) -> list[str]:
    return [_script(folder)[0], "-m", "it"]


def _zip(folder: Path) -> list[str]:
    with zipfile.ZipFile(folder / "it.pyz", "w") as it:
        it.writestr("__main__.py", SAY)
    return [sys.executable, str(folder / "it.pyz")]


def _venv(folder: Path) -> list[str]:
    """One in which neither memwatch nor cffi is installed."""
    venv.create(folder / "venv", symlinks=True, with_pip=False)
    return [str(folder / "venv/bin/python"), _script(folder)[1]]


def _shell(folder: Path) -> list[str]:
    """Both Pythons of a script are this worker, one after the other."""
    return ["bash", "-c", f'"{sys.executable}" it.py && "{sys.executable}" it.py'.replace("it.py", _script(folder)[1])]


def _exec(folder: Path) -> list[str]:
    """A script that starts itself anew in its process stays the worker, and is armed again."""
    _script(folder)
    script = f"import os, sys; os.execv(sys.executable, [sys.executable, {str(folder / 'it.py')!r}])"
    return [sys.executable, "-c", script]


def _exec_after_a_trial(folder: Path) -> list[str]:
    program, script = _script(folder)
    body = f"import memwatch, os; memwatch.guard(print)('a trial'); os.execl({program!r}, {program!r}, {script!r})"
    return [sys.executable, "-u", "-c", body]


def _failed_exec(folder: Path) -> list[str]:
    script = "import os\ntry:\n    os.execl('/nowhere', 'x')\nexcept FileNotFoundError:\n    pass\n"
    return [sys.executable, "-c", script + SAY]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (_script, ["worker 1"]),
        (_module, ["worker 1"]),
        (_zip, ["worker 1"]),
        (_venv, ["worker 1"]),
        (_shell, ["worker 1", "worker 1"]),
        (_exec, ["worker 1"]),
        (_exec_after_a_trial, ["a trial", "worker 1"]),
        (_failed_exec, ["worker 1"]),
    ],
)
def test_a_python_is_armed_however_it_is_started(
    tmp_path: Path, argv: Callable[[Path], list[str]], said: list[str]
) -> None:
    """Before its script begins it is on the board, with its number."""
    env = environment(tmp_path, os.environ | {"PYTHONPATH": str(tmp_path)})

    assert End(0, said, []) == run(tmp_path, argv=argv(tmp_path), env=env)


@pytest.mark.slow
@pytest.mark.parametrize("option", ["-I", "-S", "-E"])
def test_a_python_that_does_not_look_is_left_alone(tmp_path: Path, option: str) -> None:
    """The script runs; the watchdog sees no report."""
    Board.open(tmp_path / "board", create=True).close()

    assert End(0, ["here"], []) == run(tmp_path, argv=[sys.executable, option, "-c", "print('here')"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variable", "value"),
    [("MEMWATCH_BOARD", "/proc/none"), ("MEMWATCH_ARM", "scribbled=x"), ("MEMWATCH_WORKER", "one")],
)
def test_what_fails_is_said_in_a_line_and_the_script_runs(tmp_path: Path, variable: str, value: str) -> None:
    """And its environment is clean all the same."""
    base = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    env = environment(tmp_path, base) | {variable: value}
    end = run(tmp_path, "import os; print('MEMWATCH_ARM' in os.environ, os.environ.get('PYTHONPATH'))", env=env)

    assert (0, ["False None"], 1) == (end.status, end.said, len(end.stderr))
    assert end.stderr[0].startswith("memwatch: this Python is not armed (")


# ----------------------------------------------------------------- what is left of it ---


LOOK = """
import os, sys
print(sorted(it for it in os.environ if it.startswith("MEMWATCH") or it == "PYTHONPATH"), os.environ.get("PYTHONPATH"))
print([it for it in sys.path + list(sys.path_importer_cache) if "_inject" in it], "sitecustomize" in sys.modules)
"""
KEPT = ["MEMWATCH_BOARD", "MEMWATCH_BRAKE", "MEMWATCH_CONFIG", "MEMWATCH_REALTIME", "MEMWATCH_STATE", "MEMWATCH_WARN"]


# .ci/run names the kernel that tests boot (MEMWATCH_KERNEL), which is nobody's setting and stays.
PLAIN = {name: value for name, value in os.environ.items() if name != "MEMWATCH_KERNEL"}


@pytest.mark.slow
@pytest.mark.parametrize("former", [None, "", "/one:/two", ":/one"])
def test_pythonpath_is_what_it_was(tmp_path: Path, former: str | None) -> None:
    """Unset, empty, or with an empty part; neither environment nor sys.path has anything of the way in."""
    base = {name: value for name, value in PLAIN.items() if name != "PYTHONPATH"}
    base |= {} if former is None else {"PYTHONPATH": former}
    names = KEPT + ([] if former is None else ["PYTHONPATH"])

    assert End(0, [f"{names} {former}", "[] False"], []) == run(tmp_path, LOOK, env=environment(tmp_path, base))


@pytest.mark.slow
def test_what_a_shell_script_adds_to_pythonpath_stays(tmp_path: Path) -> None:
    """Only our own part is taken out."""
    (tmp_path / "it.py").write_text(LOOK)
    command = f'export PYTHONPATH="/added:$PYTHONPATH"; "{sys.executable}" "{tmp_path}/it.py"'
    env = environment(tmp_path, PLAIN | {"PYTHONPATH": "/one"})
    end = run(tmp_path, argv=["bash", "-c", command], env=env)

    assert End(0, [f"{[*KEPT, 'PYTHONPATH']} /added:/one", "[] False"], []) == end


CHILDREN = (
    SAY
    + """
import multiprocessing, subprocess, sys, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns of a fork where there is any other thread, as numpy's
if __name__ == "__main__":
    print(subprocess.run([sys.executable, "-c", "import sys; print('memwatch._native' in sys.modules)"],
                         capture_output=True, text=True).stdout.strip())
    for kind in ["spawn", "forkserver", "fork"]:
        with multiprocessing.get_context(kind).Pool(1) as pool:
            print(kind, pool.apply(number))
    sys.stdout.flush()
    if not (pid := os.fork()):
        import memwatch
        memwatch.guard(lambda: None)()
        print("child", *number(), flush=True)
        sys.exit()
    os.waitpid(pid, 0)
    print("parent", *number())
"""
)


@pytest.mark.slow
def test_children_are_no_workers(tmp_path: Path) -> None:
    """Of a Python below nothing is armed; a fork that runs trials has a slot of its own, and leaves ours alone."""
    said = ["worker 1", "False", "spawn []", "forkserver []", "fork []", "child 0", "parent 1"]
    end = run(tmp_path, CHILDREN)

    assert End(0, said, []) == End(end.status, [it for it in end.said if it != "worker"], end.stderr)


# ------------------------------------------------------------- the user's own sitecustomize ---


@pytest.mark.slow
@pytest.mark.parametrize(
    ("theirs", "said", "stderr"),
    [
        ("print('theirs')", ["theirs", "True", "worker 1"], []),
        (
            "raise RuntimeError('of theirs')",
            ["False", "worker 1"],
            ["Error in sitecustomize; set PYTHONVERBOSE for traceback:", "RuntimeError: of theirs"],
        ),
        (
            "import is_not_there",
            ["False", "worker 1"],
            [
                "Error in sitecustomize; set PYTHONVERBOSE for traceback:",
                "ModuleNotFoundError: No module named 'is_not_there'",
            ],
        ),
    ],
    ids=["one", "raises", "imports-what-is-not-there"],
)
def test_the_users_own_runs_as_ever(tmp_path: Path, theirs: str, said: list[str], stderr: list[str]) -> None:
    """It is sys.modules["sitecustomize"]; where it fails Python says what it always says, and we are armed."""
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/sitecustomize.py").write_text(theirs)
    env = environment(tmp_path, os.environ | {"PYTHONPATH": str(tmp_path / "lib")})
    look = (
        f"import sys; it = sys.modules.get('sitecustomize'); print({str(tmp_path)!r} in getattr(it, '__file__', ''))\n"
    )

    assert End(0, said, stderr) == run(tmp_path, look + SAY, env=env)


# ------------------------------------------------------------------------------ its life ---


@pytest.mark.slow
def test_the_board_has_it_from_its_first_breath_to_its_last(tmp_path: Path) -> None:
    """With a heartbeat, without a trial; its slot is free once it has ended."""
    with Worker(tmp_path, "print('up', flush=True); input()") as it:
        it.hears("up")
        slot = it.slot()
        first = until(slot.live)
        until(lambda: (slot.live() or first).looks > first.looks + 1, what="that it goes on looking")
        work = slot.work()

        assert (1, 0, "") == (work and work.worker, work and work.epoch, work and work.label)

        it._process.communicate("\n")

        assert 0 == it._process.returncode
        with Board.open(tmp_path / "board") as board:
            assert [] == [*board.slots(), *board.dead()]


STAYS = (
    SAY
    + """
import memwatch
from memwatch import running
memwatch.guard(lambda: None)()
lean = running.lean()
print(lean.watches, *number())
memwatch.stop()
print(lean.watches, *number())
with memwatch.trial("a"):
    print(lean.watches, *number(), running.current.slot.work().epoch, running.current.worker)
try:
    memwatch.stop()
    memwatch.start(brake="1000GB")
except memwatch.SettingsError:
    print(lean.watches, *number())
"""
)


@pytest.mark.slow
def test_it_stays_the_worker_through_start_and_stop(tmp_path: Path) -> None:
    """It is never off the board, and trials are counted on; also where a start fails."""
    said = ["worker 1", "False 1", "True 1", "False 1 5 Worker 1", "True 1"]

    assert End(0, said, []) == run(tmp_path, STAYS)


BRAKES = """
import memwatch
from pathlib import Path
from support.studies import Machine, ready
machine = Machine(Path({folder!r}))
machine.start()
ready()
def objective():
    machine.brake()
try:
    memwatch.guard(objective, label="a trial")()
except memwatch.EmergencyBrake as error:
    print("braked", error.label)
memwatch.guard(lambda: print("goes on"))()
"""


@pytest.mark.slow
def test_a_trial_is_braked_as_ever(tmp_path: Path) -> None:
    """The brake takes the place of the thread that only looks."""
    env = environment(tmp_path, os.environ | {"PYTHONPATH": str(HERE)})
    end = run(tmp_path, BRAKES.format(folder=str(tmp_path)), env=env)

    assert (0, ["braked a trial", "goes on"]) == (end.status, end.said)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "status"),
    [
        ("raise SystemExit(3)", 3),
        ("import os; os._exit(4)", 4),
        ("1 / 0", 1),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
        ("import os, signal; os.kill(os.getpid(), signal.SIGINT)", -signal.SIGINT),
        ("import atexit, os; atexit.register(os._exit, 6)", 6),
    ],
)
def test_its_end_is_its_own(tmp_path: Path, script: str, status: int) -> None:
    """Status and traceback are those that Python gives without us."""
    end = run(tmp_path, script)
    plain = subprocess.run([sys.executable, tmp_path / "script.py"], capture_output=True, text=True, check=False)

    assert End(status, plain.stdout.splitlines(), plain.stderr.splitlines()) == end


@pytest.mark.slow
def test_a_daemon_is_not_the_worker(tmp_path: Path) -> None:
    """Twice forked, its parents gone: it has no slot, and does not give up another's."""
    script = f"""
    import os, time
    if os.fork():
        os._exit(0)
    os.setsid()
    if os.fork():
        os._exit(0)
    from memwatch.board import Board
    board = Board.open()
    with open({str(tmp_path / "made")!r}, "w") as file:
        file.write(str([it.owner.pid for it in board.slots()]))
    os.rename({str(tmp_path / "made")!r}, {str(tmp_path / "said")!r})
    """
    assert 0 == run(tmp_path, script).status
    until((tmp_path / "said").exists)

    assert "[]" == (tmp_path / "said").read_text()


# -------------------------------------------------------------------------- environment ---


def test_settings_of_before_do_not_reach_the_worker(tmp_path: Path) -> None:
    """Those that count were read by the watchdog; what others put there stays."""
    base = {"MEMWATCH_BRAKE": "9GB", "MEMWATCH_GRACE": "9s", "MEMWATCH_WORKERS": "7", "MEMWATCH_PURE": "", "HOME": "/h"}
    env = environment(tmp_path, base, number=3)
    named = {name: env.get(name) for name in [*base, "MEMWATCH_WORKER", "MEMWATCH_CONFIG"]}

    assert {
        "MEMWATCH_BRAKE": "64MiB",
        "MEMWATCH_GRACE": None,
        "MEMWATCH_WORKERS": None,
        "MEMWATCH_PURE": "",
        "HOME": "/h",
        "MEMWATCH_WORKER": "3",
        "MEMWATCH_CONFIG": "off",
    } == named


@pytest.mark.slow
def test_it_costs_a_python_little(tmp_path: Path) -> None:
    """A process's own CPU time, the least of ten: 4 ms, where memwatch.start() takes 45. bench/ has the wall time."""

    def cost(env: dict[str, str]) -> float:
        script = "import time; print(time.process_time())"
        return min(float(run(tmp_path, argv=[sys.executable, "-c", script], env=env).said[0]) for _ in range(10))

    assert cost(environment(tmp_path)) - cost(dict(os.environ)) < 0.030
