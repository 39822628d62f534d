"""Who a process is, kept as text, and what became of it: of real children, in real namespaces."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fork import in_child
from support.wait import until

from memwatch.identity import Fate, Identity

NUMBERS = st.integers(0, 2**64 - 1)
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make namespaces, mount, or choose a pid")

MINE = "from memwatch.identity import Identity; print(Identity.mine())"


@contextmanager
def sleeper() -> Iterator[int]:
    """The pid of a child that waits; at the end it is killed and waited for."""
    pid = os.fork()
    if not pid:
        signal.pause()
        os._exit(0)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def identity_of(pid: int) -> Identity:
    """Of another process that can be seen from here."""
    with open(f"/proc/{pid}/stat") as file:
        start_time = int(file.read().rpartition(")")[2].split()[19])
    return Identity.mine()._replace(pid=pid, start_time=start_time)


def python(code: str, *command: str) -> str:
    """What *code* prints in a process of its own, which *command* starts."""
    done = subprocess.run([*command, sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stderr
    return done.stdout.strip()


# ------------------------------------------------------------------------------- as text ---


def test_an_identity_is_one_line_that_can_be_read_again() -> None:
    """Short enough for a column of a database, and without anything that would have to be quoted."""
    mine = Identity.mine()

    assert mine == Identity.parse(str(mine))
    assert mine is not Identity.parse(str(mine))
    assert str(mine).isascii()
    assert str(mine).isprintable()
    assert len(str(mine)) < 128


@given(st.text("0123456789abcdef-", max_size=40), st.text("0123456789abcdef-", max_size=40), NUMBERS, NUMBERS, NUMBERS)
def test_whatever_it_holds_comes_back(machine: str, boot: str, namespace: int, pid: int, start_time: int) -> None:
    it = Identity(machine, boot, namespace, pid, start_time)

    assert it == Identity.parse(str(it))


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("4711", id="a-pid"),
        pytest.param("m/b/1/2", id="four-fields"),
        pytest.param("m/b/1/2/3/4", id="six"),
        pytest.param("m/b/1/2/", id="one-is-empty"),
        pytest.param("m/b/1/two/3", id="no-number"),
        pytest.param("m/b/1/-2/3", id="below-0"),
        pytest.param("m/b/1/2.0/3", id="no-whole-number"),
        pytest.param("m/b/1/1_0/3", id="as-python-writes-it"),
        pytest.param("m/b/1/ 2/3", id="a-space"),
        pytest.param("m/b/1/2/3\n", id="a-line-end"),
        pytest.param("m/b/1/2/\u0663", id="digits-of-another-script"),
        pytest.param("m/b/1/2/³", id="what-isdigit-takes-for-one"),
    ],
)
def test_what_is_no_identity_is_refused(text: str) -> None:
    """With what was given, and the rule."""
    with pytest.raises(ValueError, match="need machine/boot/pid namespace/pid/start time, got") as caught:
        Identity.parse(text)

    assert repr(text) in str(caught.value)


def test_a_number_without_end_is_refused() -> None:
    """By int() itself, which would take minutes for it."""
    with pytest.raises(ValueError, match="integer"):
        Identity.parse("m/b/1/2/" + "9" * 100_000)


# --------------------------------------------------------------------------- whose it is ---


def test_it_is_the_process_and_not_the_thread() -> None:
    found = []
    thread = threading.Thread(target=lambda: found.append(Identity.mine()))
    thread.start()
    thread.join()

    assert [Identity.mine()] == found
    assert os.getpid() == Identity.mine().pid
    assert identity_of(os.getpid()) == Identity.mine()


def test_f48_a_forked_child_is_another_one() -> None:
    """It keeps nothing of its parent's; machine, boot and namespace are the same."""
    mine = Identity.mine()
    child = Identity.parse(in_child(Identity.mine))

    assert mine[:3] == child[:3]
    assert mine.pid != child.pid
    assert "Fate.ALIVE" == in_child(mine.fate)
    assert Fate.DEAD is child.fate()


def test_f50_after_exec_it_is_the_same() -> None:
    """The process is the one it was."""
    code = MINE.replace("())", "(), flush=True)")
    before, after = python(
        f"{code}; import os, sys; os.execv(sys.executable, [sys.executable, '-P', '-c', {MINE!r}])"
    ).split()

    assert before == after


# ------------------------------------------------------------------------------- its fate ---


def test_who_runs_is_alive() -> None:
    """Also stopped; only its end is the end."""
    with sleeper() as pid:
        it = identity_of(pid)
        os.kill(pid, signal.SIGSTOP)
        os.waitid(os.P_PID, pid, os.WSTOPPED)

        assert [Fate.ALIVE] * 3 == [it.fate(), Identity.mine().fate(), identity_of(os.getppid()).fate()]


def test_who_has_ended_is_dead() -> None:
    """From the moment on: a zombie holds nothing any more, whether its parent has asked for it or not."""
    pid = os.fork()
    if not pid:
        signal.pause()
        os._exit(0)
    it = identity_of(pid)
    before = it.fate()
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    zombie = it.fate()
    os.waitpid(pid, 0)

    assert [Fate.ALIVE, Fate.DEAD, Fate.DEAD] == [before, zombie, it.fate()]


@root_only
def test_f17_a_pid_that_is_used_again_is_not_taken_for_the_dead() -> None:
    """The kernel gives the pid to a stranger, who is alive; it is not the one that was meant."""
    last = "/proc/sys/kernel/ns_last_pid"
    if not os.access(last, os.W_OK):
        pytest.skip("needs to choose the next pid (CAP_CHECKPOINT_RESTORE, kernel with CONFIG_CHECKPOINT_RESTORE)")
    for _ in range(50):  # somebody else's fork may take the number first
        with sleeper() as first:
            it = identity_of(first)
            # Both must not begin in one clock tick, or nothing could tell them.
            until(lambda it=it: int(in_child(lambda: Identity.mine().start_time)) > it.start_time)
        with open(last, "w") as file:
            file.write(str(first - 1))
        with sleeper() as second:
            if second == first:
                assert [Fate.DEAD, Fate.ALIVE] == [it.fate(), identity_of(second).fate()]
                return
    pytest.fail("the pid was never given again in 50 tries")


@pytest.mark.parametrize(
    ("change", "fate"),
    [
        pytest.param({"start_time": 0}, Fate.DEAD, id="another-process-has-its-pid"),
        pytest.param({"pid": 2**31}, Fate.DEAD, id="no-pid"),
        pytest.param({"pid": 2**64}, Fate.DEAD, id="no-number-of-c"),
        pytest.param({"pid": 0}, Fate.DEAD, id="nor-is-0-whoever-asks"),
        pytest.param({"boot": "0" * 8}, Fate.DEAD, id="f86-the-machine-was-reset"),
        pytest.param({"boot": "0" * 8, "pid_namespace": 1}, Fate.DEAD, id="f86-with-all-its-namespaces"),
        pytest.param({"pid_namespace": 1}, Fate.UNKNOWN, id="f86-another-namespace"),
        pytest.param({"machine": "0" * 16}, Fate.UNKNOWN, id="another-machine"),
        pytest.param({"machine": "0" * 16, "boot": "0" * 8}, Fate.UNKNOWN, id="of-whose-boots-we-know-nothing"),
    ],
)
def test_nobody_is_called_dead_who_cannot_be_seen(change: dict[str, object], fate: Fate) -> None:
    """This process under another name: dead only where it would be looked for in the right place."""
    assert fate is Identity.mine()._replace(**change).fate()  # type: ignore[arg-type]


# ----------------------------------------------------------- where it cannot be looked for ---


@root_only
def test_f86_two_pid_namespaces_do_not_see_each_other() -> None:
    """As containers on one machine: there it is alive, from here it is unknown, and the other way round."""
    code = "import sys; from memwatch.identity import Identity\nprint(Identity.mine(), Identity.mine().fate())\n"
    code += f"print(Identity.parse({str(Identity.mine())!r}).fate())"
    theirs, fate, ours = python(code, "unshare", "--pid", "--fork", "--mount-proc").split()
    there = Identity.parse(theirs)

    assert ("Fate.ALIVE", "Fate.UNKNOWN") == (fate, ours)
    assert Identity.mine()[:2] == there[:2]
    assert 1 == there.pid
    assert Fate.UNKNOWN is there.fate()


@root_only
def test_containers_of_one_image_are_two_machines() -> None:
    """They share /etc/machine-id, or have none; their names differ, and pids of one say nothing to the other."""
    code = f"import socket; socket.sethostname('elsewhere'); {MINE}"
    there = Identity.parse(python(code, "unshare", "--uts"))

    assert Identity.mine().machine != there.machine
    assert Identity.mine().boot == there.boot
    assert Fate.UNKNOWN is there.fate()


@root_only
def test_without_a_machine_id_the_name_counts() -> None:
    """As in an image that has none: two processes of it are on one machine all the same."""
    code = f"import subprocess; subprocess.run(['mount', '--bind', '/dev/null', '/etc/machine-id'], check=True); {MINE}"
    if not os.path.exists("/etc/machine-id"):
        pytest.skip("this machine has no /etc/machine-id itself: the other tests were of that")
    one, other = (Identity.parse(python(code, "unshare", "--mount")) for _ in range(2))

    assert one.machine == other.machine
    assert one.machine != Identity.mine().machine


HIDDEN = """
import os, subprocess
from memwatch.identity import Identity
Identity.mine()  # while modules can be found
subprocess.run(["mount", "-t", "proc", "-o", "hidepid={hidepid}", "proc", "/proc"], check=True)
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
print(Identity.mine().fate(), Identity.parse({identity!r}).fate())
"""


@root_only
@pytest.mark.parametrize(
    ("hidepid", "fate"),
    [
        pytest.param(0, Fate.ALIVE, id="all-can-be-seen"),
        pytest.param(1, Fate.UNKNOWN, id="but-not-read"),
        pytest.param(2, Fate.UNKNOWN, id="not-even-that-they-are-there"),
    ],
)
def test_who_is_hidden_is_not_called_dead(hidepid: int, fate: Fate) -> None:
    """As seen by another user of a machine where /proc shows each only his own."""
    with sleeper() as pid:
        code = HIDDEN.format(hidepid=hidepid, identity=str(identity_of(pid)))

        assert ["Fate.ALIVE", str(fate)] == python(code, "unshare", "--mount").split()
