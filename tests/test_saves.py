"""
The brake saves what the kernel would have killed: each workload of support/fillers.py, in a real cgroup, without
memwatch and with it.
"""

import functools
import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from support import fillers
from support.cgroups import Cgroup, can_limit
from support.fillers import CASES, Case

from memwatch.sampler import PURE

# Of each case, without memwatch and with it: 48 runs in all, at night 240 (without torch 44 and 220).
WITHOUT, WITH = (5, 15) if os.environ.get("MEMWATCH_NIGHTLY") else (1, 3)

# A worker that hangs at the limit is as bad as one that dies; on a loaded machine a run takes some 5 s.
DEADLINE = 60.0

pytestmark = [
    pytest.mark.skipif(bool(can_limit()), reason=can_limit() or "a cgroup can be made"),
    pytest.mark.slow,
]
native = pytest.mark.skipif(PURE, reason="the brake is the native thread's alone (MEMWATCH_PURE is set)")


class Outcome(NamedTuple):
    """What was left when the worker had ended."""

    status: int
    kills: int  # by the kernel, in this cgroup
    bystander: bool  # it holds its memory still, and ends when it is asked to
    said: list[str]
    stderr: str


def _swapless(group: Cgroup) -> None:
    """Swap would let the workload past the limit that it shall meet."""
    name, text = {1: ("memory.swappiness", "0"), 2: ("memory.swap.max", "0")}[group.version]
    if (group.path / name).exists():
        group.write(name, text)


def _kills(group: Cgroup) -> int:
    """How many processes the kernel has killed in *group*, so that others may live."""
    lines = group.read("memory.oom_control" if group.version == 1 else "memory.events").splitlines()
    return int(dict(line.split() for line in lines)["oom_kill"])


@contextmanager
def _bystander(group: Cgroup) -> "Iterator[subprocess.Popen[str]]":
    command = [sys.executable, fillers.__file__, "--bystander"]
    with group.start(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "holds\n"
        yield process


@functools.cache
def _loaded(case: Case) -> None:
    """Its code is in the page cache, at the cost of nobody in the cgroup: fillers.load() says why."""
    subprocess.run([sys.executable, fillers.__file__, case.fill.__name__, "--load"], check=True, timeout=DEADLINE)


def run(case: Case, *how: str, board: Path) -> Outcome:
    """One worker in a cgroup of its own, to its end."""
    command = [sys.executable, fillers.__file__, case.fill.__name__, *how]
    _loaded(case)
    settings = {key: value for key, value in os.environ.items() if not key.startswith("MEMWATCH_")}
    with Cgroup(case.limit) as group, _bystander(group) as bystander:
        _swapless(group)
        before = _kills(group)
        with group.start(
            command,
            env={**settings, "MEMWATCH_BOARD": str(board)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as worker:
            try:
                said, stderr = worker.communicate(timeout=DEADLINE)
            except subprocess.TimeoutExpired:
                worker.kill()
                said, stderr = worker.communicate()
                pytest.fail(f"still running after {DEADLINE} s; it said {said!r} and {stderr!r}")
        kills = _kills(group) - before
        alive = bystander.poll() is None and bystander.communicate(timeout=DEADLINE)[0] == "held\n"
        return Outcome(worker.returncode, kills, alive and not bystander.returncode, said.splitlines(), stderr)


def table(cases: Iterable[Case], runs: int) -> pytest.MarkDecorator:
    """Each case *runs* times over; one whose library is not here is skipped, and says so."""
    rows = []
    for case in cases:
        marks = []
        if case.needs and not importlib.util.find_spec(case.needs):
            marks.append(pytest.mark.skip(reason=f"{case.needs} is not installed, and this workload is about it"))
        name = case.fill.__name__.replace("_", "-")
        rows += [pytest.param(case, id=f"{name}-{number}", marks=marks) for number in range(1, runs + 1)]
    return pytest.mark.parametrize("case", rows)


@table(CASES, WITHOUT)
def test_without_memwatch_the_kernel_kills(case: Case, tmp_path: Path) -> None:
    """One OOM kill each time, of the worker or the child that fills; nobody asks it, nothing is said."""
    outcome = run(case, board=tmp_path)

    assert Outcome(case.killed, kills=1, bystander=True, said=[], stderr=outcome.stderr) == outcome
    assert "EMERGENCY BRAKE" not in outcome.stderr


@native
@table([case for case in CASES if not case.uncut], WITH)
def test_with_memwatch_the_trial_ends_and_the_worker_goes_on(case: Case, tmp_path: Path) -> None:
    """No OOM kill; the trial ends with EmergencyBrake, the next is let in and runs, and the worker exits 0."""
    outcome = run(case, "--guarded", board=tmp_path)

    said = [f"EmergencyBrake in {case.fill.__name__}", "a second trial ran"]
    assert Outcome(0, kills=0, bystander=True, said=said, stderr=outcome.stderr) == outcome
    assert "EMERGENCY BRAKE" in outcome.stderr


@native
@table([case for case in CASES if case.uncut], WITH)
def test_what_nothing_can_cut_short_dies_by_its_own_hand_at_worst(case: Case, tmp_path: Path) -> None:
    """No OOM kill either: the worker goes on, or has killed itself, for itself only and with last words."""
    outcome = run(case, "--guarded", board=tmp_path)

    lived = 0, [f"EmergencyBrake in {case.fill.__name__}", "a second trial ran"]
    died = -signal.SIGKILL, []
    assert (0, True) == (outcome.kills, outcome.bystander), outcome
    assert (outcome.status, outcome.said) in (lived, died), outcome
    assert "EMERGENCY BRAKE" in outcome.stderr
