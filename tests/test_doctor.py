"""memwatch doctor: what it finds, what it says, and what it exits with."""

import errno
import json
import subprocess
import sys
from dataclasses import replace

import pytest

from memwatch import Binding, Failure, Sample
from memwatch.doctor import as_json, as_text, examine
from memwatch.findings import Finding, Grade, Machine, diagnose
from memwatch.model import Fact

GB, MiB = 10**9, 2**20

SAMPLE = Sample(
    time=1.0,
    mem_total=32 * GB,
    mem_available=20 * GB,
    swap_total=0,
    swap_free=0,
    rss=GB,
    rss_shared=0,
    rss_anon=GB,
    headroom=20 * GB,
    binds=Binding(32 * GB),
)
FACTS = (
    Fact("mem_available", "/proc/meminfo", 0, 20 * GB, 0),
    Fact("overcommit", "/proc/sys/vm/overcommit_memory", 0, 0, 0),
    Fact("oom_score_adj", "/proc/self/oom_score_adj", 0, 0, 0),
    Fact("pss", "/proc/self/smaps_rollup", 0, GB, 0),
)
HEALTHY = Machine("Linux 6.1", "3.11", pure=False, sample=SAMPLE, facts=FACTS, board="/dev/shm/memwatch-0/board")


def facts(**values: int) -> tuple[Fact, ...]:
    """FACTS with some of another value."""
    kept = tuple(fact for fact in FACTS if fact.name not in values)
    return kept + tuple(Fact(name, f"/somewhere/{name}", 0, value, 0) for name, value in values.items())


def group_fact(name: str, value: int) -> tuple[Fact, ...]:
    return (*FACTS, Fact(name, f"/sys/fs/cgroup/pod/memory.{name}", 1, value, 0))


def test_a_healthy_machine_has_nothing_to_note() -> None:
    findings = diagnose(HEALTHY)

    assert {Grade.GOOD} == {finding.grade for finding in findings}
    assert all(finding.says and finding.means and not finding.do for finding in findings)


@pytest.mark.parametrize(
    ("machine", "grade", "says"),
    [
        pytest.param(
            replace(HEALTHY, sample=None, blind="no /proc"), "bad", "nothing can be read: no /proc", id="f01-blind"
        ),
        pytest.param(
            replace(
                HEALTHY,
                sample=SAMPLE._replace(mem_available=None, headroom=None, binds=None, errors=(Failure("meminfo", 2),)),
            ),
            "bad",
            "MemAvailable is missing: meminfo: ENOENT",
            id="f02-no-meminfo",
        ),
        pytest.param(
            replace(HEALTHY, sample=SAMPLE._replace(estimated=True)),
            "note",
            "tells no MemAvailable",
            id="f04-estimated",
        ),
        pytest.param(replace(HEALTHY, pure=True), "note", "through psutil", id="pure"),
        pytest.param(
            replace(HEALTHY, sample=SAMPLE._replace(headroom=GB)), "bad", "with 1.0 GB of headroom", id="short-already"
        ),
        pytest.param(
            replace(
                HEALTHY,
                sample=SAMPLE._replace(binds=Binding(4 * GB, "/sys/fs/cgroup/pod", 1, 2, 2), headroom=3 * GB),
            ),
            "ok",
            "cgroup /sys/fs/cgroup/pod (4.0 GB), with 3.0 GB",
            id="container",
        ),
        pytest.param(
            replace(HEALTHY, sample=SAMPLE._replace(binds=Binding(0, "/sys/fs/cgroup/pod", 1, 2, 2), headroom=0)),
            "bad",
            "cgroup /sys/fs/cgroup/pod (0 B), with 0 B",
            id="a-limit-of-0",
        ),
        pytest.param(
            replace(HEALTHY, cgroup_error=errno.EXDEV), "note", "outside the cgroups that are visible", id="f32-outside"
        ),
        pytest.param(replace(HEALTHY, cgroup_error=errno.EACCES), "note", "may not be read", id="f35-unreadable"),
        pytest.param(
            replace(HEALTHY, sample=SAMPLE._replace(swap_total=8 * GB, swap_free=7 * GB)),
            "note",
            "7.0 GB of 8.0 GB free",
            id="f24-swap",
        ),
        pytest.param(
            replace(HEALTHY, facts=facts(overcommit=2, commit_limit=16 * GB, committed=10 * GB)),
            "note",
            "6.0 GB left of 16.0 GB",
            id="f28-strict-overcommit",
        ),
        pytest.param(replace(HEALTHY, facts=facts(overcommit=1)), "note", "vm.overcommit_memory = 1", id="f28-always"),
        pytest.param(replace(HEALTHY, address_space=8 * GB), "note", "RLIMIT_AS is 8.0 GB", id="f28-rlimit-as"),
        pytest.param(replace(HEALTHY, data=8 * GB), "note", "RLIMIT_DATA is 8.0 GB", id="f28-rlimit-data"),
        pytest.param(
            replace(HEALTHY, facts=facts(oom_score_adj=-1000)), "note", "never takes this process", id="immune"
        ),
        pytest.param(replace(HEALTHY, facts=facts(panic_on_oom=1)), "bad", "panics", id="panic"),
        pytest.param(
            replace(HEALTHY, facts=facts(oom_kill_allocating_task=1)), "note", "kills who asks last", id="allocating"
        ),
        pytest.param(replace(HEALTHY, facts=group_fact("oom_group", 1)), "note", "kills every process", id="oom-group"),
        pytest.param(
            replace(HEALTHY, facts=group_fact("oom_kill_disable", 1)),
            "bad",
            "is off in cgroup /sys/fs/cgroup/pod",
            id="f36",
        ),
        pytest.param(
            replace(HEALTHY, facts=group_fact("oom_kill", 3)), "note", "has killed 3 process", id="met-before"
        ),
        pytest.param(replace(HEALTHY, guards=("earlyoom (7)",)), "note", "earlyoom (7)", id="another-guard"),
        pytest.param(replace(HEALTHY, facts=facts(hugetlb=GB)), "note", "1.0 GB set aside", id="f19-huge-pages"),
        pytest.param(
            replace(HEALTHY, facts=facts(numa_nodes=2, numa_allowed=1)), "note", "1 of 2 NUMA nodes", id="f27"
        ),
        pytest.param(replace(HEALTHY, facts=facts(zfs_arc=8 * GB)), "note", "8.0 GB", id="f23-zfs"),
        pytest.param(replace(HEALTHY, realtime=errno.EPERM), "note", "SCHED_RR is refused", id="f109-no-realtime"),
        pytest.param(replace(HEALTHY, locked=65536), "note", "only 65.5 kB may be locked", id="f109-no-locking"),
        pytest.param(replace(HEALTHY, board_error="the board is another's"), "note", "another's", id="board"),
        pytest.param(replace(HEALTHY, slots=64), "note", "all 64 slots", id="board-full"),
    ],
)
def test_each_trouble_is_found(machine: Machine, grade: str, says: str) -> None:
    """One trouble at a time: it is said, graded, and, if anything can be done, what."""
    found = [finding for finding in diagnose(machine) if says in finding.says]

    assert [grade] == [finding.grade for finding in found]
    others = [finding for finding in diagnose(machine) if finding not in found]
    assert all(finding.grade is Grade.GOOD for finding in others), others


def test_the_text_can_be_read_on_a_terminal() -> None:
    """Within its width, topics aligned, advice marked, and the count at its end."""
    text = as_text(HEALTHY, [Finding("What", Grade.NOTE, "is " * 60, "so", "do that")], width=80)

    assert max(map(len, text.splitlines())) <= 80
    assert "note  What" in text
    assert "-> do that" in text
    assert text.endswith("0 ok, 1 to note, 0 bad")


def test_f100_a_name_from_outside_cannot_move_the_terminal() -> None:
    """A cgroup whose name holds an escape sequence is shown as text."""
    nasty = SAMPLE._replace(binds=Binding(4 * GB, "/sys/fs/cgroup/\x1b[2J\n", 1, 2, 2), headroom=3 * GB)
    machine = replace(HEALTHY, sample=nasty, facts=(*FACTS, Fact("oom_group", "/\x1b[2J/memory.oom.group", 1, 1, 0)))

    assert "\x1b" not in as_text(machine, diagnose(machine))
    assert "\\x1b[2J" in as_text(machine, diagnose(machine))


def test_this_machine_is_examined() -> None:
    """The real thing: every judge has something to say, and the JSON holds the numbers in bytes."""
    machine = examine()
    topics = [finding.topic for finding in diagnose(machine)]

    assert {"Kernel numbers", "What binds", "Swap", "Other guards", "Real time", "Locked memory", "Board"} <= set(
        topics
    )
    told = json.loads(as_json(machine, diagnose(machine)))
    assert machine.sample.mem_total == told["sample"]["mem_total"]
    assert topics == [finding["topic"] for finding in told["findings"]]
    assert machine.number("mem_available") > 0


def test_another_guard_is_seen(tmp_path: object) -> None:
    """A process by the name of a known guard is found, with its pid."""
    import os
    import shutil
    from pathlib import Path

    double = Path(str(tmp_path)) / "earlyoom"
    shutil.copy(shutil.which("sleep"), double)
    process = subprocess.Popen([os.fspath(double), "60"])
    try:
        assert f"earlyoom ({process.pid})" in examine().guards
    finally:
        process.kill()
        process.wait()


def memwatch(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-P", "-m", "memwatch.cli", *arguments], capture_output=True, text=True, check=False
    )


def test_the_command_line() -> None:
    """Text for people, JSON for programs, a usage line for a slip, and never a traceback."""
    text = memwatch("doctor")
    assert text.stdout.startswith("memwatch doctor: Linux")
    assert "What binds" in text.stdout
    assert (text.returncode == 1) == (" 0 bad" not in text.stdout)
    assert json.loads(memwatch("doctor", "--json").stdout)["findings"]
    slip = memwatch("docter")
    assert 2 == slip.returncode
    assert "invalid choice: 'docter'" in slip.stderr
    for done in (text, slip, memwatch(), memwatch("doctor", "--what")):
        assert "Traceback" not in done.stderr


def test_a_reader_that_leaves_is_no_error() -> None:
    """`memwatch doctor | head -1` ends quietly."""
    command = f"{sys.executable} -P -m memwatch.cli doctor | head -1"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)

    assert "" == done.stderr
    assert done.stdout.startswith("memwatch doctor:")
