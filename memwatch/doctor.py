"""What this machine gives memwatch, in plain words: `memwatch doctor`. What it means is findings.py's to say."""

import errno
import os
import platform
import sys
from typing import Any

from .errors import BoardError, MemwatchError
from .findings import Finding, Grade, Machine, diagnose
from .sampler import PURE, Sampler

# What kills by its own lights before the kernel does; each is the name of its process.
GUARDS = ("systemd-oomd", "earlyoom", "nohang", "oomd", "bustd", "low-memory-monitor")


def examine() -> Machine:
    """Looks at this machine. Takes no more than a moment, and changes nothing."""
    seen: dict[str, Any] = {}
    try:
        with Sampler(strict=False) as sampler:
            seen.update(
                sample=sampler.sample(),
                groups=sampler.groups,
                cgroup_error=sampler.cgroup_error,
                facts=tuple(sampler.facts()),
                pressure=sampler.pressure(),
            )
    except MemwatchError as error:
        seen["blind"] = str(error)
    if not PURE:
        seen.update(_look_at_board())
    return Machine(
        kernel=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        pure=PURE,
        guards=_running_guards(),
        realtime=_try_realtime(),
        locked=None if _is_root() else _soft("RLIMIT_MEMLOCK"),
        address_space=_soft("RLIMIT_AS"),
        data=_soft("RLIMIT_DATA"),
        **seen,
    )


def _is_root() -> bool:
    # Whoever has CAP_IPC_LOCK may lock what he likes; that is root, for all that Python can tell.
    return os.geteuid() == 0


def _soft(which: str) -> int | None:
    """The soft limit of that name; None: none, also where the system has no such limit."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    soft, _hard = resource.getrlimit(getattr(resource, which))
    return None if soft == resource.RLIM_INFINITY else soft


def _running_guards() -> tuple[str, ...]:
    import psutil

    found = []
    for process in psutil.process_iter(["name"]):
        name = process.info["name"]
        if name in GUARDS:
            found.append(f"{name} ({process.pid})")
    return tuple(found)


def _try_realtime() -> int:
    """0, or the errno with which a thread of this process is refused SCHED_RR."""
    if not hasattr(os, "sched_setscheduler"):
        return errno.ENOSYS
    import threading

    answer = []

    def ask() -> None:
        try:
            # 0 is the calling thread, which ends here: nothing else changes.
            os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
        except OSError as error:
            answer.append(error.errno or errno.EPERM)
        else:
            answer.append(0)

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    return answer[0]


def _look_at_board() -> dict[str, Any]:
    from .board import Board, default_folder

    folder = os.path.abspath(default_folder())
    if not os.path.lexists(os.path.join(folder, "board")):
        return {"board": folder, "slots": None, **_room_for_board(folder)}
    try:
        with Board.open(folder) as board:
            return {"board": board.path, "slots": sum(1 for _ in board.slots())}
    except BoardError as error:
        return {"board_error": str(error)}


def _room_for_board(folder: str) -> dict[str, str]:
    """Why the first worker could not make a board there, if so; to look does not make one."""
    from .slot import layout

    above = os.path.dirname(folder)
    try:
        status = os.statvfs(above)
    except OSError as error:
        return {"board_error": f"{folder} cannot be made: {error.strerror}. Set MEMWATCH_BOARD to a folder in a tmpfs"}
    if status.f_bavail * status.f_frsize < layout.size:
        return {"board_error": f"{above} has no room for the board, which takes {layout.size} bytes"}
    if not os.access(above, os.W_OK | os.X_OK):
        return {"board_error": f"{above} may not be written by this user: set MEMWATCH_BOARD to a folder that may"}
    return {}


# ---------------------------------------------------------------- speaking ---


def as_text(machine: Machine, findings: list[Finding], width: int = 100) -> str:
    """The findings for a person: what, what it means, and what to do."""
    import textwrap

    lines = [f"memwatch doctor: {machine.kernel}, Python {machine.python}", ""]
    topic_width = max((len(finding.topic) for finding in findings), default=0)
    indent = " " * (6 + topic_width + 2)
    previous = ""
    for finding in findings:
        topic = "" if finding.topic == previous else finding.topic
        previous = finding.topic
        lead = f"{finding.grade.value:<5} {topic:<{topic_width}}  "
        lines += textwrap.wrap(finding.says, width, initial_indent=lead, subsequent_indent=indent)
        lines += textwrap.wrap(finding.means, width, initial_indent=indent, subsequent_indent=indent)
        if finding.do:
            lines += textwrap.wrap(finding.do, width, initial_indent=indent + "-> ", subsequent_indent=indent + "   ")
    count = {grade: sum(finding.grade is grade for finding in findings) for grade in Grade}
    lines += ["", f"{count[Grade.GOOD]} ok, {count[Grade.NOTE]} to note, {count[Grade.BAD]} bad"]
    return "\n".join(lines)


def as_json(machine: Machine, findings: list[Finding]) -> str:
    """The same for programs, with every number that was read, in bytes."""
    import dataclasses
    import json

    sample = machine.sample
    numbers = [{**fact._asdict(), "error": os.strerror(fact.errno) if fact.errno else None} for fact in machine.facts]
    return json.dumps(
        {
            "kernel": machine.kernel,
            "python": machine.python,
            "sample": None
            if sample is None
            else {
                **sample._asdict(),
                "binds": sample.binds and sample.binds._asdict(),
                "errors": [str(failure) for failure in sample.errors],
            },
            "groups": [group._asdict() for group in machine.groups],
            "pressure": machine.pressure and machine.pressure._asdict(),
            "facts": numbers,
            "findings": [dataclasses.asdict(finding) for finding in findings],
        },
        indent=2,
    )


def main(as_json_: bool) -> int:
    """Prints the findings; 1 when something is bad."""
    machine = examine()
    findings = diagnose(machine)
    print(as_json(machine, findings) if as_json_ else as_text(machine, findings))
    sys.stdout.flush()
    return any(finding.grade is Grade.BAD for finding in findings)
