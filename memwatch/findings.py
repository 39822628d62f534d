"""What the numbers of a machine mean for a training worker: pure, for doctor.py to print."""

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from .model import Binding, Fact, Pressure, Sample, Watermarks, escape
from .units import format_size

# A slot of the board, its header, the brake thread's stack and its own pages.
LOCKED_NEEDED = 2**20


class Grade(StrEnum):
    GOOD = "ok"
    NOTE = "note"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Finding:
    """
    One thing about this machine.

    Attributes:
        topic: What it is about.
        grade: Whether anything should be done.
        says: What was found.
        means: What that means for a training worker.
        do: What to do about it, or empty.
    """

    topic: str
    grade: Grade
    says: str
    means: str
    do: str = ""


@dataclass(frozen=True, slots=True)
class Machine:
    """
    What examine() saw; bytes, and None for what could not be read.

    Attributes:
        blind: Why no sample could be taken at all, or empty.
        facts: The numbers of Sampler.facts().
        guards: Other memory guards that run, "name (pid)".
        realtime: 0, or the errno with which SCHED_RR was refused to a thread.
        locked: The soft limit of locked memory; None: unlimited, or root.
        address_space, data: The soft RLIMIT_AS and RLIMIT_DATA; None: unlimited.
        board: Its path, or its folder where it was not made yet; what is wrong with it is in *board_error*.
        slots: How many slots of it are taken; None: it was not made yet.
    """

    kernel: str
    python: str
    pure: bool
    blind: str = ""
    sample: Sample | None = None
    groups: tuple[Binding, ...] = ()
    cgroup_error: int = 0
    facts: tuple[Fact, ...] = ()
    pressure: Pressure | None = None
    guards: tuple[str, ...] = ()
    realtime: int = 0
    locked: int | None = None
    address_space: int | None = None
    data: int | None = None
    board: str = ""
    board_error: str = ""
    slots: int | None = None
    numbers: dict[str, Fact] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "numbers", {fact.name: fact for fact in self.facts if not fact.group})

    def number(self, name: str) -> int | None:
        """The machine's fact of that name."""
        fact = self.numbers.get(name)
        return None if fact is None else fact.value

    def of_groups(self, name: str) -> list[tuple[str, int]]:
        """A fact as each memory cgroup has it, nearest first: path and value."""
        named = (fact for fact in self.facts if fact.group and fact.name == name)
        return [(os.path.dirname(fact.path), fact.value) for fact in named if fact.value is not None]


def diagnose(machine: Machine) -> list[Finding]:
    """What was found, in the order in which a person would ask."""
    return [finding for judge in _JUDGES for finding in judge(machine)]


# Of ZFS, of Linux 4.16, and of kernels with swap accounting: nothing is amiss without them.
_OPTIONAL = {"zfs_arc", "hugetlb", "memsw_max", "swap_max"}


def _numbers(machine: Machine) -> Iterator[Finding]:
    topic = "Kernel numbers"
    sample = machine.sample
    if sample is None:
        yield Finding(
            topic,
            Grade.BAD,
            f"nothing can be read: {machine.blind}",
            "memwatch is blind here and will not start.",
            "Mount /proc in this container (with meminfo in it).",
        )
        return
    if machine.pure:
        yield Finding(
            topic,
            Grade.NOTE,
            "read through psutil: MEMWATCH_PURE is set, or this is not Linux",
            "No cgroup limit is seen, and no native thread can watch.",
            "On Linux, unset MEMWATCH_PURE.",
        )
        return
    if sample.mem_available is None:
        yield Finding(
            topic,
            Grade.BAD,
            "MemAvailable is missing: " + (", ".join(map(str, sample.errors)) or "no /proc/meminfo"),
            "Only cgroup limits are watched; that the machine itself runs short is not seen.",
            "Mount the whole of /proc (not with subset=pid).",
        )
    elif sample.estimated:
        yield Finding(
            topic,
            Grade.NOTE,
            "this kernel tells no MemAvailable; it is estimated from free memory and cache",
            "Headroom may be some hundred MB off.",
            "Set the brake higher than the default by as much.",
        )
    else:
        missing = [
            f"{escape(fact.path)} ({os.strerror(fact.errno)})"
            for fact in machine.facts
            if fact.errno and fact.name not in _OPTIONAL
        ]
        known = "MemAvailable, RSS" + (", PSS" if machine.number("pss") is not None else "")
        known += ", pressure" if machine.pressure else ""
        says = f"{known}: read"
        yield Finding(
            topic,
            Grade.GOOD,
            says,
            "memwatch sees what it needs." + (f" Not here: {'; '.join(missing)}." if missing else ""),
        )


_CGROUP_ERRORS = {
    errno.ENOENT: ("no cgroup with a memory controller is mounted", "If this is a container with a limit, memwatch "
                   "cannot see it.", "Mount /sys/fs/cgroup in the container (read-only is enough)."),
    errno.EXDEV: ("this process lies outside the cgroups that are visible here", "A limit on it cannot be seen.",
                  "Mount /sys/fs/cgroup from inside the container's own cgroup namespace."),
    errno.EACCES: ("a cgroup's limit may not be read", "That limit takes no part in headroom.",
                   "Give this user read access to the memory.* files of its cgroup."),
    errno.ENODEV: ("the process's own cgroup has no folder here", "Only the limits of the cgroups above it are seen.",
                   "Mount /sys/fs/cgroup from inside the container's own cgroup namespace."),
    errno.EOPNOTSUPP: ("a cgroup tells its limit but not its usage", "That limit takes no part in headroom.", ""),
    errno.E2BIG: ("more than 32 cgroups are nested", "Limits of the outermost are not seen.", ""),
}  # fmt: skip


def _binding(machine: Machine) -> Iterator[Finding]:
    topic = "What binds"
    if machine.sample is None or machine.sample.binds is None:
        return
    binds, headroom = machine.sample.binds, machine.sample.headroom
    assert binds.limit is not None  # what binds has a limit
    limited = [group for group in machine.groups if group.limit is not None]
    marks = Watermarks.for_limit(max(binds.limit, 2**20))  # 0 is a legal limit, and has none
    says = f"{binds}, with {format_size(headroom)} of headroom"
    if binds.path is None and not machine.pure:
        says += "; no cgroup sets a limit" if not limited else f"; {len(limited)} cgroup limit(s) are farther away"
    brake, warn = format_size(marks.brake), format_size(marks.warn)
    means = f"The default watermarks here: brake below {brake}, warn below {warn}."
    short = headroom is not None and headroom < marks.brake
    yield Finding(
        topic,
        Grade.BAD if short else Grade.GOOD,
        says,
        means,
        "Less than that is left now: free memory before training, or set a lower brake." if short else "",
    )
    if machine.cgroup_error and not machine.pure:
        says, means, do = _CGROUP_ERRORS.get(
            machine.cgroup_error,
            (
                f"cgroups cannot be read: {os.strerror(machine.cgroup_error)}",
                "Their limits are not seen.",
                "",
            ),
        )
        yield Finding("Cgroups", Grade.NOTE, says, means, do)


def _swap(machine: Machine) -> Iterator[Finding]:
    sample = machine.sample
    if sample is None or sample.swap_total is None:
        return
    swappiness = machine.number("swappiness")
    if not sample.swap_total:
        yield Finding(
            "Swap", Grade.GOOD, "none", "When memory is gone the kernel kills at once: a brake must act before that."
        )
    else:
        yield Finding(
            "Swap",
            Grade.NOTE,
            f"{format_size(sample.swap_free)} of {format_size(sample.swap_total)} free"
            + ("" if swappiness is None else f", swappiness {swappiness}"),
            "Before anything is killed the machine swaps, and may seem to hang. memwatch does not count swap as "
            "headroom, so that its watermarks are met before that.",
            "Nothing, unless you want trials to use swap.",
        )
    for path, limit in machine.of_groups("swap_max"):
        if sample.swap_total and limit == 0:
            yield Finding(
                "Swap",
                Grade.GOOD,
                f"forbidden in cgroup {escape(path)}",
                "Its limit is final, as without swap.",
            )


def _overcommit(machine: Machine) -> Iterator[Finding]:
    topic, mode = "Overcommit", machine.number("overcommit")
    limit, used = machine.number("commit_limit"), machine.number("committed")
    if mode == 2:
        left = (
            ""
            if limit is None or used is None
            else f", {format_size(max(limit - used, 0))} left of {format_size(limit)}"
        )
        yield Finding(
            topic,
            Grade.NOTE,
            f"strict (vm.overcommit_memory = 2){left}",
            "Allocations fail with MemoryError before memory is gone; what reserves much (CUDA, Java) fails early.",
            "Set vm.overcommit_memory = 0 unless you chose this.",
        )
    elif mode == 1:
        yield Finding(
            topic,
            Grade.NOTE,
            "always (vm.overcommit_memory = 1)",
            "No allocation ever fails; the kernel kills instead. The brake is the only thing in between.",
        )
    elif mode == 0:
        yield Finding(
            topic,
            Grade.GOOD,
            "heuristic (vm.overcommit_memory = 0, the default)",
            "Allocations seldom fail; the kernel kills when memory is really gone.",
        )
    for name, limit in (("RLIMIT_AS", machine.address_space), ("RLIMIT_DATA", machine.data)):
        if limit is not None:
            yield Finding(
                topic,
                Grade.NOTE,
                f"{name} is {format_size(limit)}",
                "Past it allocations fail with MemoryError, whatever headroom there is.",
                "ulimit -v / -d unlimited",
            )


def _oom_killer(machine: Machine) -> Iterator[Finding]:
    topic, adj = "OOM killer", machine.number("oom_score_adj")
    if adj is not None:
        if adj <= -1000:
            yield Finding(
                topic,
                Grade.NOTE,
                f"never takes this process (oom_score_adj {adj})",
                "When memory is gone it kills others: your desktop, or a database.",
                "Start workers with oom_score_adj 500 or more (choom -n 500 -- ...).",
            )
        else:
            yield Finding(
                topic,
                Grade.GOOD,
                f"takes the largest process first (oom_score_adj {adj})",
                "A worker is usually that; raised, it is one surely.",
            )
    if machine.number("panic_on_oom"):
        yield Finding(
            topic,
            Grade.BAD,
            "the kernel panics when memory is gone (vm.panic_on_oom)",
            "The whole machine goes down instead of one process.",
            "sysctl vm.panic_on_oom=0",
        )
    if machine.number("oom_kill_allocating_task"):
        yield Finding(
            topic,
            Grade.NOTE,
            "it kills who asks last (vm.oom_kill_allocating_task)",
            "That may be anybody, whatever their size.",
            "sysctl vm.oom_kill_allocating_task=0",
        )
    for path, value in machine.of_groups("oom_group"):
        if value:
            yield Finding(
                topic,
                Grade.NOTE,
                f"kills every process of cgroup {escape(path)} together (memory.oom.group)",
                "One worker too large takes the others and the watchdog with it, as in Kubernetes.",
                "Keep the brake on; there is no second line here.",
            )
    for path, value in machine.of_groups("oom_kill_disable"):
        if value:
            yield Finding(
                topic,
                Grade.BAD,
                f"is off in cgroup {escape(path)} (memory.oom_control)",
                "At the limit processes hang for ever instead of being killed.",
                f"echo 0 > {escape(path)}/memory.oom_control",
            )
    killed = machine.of_groups("oom_kill")
    if killed and killed[0][1]:
        path, times = killed[0]
        yield Finding(
            topic,
            Grade.NOTE,
            f"has killed {times} process(es) in cgroup {escape(path)} since it was made",
            "This limit has been met before.",
            "Fewer workers, or smaller batches and buffers.",
        )


def _guards(machine: Machine) -> Iterator[Finding]:
    if machine.guards:
        yield Finding(
            "Other guards",
            Grade.NOTE,
            ", ".join(map(escape, machine.guards)),
            "It may kill a worker before memwatch stops the trial.",
            "Set its threshold below the brake, or keep it off the workers (earlyoom --avoid python).",
        )
    else:
        yield Finding("Other guards", Grade.GOOD, "none running", "Nobody kills workers before memwatch does.")


def _elsewhere(machine: Machine) -> Iterator[Finding]:
    """Memory that is neither free nor any process's, or that this process may not have."""
    pool = machine.number("hugetlb")
    if pool:
        yield Finding(
            "Huge pages",
            Grade.NOTE,
            f"{format_size(pool)} set aside for hugetlbfs",
            "They are no part of MemAvailable, and no process's RSS shows them.",
            "sysctl vm.nr_hugepages=0 unless you use them.",
        )
    arc = machine.number("zfs_arc")
    if arc:
        yield Finding(
            "ZFS",
            Grade.NOTE,
            f"its cache (ARC) holds {format_size(arc)}, which MemAvailable does not count",
            "Headroom reads lower than it is: a trial may be stopped while the cache could still shrink.",
            "Bound the cache with zfs_arc_max, or set a lower brake.",
        )
    nodes, allowed = machine.number("numa_nodes"), machine.number("numa_allowed")
    if nodes and allowed and allowed < nodes:
        yield Finding(
            "NUMA",
            Grade.NOTE,
            f"this process may use {allowed} of {nodes} NUMA nodes",
            "MemAvailable is of all of them: its own may be full while headroom looks plentiful.",
            "Set a higher brake, or lift the binding (cpuset.mems, numactl --membind).",
        )


def _thread(machine: Machine) -> Iterator[Finding]:
    if machine.pure:
        return
    if machine.realtime:
        yield Finding(
            "Real time",
            Grade.NOTE,
            f"SCHED_RR is refused ({os.strerror(machine.realtime)})",
            "With all cores busy a look may come some milliseconds late.",
            "ulimit -r 1, LimitRTPRIO=1 in a unit, or --ulimit rtprio=1 for docker.",
        )
    else:
        yield Finding("Real time", Grade.GOOD, "SCHED_RR is to be had", "Looks come on time though all cores are busy.")
    if machine.locked is not None and machine.locked < LOCKED_NEEDED:
        yield Finding(
            "Locked memory",
            Grade.NOTE,
            f"only {format_size(machine.locked)} may be locked (RLIMIT_MEMLOCK)",
            "While the machine swaps, a look may have to wait for the disk.",
            "ulimit -l 8192, LimitMEMLOCK=8M in a unit, or --ulimit memlock=8388608 for docker.",
        )
    else:
        limit = "no limit" if machine.locked is None else f"limit {format_size(machine.locked)}"
        yield Finding(
            "Locked memory",
            Grade.GOOD,
            f"to be had ({limit}; 1 MB is needed)",
            "Looks never wait for the disk.",
        )


def _board(machine: Machine) -> Iterator[Finding]:
    if machine.pure:
        return
    if machine.board_error:
        yield Finding(
            "Board",
            Grade.NOTE,
            machine.board_error,
            "Workers are braked all the same, but do not know of each other.",
            "As it says; then run `memwatch doctor` again.",
        )
    elif machine.slots is None:
        says = f"{escape(machine.board)}: not made yet"
        yield Finding("Board", Grade.GOOD, says, "The first worker makes it; there is room.")
    elif machine.slots >= 64:
        yield Finding(
            "Board",
            Grade.NOTE,
            f"{escape(machine.board)}: all 64 slots are taken by living workers",
            "Further workers are braked all the same, but take no turns: two may brake where one would do.",
            "Set MEMWATCH_BOARD to another folder for some, say those that share a container.",
        )
    else:
        says = f"{escape(machine.board)}: {machine.slots} of 64 slots taken"
        yield Finding("Board", Grade.GOOD, says, "Workers find each other.")


_JUDGES = (_numbers, _binding, _swap, _overcommit, _oom_killer, _guards, _elsewhere, _thread, _board)
