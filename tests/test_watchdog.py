"""
`memwatch run` with workers that do what workers do at their worst: real processes, and the real kernel's word for it.

What becomes of the watchdog itself is in test_watchdog_life.py; its decisions, in virtual time, in test_simulation.py.
"""

import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.cgroups import Cgroup, can_limit
from support.wait import until
from support.watchdogs import HASTY, Watchdog, charge, field, rss, runs, standing, state, tiny

pytestmark = pytest.mark.slow

MB = 10**6
MiB = 2**20
FREEZER = Path("/sys/fs/cgroup/freezer")

TROUBLE = re.compile("error|crash|oom", re.IGNORECASE)


@pytest.fixture(scope="module", name="tiny")
def _tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny(tmp_path_factory.mktemp("tiny"))


def signals(dog: Watchdog, worker: int = 1) -> list[str]:
    """What it was sent, in order."""
    return [it["signal"] for it in dog.events("signalled", worker=worker)]


# ------------------------------------------------------------------ those that do not end ---


@pytest.mark.parametrize(
    ("grace", "expected"),
    [
        pytest.param("200ms", ["SIGINT", "SIGTERM", "SIGKILL"], id="f77-one-after-the-other"),
        pytest.param("0", ["SIGKILL"], id="f77-no-grace"),
    ],
)
def test_f77_who_hears_nothing_is_killed(tmp_path: Path, grace: str, expected: list[str]) -> None:
    """One that ignores SIGINT and SIGTERM gets SIGKILL after the grace, and the next one starts at once."""
    with Watchdog(tmp_path, charge("deaf"), grace=grace, max_age="1s") as dog:
        dog.hears("ready")
        first = dog.worker()
        dog.worker(life=2)
        ended = dog.until("ended")

        assert expected == signals(dog)[: len(expected)]
        assert ("SIGKILL", "asked") == (ended["signal"], ended["cause"])
        assert not runs(first)
        assert not dog.events("backoff")


def test_f41_who_is_stopped_is_ended_as_any_other(tmp_path: Path) -> None:
    """A worker below SIGSTOP takes SIGTERM as soon as it is told to go on, which it is."""
    with Watchdog(tmp_path, charge("sleeps"), max_age="1500ms", grace="5s") as dog:
        dog.hears("ready")
        os.kill(dog.worker(), signal.SIGSTOP)
        ended = dog.until("ended")

        assert "SIGKILL" not in signals(dog)
        assert "asked" == ended["cause"]


@contextmanager
def frozen() -> Iterator[Path]:
    """A group of the v1 freezer; what is in it is thawed at the end."""
    if not os.access(FREEZER / "cgroup.procs", os.W_OK):
        pytest.skip("no v1 freezer here, and nothing else holds a process against SIGKILL without hurting the machine")
    group = FREEZER / f"memwatch-test-{os.getpid()}"
    group.mkdir()
    try:
        yield group
    finally:
        (group / "freezer.state").write_text("THAWED")
        until(lambda: not (group / "cgroup.procs").read_text(), what="that nobody is in the freezer")
        group.rmdir()


def freeze(group: Path, pid: int) -> None:
    (group / "cgroup.procs").write_text(str(pid))
    (group / "freezer.state").write_text("FROZEN")
    until(lambda: (group / "freezer.state").read_text().strip() == "FROZEN", what="FROZEN")


def test_f78_who_cannot_be_killed_is_told_and_not_replaced(tmp_path: Path) -> None:
    """A frozen worker is alarmed about and stays the only one of its number; the others and the loop go on, and so does
    it once it is thawed."""
    with (
        frozen() as group,
        Watchdog(tmp_path, charge("sleeps"), argv=HASTY, workers=2, max_age="2s", grace="0") as dog,
    ):
        dog.hears("ready", 1)
        dog.hears("ready", 2)
        first = dog.worker(1)
        freeze(group, first)
        alarm = dog.until("unkillable", worker=1)
        healthy = len(dog.events("healthy", worker=2))
        dog.until("healthy", healthy + 2, worker=2)

        assert first == alarm["pid"]
        assert runs(first)
        assert 1 == len(dog.events("spawned", worker=1))

        (group / "freezer.state").write_text("THAWED")
        dog.worker(1, life=2)

        assert not runs(first)


def test_f78_a_frozen_worker_does_not_hold_up_the_end(tmp_path: Path) -> None:
    """Told to stop, the watchdog says what it could not end, and is gone in bounded time; thawed, so is the worker."""
    with frozen() as group, Watchdog(tmp_path, charge("sleeps"), argv=HASTY, grace="100ms") as dog:
        dog.hears("ready")
        freeze(group, dog.worker())
        dog.signal(signal.SIGTERM)

        assert 1 == dog.ends()
        assert dog.events("unkillable", worker=1)
        assert runs(dog.worker())

        (group / "freezer.state").write_text("THAWED")
        until(lambda: not runs(dog.worker()), what="the end of the thawed worker")


def test_f78_what_a_worker_left_and_cannot_be_killed_is_told(tmp_path: Path) -> None:
    """It has no successor as long as a child of it lives; it is not called healthy, nor is it what holds up the end."""
    with frozen() as group, Watchdog(tmp_path, charge("brood", 1), argv=HASTY) as dog:
        freeze(group, dog.number("own_session"))
        (tmp_path / "go").touch()
        dog.until("unkillable")
        left = dog.until("leftover")
        dog.signal(signal.SIGTERM)

        assert 1 == dog.ends()
        assert left["pid"] == dog.worker()
        assert 1 == len(dog.events("spawned"))
        assert [] == [it for it in dog.events("healthy") if it["time"] > left["time"]]
        assert [] == signals(dog)

        (group / "freezer.state").write_text("THAWED")


def test_f79_who_waits_for_a_vforked_child_is_ended(tmp_path: Path, tiny: Path) -> None:
    """Its parent is in D, and dies of a signal all the same; the child, which has its memory, goes with it."""
    with Watchdog(tmp_path, [str(tiny), "vfork"], argv=HASTY, max_age="1s") as dog:
        dog.hears("ready")
        first = dog.worker()
        until(lambda: state(first) == "D", what="a parent that waits in D")
        family = [it for it in dog.all() if field(it, "Name") == tiny.name]
        dog.worker(life=2)

        assert 2 == len(family)
        assert not any(runs(it) for it in family)


KINDS = ("in_group", "own_session", "orphan", "daemon")


@pytest.mark.parametrize(
    ("how", "cause"),
    [
        pytest.param("3", "failed", id="f80-it-crashes"),
        pytest.param("0", "finished", id="f80-it-finishes"),
        pytest.param("stays", "asked", id="f80-it-is-ended"),
    ],
)
def test_f80_f84_nothing_that_a_worker_started_outlives_it(tmp_path: Path, how: str, cause: str) -> None:
    """Children in its group, in a session of their own, orphaned, daemonized, all deaf: gone before another life."""
    with Watchdog(tmp_path, charge("brood", how), max_age="1500ms") as dog:
        brood = [dog.number(kind) for kind in KINDS]
        (tmp_path / "go").touch()
        ended = dog.until("ended")

        assert cause == ended["cause"]
        assert [] == [kind for kind, pid in zip(KINDS, brood, strict=True) if runs(pid)]
        assert [] == [it for it in dog.events("spawned", life=2) if it["time"] < ended["time"]]
        # None of them is a zombie of the watchdog's either.
        until(lambda: not any(state(pid) for pid in brood), what="that all were reaped")


def test_f80_of_several_workers_each_one_ends_its_own(tmp_path: Path) -> None:
    """A daemon that lost all that says whose it is still goes with its worker, and not with another one."""
    with Watchdog(tmp_path, charge("brood", "stays"), workers=2, max_age="off") as dog:
        broods = {number: [dog.number(kind, number) for kind in KINDS] for number in (1, 2)}
        (tmp_path / "go").touch()
        dog.hears("ready", 1)
        os.kill(dog.worker(1), signal.SIGKILL)
        ended = dog.until("ended", worker=1)

        assert ("SIGKILL", "killed") == (ended["signal"], ended["cause"])
        assert [] == [kind for kind, pid in zip(KINDS, broods[1], strict=True) if runs(pid)]
        assert [] == [kind for kind, pid in zip(KINDS, broods[2], strict=True) if not runs(pid)]


def test_who_daemonizes_has_ended_and_so_has_its_daemon(tmp_path: Path) -> None:
    """What goes into the background is nobody's to watch: it is said and ended, and the watchdog with it."""
    with Watchdog(tmp_path, charge("daemonizes")) as dog:
        assert 0 == dog.ends()
        assert "finished" == dog.until("ended")["cause"]
        assert not runs(dog.number("daemon"))
        assert "processes behind, which are ended" in dog.log


# ------------------------------------------------------------------------ those that end ---


def test_f87_who_crashes_at_once_is_given_up(tmp_path: Path) -> None:
    """Ten failures in a row, each with a wait behind it, and then none any more: exit status 1, and it is said why."""
    with Watchdog(tmp_path, charge("ends", 3), argv=HASTY) as dog:
        assert 1 == dog.ends()
        assert [3] * 10 == [it["status"] for it in dog.events("ended", cause="failed")]
        assert list(range(1, 10)) == [it["failures"] for it in dog.events("backoff")]
        assert {"failures": 10, "reason": "exit status 3"}.items() <= dog.until("fatal").items()


def test_f87_who_cannot_be_started_is_given_up(tmp_path: Path) -> None:
    """A program that the kernel does not take is a failure like any other, and said with its errno."""
    program = tmp_path / "program"
    program.write_bytes(b"\x7fELF" + b"?" * 100)
    program.chmod(0o755)
    with Watchdog(tmp_path, [str(program)], argv=HASTY) as dog:
        assert 1 == dog.ends()
        assert 10 == len(dog.events("refused", what="start"))
        assert "ENOEXEC" in dog.log
        assert not dog.events("spawned")


def test_who_crashes_later_starts_again_after_a_wait(tmp_path: Path) -> None:
    """A crash is told with its status, a wait follows, and another life with a banner that says why."""
    with Watchdog(tmp_path, charge("ends_by_number", 7, "stays")) as dog:
        dog.hears("ready")

        assert {"cause": "failed", "status": 7}.items() <= dog.until("ended").items()
        assert 1 <= dog.until("backoff")["seconds"] <= 1.2
        assert ", life 2, after: " in dog.output()


def test_who_finishes_is_not_started_again(tmp_path: Path) -> None:
    """Exit status 0 is the end: one that goes on is watched on, and with the last one the watchdog ends, with 0."""
    script = ["/bin/sh", "-c", '[ "$MEMWATCH_WORKER" = 1 ] && exit 0; while [ ! -e "$FOLDER/go" ]; do sleep 0.02; done']
    with Watchdog(tmp_path, script, workers=2) as dog:
        dog.until("ended", worker=1, cause="finished")
        dog.until("spawned", worker=2)
        (tmp_path / "go").touch()

        assert 0 == dog.ends()
        assert 2 == len(dog.events("spawned"))
        assert dog.events("ended", worker=2, cause="finished")


def test_the_end_comes_while_one_waits_for_its_start(tmp_path: Path) -> None:
    """A worker in backoff has nothing to be waited for."""
    with Watchdog(tmp_path, charge("ends", 1)) as dog:
        dog.until("backoff")
        dog.signal(signal.SIGTERM)

        assert 0 == dog.ends(3)


@pytest.mark.parametrize(
    ("how", "number", "cause"),
    [
        pytest.param("by-hand", signal.SIGKILL, "killed", id="f92-a-kill-by-hand"),
        pytest.param("by-hand", signal.SIGSEGV, "killed", id="f92-a-fault"),
        pytest.param("by-us", signal.SIGKILL, "asked", id="f92-our-own-kill"),
    ],
)
def test_f92_who_killed_it_is_known(tmp_path: Path, how: str, number: signal.Signals, cause: str) -> None:
    """The status says that it was SIGKILL; whose it was is told apart."""
    with Watchdog(tmp_path, charge("deaf"), grace="0", max_age="1s" if how == "by-us" else "off") as dog:
        dog.hears("ready")
        if how == "by-hand":
            os.kill(dog.worker(), number)

        assert {"cause": cause, "signal": number.name}.items() <= dog.until("ended").items()


# ------------------------------------------------------------------ what they do meanwhile ---


def test_nothing_that_a_worker_writes_is_lost(tmp_path: Path) -> None:
    """200 MB of output (a gigabyte at night) are in its log, each line once, and none has been through the watchdog."""
    size = 1000 * MB if os.environ.get("MEMWATCH_NIGHTLY") else 200 * MB
    with Watchdog(tmp_path, charge("writes", size)) as dog:
        dog.until("spawned")
        most = 0
        while dog.process.poll() is None:
            if runs(dog.pid):
                try:
                    most = max(most, rss(dog.pid))
                except (OSError, StopIteration):
                    break
            time.sleep(0.02)

        assert 0 == dog.ends()
        assert 0 < most < 30 * MB
        number = 0
        with (dog.logs / "worker_safe_1.log").open("rb") as file:
            for line in file:
                if line[:1] == b"0":
                    assert number == int(line)
                    number += 1
        assert size // 100 == number
    (dog.logs / "worker_safe_1.log").unlink()


def test_who_closes_stderr_is_watched(tmp_path: Path) -> None:
    """No output is no fault."""
    with Watchdog(tmp_path, charge("closes_stderr")) as dog:
        until((tmp_path / "closed").exists, what="that it closed all")
        dog.until("healthy", 2)

        assert dog.events("reported")


def test_who_changes_its_user_is_watched_and_ended(tmp_path: Path) -> None:
    """A worker that became nobody and hears nothing, which takes its death signal from it as well."""
    with Watchdog(tmp_path, charge("changes_uid"), max_age="1s", grace="200ms") as dog:
        dog.hears("ready")
        first = dog.worker()
        assert "65534" in field(first, "Uid")
        dog.worker(life=2)

        assert ["SIGINT", "SIGTERM", "SIGKILL"] == signals(dog)[:3]
        assert not runs(first)
        assert not dog.events("refused")


def test_who_becomes_another_program_is_watched(tmp_path: Path) -> None:
    """exec keeps the pid, and what reported before does no longer: no stall, no restart for that."""
    with Watchdog(tmp_path, charge("executes", "/bin/sleep", 100)) as dog:
        dog.until("reported")
        dog.hears("ready")
        pid = dog.worker()
        (tmp_path / "go").touch()
        until(lambda: field(pid, "Name") == "sleep", what="sleep")
        seen = len(dog.events("healthy"))
        dog.until("healthy", seen + 3)

        assert 1 == len(dog.events("spawned"))
        assert rss(pid) < 8 * MB
        assert dog.until("healthy", seen + 3)["rss_bytes"] < 8 * MB


def test_a_shell_runs_one_python_after_the_other(tmp_path: Path) -> None:
    """Each is armed, and what the shell itself returns is what counts."""
    one = " ".join(charge("ends", 0, 0.4))
    with Watchdog(tmp_path, ["bash", "-c", f"{one}; {one}; exit 0"]) as dog:
        assert 0 == dog.ends()
        assert 1 == len(dog.events("reported"))
        assert 1 == len(dog.events("spawned"))


def test_a_shell_that_goes_on_without_its_python_is_not_stalled(tmp_path: Path) -> None:
    """The brake of a Python that has ended looks no more, which is no fault."""
    argv = (
        *HASTY[:2],
        HASTY[2].replace("sys.exit", "from memwatch import restart; restart.STALLED = 0.5; sys.exit", 1),
    )
    script = f"{' '.join(charge('ends', 0, 0.4))}; exec sleep 60"
    with Watchdog(tmp_path, ["bash", "-c", script], argv=argv) as dog:
        dog.until("reported")
        until(lambda: not standing(dog)["workers"][0]["reports"], what="that its Python has ended")
        seen = len(dog.events("healthy"))
        until(lambda: len(dog.events("healthy")) > seen + 5, what="a second of health")

        assert not dog.events("restarting")
        assert not dog.events("signalled")


def test_a_python_below_a_shell_hears_that_it_shall_end(tmp_path: Path) -> None:
    """A shell takes no SIGINT while it waits; its Python, which is the worker, is not killed for that."""
    script = "import signal, sys, time\n"
    script += "signal.signal(signal.SIGINT, lambda *_: (print('heard', flush=True), sys.exit(5)))\n"
    script += "print('ready', flush=True)\n"
    script += "time.sleep(60)\n"
    (tmp_path / "it.py").write_text(script)
    with Watchdog(tmp_path, ["bash", "-c", f"{sys.executable} it.py; exit $?"], grace="5s") as dog:
        dog.hears("ready")
        dog.until("reported")
        dog.signal(signal.SIGTERM)

        assert 0 == dog.ends()
        assert "heard\n" in dog.output()
        assert ["SIGINT"] == signals(dog)


def test_a_python_that_does_not_look_is_watched_from_outside(tmp_path: Path) -> None:
    """python -I reads no environment: that is said once, and it is restarted by age and ended like any other."""
    script = "import time; print('ready', flush=True); time.sleep(60)"
    with Watchdog(tmp_path, [sys.executable, "-I", "-c", script], argv=HASTY, max_age="2s") as dog:
        unreported = dog.until("unreported")
        dog.until("healthy")
        dog.worker(life=2)

        assert 0.3 == unreported["waited_seconds"]
        assert ["SIGINT"] == signals(dog)[:1]
        assert not dog.events("reported")


# ---------------------------------------------------------------------------- their memory ---


def test_a_worker_over_its_limit_is_restarted(tmp_path: Path) -> None:
    """
    Its own thread wakes the watchdog, which says so word for word, sends SIGTERM, and starts another one.

    Before, it was 5 s late: /proc/PID/stat had a few pages less than what the thread had rung the bell for.
    """
    with Watchdog(tmp_path, charge("eats", 3000, 1), max_rss="100MB", interval="60s") as dog:
        over = dog.until("over")
        ended = dog.until("ended")

        assert 100 * MB == over["limit_bytes"] < over["rss_bytes"] < 250 * MB
        assert "asked" == ended["cause"]
        assert ["SIGTERM"] == signals(dog)[:1]
        assert re.search(r"🔄 Worker 1 memory leak detected - restarting\n", dog.log)
        assert re.search(r"Worker using [12]\d\d\.\dMB \(limit: 100\.0MB\)\n", dog.log)
        # Too large within its first minute, it does not fit: no loop without a wait.
        dog.until("backoff")


@pytest.mark.slow
def test_a_buffer_that_will_not_fit_is_told_before_it_is_full(tmp_path: Path) -> None:
    """Its worker has no trial, and no brake before it has a buffer; it is told once, and nothing is done about it."""
    script = "import time\nfrom memwatch.replay import ReplayBuffer\n"
    script += "buffer = ReplayBuffer(1000, {'obs': ((1_000_000,), 'uint8')})\n"
    script += "print('ready', flush=True)\ntime.sleep(60)\n"
    with Watchdog(tmp_path, [sys.executable, "-c", script], max_rss="500MB") as dog:
        told = dog.until("filling")
        until(lambda: standing(dog)["workers"][0]["growth"]["budget_bytes"], what="that it stands there")

        assert ("max_rss", 500 * MB) == (told["limit"], told["limit_bytes"])
        assert 1000 * MB < told["needed_bytes"] < 1200 * MB
        assert re.search(r"📦 Worker 1 PID \d+ will need 1\.\d+GB when its buffers are full, limit 500\.0MB", dog.log)
        assert not dog.events("restarting")


def test_a_worker_in_c_over_its_limit_is_restarted(tmp_path: Path, tiny: Path) -> None:
    """It has no thread that could wake anybody: the look does it."""
    with Watchdog(tmp_path, [str(tiny), "eat", str(150 * MB)], max_rss="100MB") as dog:
        assert 100 * MB < dog.until("over")["rss_bytes"]
        assert "asked" == dog.until("ended")["cause"]


def test_f80_pages_that_children_share_count_once(tmp_path: Path) -> None:
    """The sum of RSS of a tree is above the limit, its PSS is not: no restart. Then it is, and is restarted."""
    with Watchdog(tmp_path, charge("shares", 100), max_rss="250MB") as dog:
        dog.hears("ready")
        seen = len(dog.events("healthy"))
        shared = dog.until("healthy", seen + 5)

        assert shared["rss_bytes"] > 400 * MB
        assert not dog.events("over")

        (tmp_path / "go").touch()
        over = dog.until("over", seconds=30)

        assert 250 * MB < over["rss_bytes"] < 480 * MB
        dog.until("ended", cause="asked")


needs_limit = pytest.mark.skipif(bool(can_limit()), reason=can_limit())


@needs_limit
def test_who_takes_the_last_memory_without_a_trial_is_ended(tmp_path: Path) -> None:
    """Nothing brakes in a worker without a trial: the largest one below the limit is ended, and the other goes on."""
    command = ["/bin/sh", "-c", f"exec {' '.join(charge('eats'))} $((120 * MEMWATCH_WORKER))"]
    with (
        Cgroup(512 * MiB) as group,
        Watchdog(tmp_path, command, workers=2, group=group, brake="200MiB", warn="300MiB") as dog,
    ):
        restarting = dog.until("restarting", reason="headroom")
        dog.until("ended", worker=2, cause="asked")

        assert 2 == restarting["worker"]
        assert restarting["available_bytes"] < restarting["threshold_bytes"] == 200 * MiB
        assert ["SIGTERM"] == signals(dog, 2)[:1]
        assert not dog.events("ended", worker=1)
        assert not dog.events("braked")


@needs_limit
def test_a_brake_costs_no_restart(tmp_path: Path) -> None:
    """In a trial the brake acts and the watchdog does not, but for a line that says so; the worker goes on."""
    with (
        Cgroup(512 * MiB) as group,
        Watchdog(tmp_path, charge("brakes", 600), group=group, brake="150MiB", warn="200MiB") as dog,
    ):
        braked = dog.until("braked")
        dog.hears("ready")
        seen = len(dog.events("healthy"))
        dog.until("healthy", seen + 5)

        assert 1 == braked["brakes"]
        assert "braked\nready\n" in dog.output()
        assert [] == signals(dog)
        assert 1 == len(dog.events("spawned"))
        assert "EMERGENCY BRAKE" in dog.log
        assert not re.search("^✅ forged", dog.log, re.MULTILINE)


@needs_limit
def test_f91_f92_a_kill_of_the_kernels_is_known(tmp_path: Path, tiny: Path) -> None:
    """It takes the worker, and not what else is in the group: cause "oom", and the log says OOM."""
    # Deaf to SIGTERM: a look in the moments in which the kernel makes up its mind finds nothing left, and sends one.
    command = ["/bin/sh", "-c", f"trap '' TERM; exec {tiny} eat {1000 * MB}"]
    with (
        Cgroup(256 * MiB) as group,
        Watchdog(
            tmp_path, command, group=group, brake="16MiB", warn="20MiB", floor="1MiB", min_available="1MiB"
        ) as dog,
    ):
        dog.worker()
        ended = dog.until("ended")

        assert {"cause": "oom", "signal": "SIGKILL"}.items() <= ended.items()
        assert "out of memory (OOM)" in dog.log
        assert dog.process.poll() is None


def test_f91_a_worker_is_the_first_that_the_kernel_takes(tmp_path: Path) -> None:
    """And the watchdog is not."""
    with Watchdog(tmp_path, charge("sleeps")) as dog:
        dog.hears("ready")

        assert "900" == Path(f"/proc/{dog.worker()}/oom_score_adj").read_text().strip()
        assert int(Path(f"/proc/{dog.pid}/oom_score_adj").read_text()) < 900


@needs_limit
def test_f92_a_kill_of_the_brakes_is_known(tmp_path: Path) -> None:
    """A trial that nothing cuts is killed by the brake of its own worker, after its grace."""
    script = """
from itertools import chain, repeat
import memwatch
kept = []
def trial():
    # One call that holds the interpreter lock: it takes 280 MB, and then goes on for ever.
    any(chain(map(kept.append, map(bytearray(b"1").__mul__, repeat(10**6, 280))), repeat(None)))
memwatch.guard(trial)()
"""
    (tmp_path / "it.py").write_text(script)
    with (
        Cgroup(512 * MiB) as group,
        Watchdog(
            tmp_path,
            [sys.executable, "it.py"],
            group=group,
            brake="250MiB",
            warn="260MiB",
            floor="10MiB",
            brake_grace="300ms",
        ) as dog,
    ):
        ended = dog.until("ended")

        assert {"cause": "brake", "signal": "SIGKILL"}.items() <= ended.items()
        assert [] == signals(dog)


# ---------------------------------------------------------------------------------- drain ---


def test_a_tainted_worker_is_started_anew_once(tmp_path: Path) -> None:
    """It asks for it, ends after its trial, and what comes next asks for nothing."""
    with Watchdog(tmp_path, charge("taints")) as dog:
        dog.until("restarting", reason="tainted")
        dog.worker(life=2)
        dog.until("reported", 2)
        seen = len(dog.events("healthy"))
        dog.until("healthy", seen + 5)

        assert [75] == [it["status"] for it in dog.events("ended")]
        assert [] == signals(dog)
        assert 2 == len(dog.events("spawned"))


def test_trials_are_ended_and_none_is_cut(tmp_path: Path) -> None:
    """A script with guard() over several lives by age: each trial that began has ended, and it finishes by itself."""
    with Watchdog(tmp_path, charge("trials", 100), max_age="1s", grace="5s") as dog:
        assert 0 == dog.ends(60)
        assert "BE" * 100 == (tmp_path / "trials").read_text()
        assert len(dog.events("spawned")) >= 3
        assert {"asked", "finished"} == {it["cause"] for it in dog.events("ended")}
        assert [] == signals(dog)
        assert [] == [line for line in dog.log.splitlines() if TROUBLE.search(line)]
        assert [] == [line for line in dog.output().splitlines() if TROUBLE.search(line)]


def test_a_study_has_its_n_trials_over_all_lives(tmp_path: Path) -> None:
    """Optuna with SQLite: as many trials as it was asked for, all complete, whatever number of lives that took."""
    import optuna

    with Watchdog(tmp_path, charge("studies", 7), grace="5s") as dog:
        assert 0 == dog.ends(60)
        assert [75, 75, 0] == [it["status"] for it in dog.events("ended")]
        assert [] == signals(dog)
    study = optuna.load_study(study_name="a", storage=f"sqlite:///{tmp_path}/study.db")

    assert [optuna.trial.TrialState.COMPLETE] * 7 == [it.state for it in study.trials]


# ------------------------------------------------------------------------- many, and names ---


def test_sixty_four_workers_start_and_stop(tmp_path: Path, tiny: Path) -> None:
    """All run, each has its log, each is said to be healthy, and one signal ends them all."""
    with Watchdog(tmp_path, [str(tiny)], argv=HASTY, workers=64, interval="1s") as dog:
        for number in range(1, 65):
            dog.until("healthy", worker=number)

        assert all(dog.output(number).endswith("ready\n") for number in range(1, 65))
        assert rss(dog.pid) < 30 * MB

        dog.signal(signal.SIGTERM)

        assert 0 == dog.ends()
        assert 64 == len(dog.events("ended", cause="asked"))


def test_f100_nothing_that_a_worker_says_or_is_called_is_taken_for_the_watchdogs(tmp_path: Path) -> None:
    """Its argv, its name, its label and its output hold whole lines of log, events and escapes: none becomes one."""
    hostile = 'x\n2026-01-01 00:00:00 ❌ ERROR: Worker 9 crashed\n{"event": "fatal", "worker": 9}\x1b[2J'
    with Watchdog(tmp_path, [*charge("forges"), hostile], max_age="off") as dog:
        dog.until("ended")  # a function that takes no such word
        assert not dog.events("fatal")
    (tmp_path / "logs" / "events.jsonl").unlink()
    with Watchdog(tmp_path, [*charge("forges")]) as dog:
        dog.hears("ready")
        dog.until("healthy", 2)
        os.kill(dog.worker(), signal.SIGKILL)
        dog.until("ended")
        log, events = dog.log, (tmp_path / "logs" / "events.jsonl").read_bytes()

    assert "Worker 9" not in log
    assert not dog.events("fatal")
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", log)
    assert not re.search(rb"[\x00-\x09\x0b-\x1f\x7f-\xff]", events)
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", line) for line in log.splitlines())
