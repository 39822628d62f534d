"""
Whole lives of processes that use the brake: how they fork, exec, exit, and what their threads and loops do.

    python -m support.lives NAME FOLDER [WORD ...]

Each function marked @life is one. It says what came of it on standard output; test_brake_life.py knows what it must
say. The machine it watches is a folder, so that it runs short of memory at the very moment it should.
"""

import asyncio
import atexit
import concurrent.futures
import contextlib
import ctypes
import gc
import hashlib
import importlib
import itertools
import logging
import mmap
import multiprocessing
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import memwatch
from memwatch import config, running
from memwatch._native import ffi, lib
from memwatch.board import Board
from memwatch.slot import BrakePhase
from memwatch.testing import ProcTree
from support.fork import in_child
from support.wait import until

MB = 10**6
HIGH, LOW, FLOOR = 5000 * MB, 900 * MB, 100 * MB
SETTINGS: dict[str, Any] = {"brake": "1GB", "resume": "1.2GB", "floor": FLOOR, "hold": "5ms", "grace": 30}
SETTINGS |= {"max_brakes": 10**6}

# A child that hangs ends by this.
PATIENCE = 30

RIGHT = 42  # what a trial that nobody stops returns

LIVES: dict[str, Callable[..., None]] = {}


def life(function: Callable[..., None]) -> Callable[..., None]:
    LIVES[function.__name__] = function
    return function


def say(line: object) -> None:
    print(line, flush=True)


class Machine:
    """A machine in a folder, which this process takes for the real one."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.tree = ProcTree(self.folder, pid=os.getpid())

    def start(self, **settings: Any) -> None:
        self.high()
        memwatch.start(root=self.tree.root, **SETTINGS | settings)

    def high(self) -> None:
        self.tree.machine(available=HIGH // 1024 * 1024)

    def low(self, available: int = LOW) -> None:
        self.tree.machine(available=available // 1024 * 1024)

    def spin(self) -> None:
        """Runs short of memory, and goes on for ever."""
        self.low()
        while True:
            pass

    def brake(self, work: Callable[[], Any] | None = None, label: str = "Trial") -> str:
        """What becomes of a trial that does *work*: "braked", or what it returned or raised."""
        try:
            return f"returned {memwatch.guard(work or self.spin, label=label)()}"
        except memwatch.EmergencyBrake:
            return "braked"
        except Exception as error:
            return repr(error)
        finally:
            self.high()


def word(name: str) -> int:
    """One of the words that the native thread writes: word("TOLD")."""
    return int(running.current.words[getattr(lib, f"MW_WORD_{name}")])


def until_word(name: str, condition: Callable[[int], bool] = bool) -> int:
    until(lambda: condition(word(name)), seconds=PATIENCE, what=f"MW_WORD_{name}")
    return word(name)


def tasks() -> list[str]:
    """What the kernel calls the threads of this process."""
    return [Path("/proc/self/task", task, "comm").read_text().strip() for task in os.listdir("/proc/self/task")]


def descriptors() -> dict[int, str]:
    """Open ones, and what they are; not the one that this takes."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return found


def data_limit(which: int = 0) -> str:
    limit = resource.getrlimit(resource.RLIMIT_DATA)[which]
    return "unlimited" if limit == resource.RLIM_INFINITY else "drawn in"


# ------------------------------------------------------------------ what a child has ---

# In a forked child: the words as its parent saw them.
parents_words: memoryview | None = None


def remember_words() -> None:
    global parents_words  # noqa: PLW0603
    parents_words = running.current.words


def dirt() -> list[str]:
    """What a child still has of its parent's brake."""
    found = []
    if "memwatch" in tasks():
        found.append(f"threads: {tasks()}")
    if any(it.name == "memwatch" for it in threading.enumerate()):
        found.append(f"Python threads: {threading.enumerate()}")
    if running.current is not None:
        found.append("a brake that does not run")
    if parents_words is not None and any(parents_words):
        found.append(f"words: {[at for at, it in enumerate(parents_words) if it]}")
    # All of this is for trials, and there is none.
    memwatch.check()
    memwatch.label("split 1/1")
    with memwatch.shield():
        memwatch.check()
    os.kill(os.getpid(), signal.SIGURG)
    return found


def childhood(folder: str) -> list[str]:
    """All that a child does: it looks at what it has, and runs trials of its own."""
    global parents_words  # noqa: PLW0603
    signal.alarm(PATIENCE)
    said = dirt() or ["clean"]
    parents_words = None  # from here on they are its own
    # Started by itself, on the real machine: with what was free a moment ago, this trial goes through.
    os.environ["MEMWATCH_BRAKE"] = "4MiB"
    said.append(f"guard: {memwatch.guard(lambda: RIGHT)()}")
    machine = Machine(Path(folder) / str(os.getpid()))
    machine.start()
    said.append(f"own brake: {machine.brake()}")
    memwatch.stop()
    said += dirt()
    signal.alarm(0)
    return said


def _to_queue(folder: str, queue: Any) -> None:
    queue.put(childhood(folder))


def _by_fork(folder: str) -> list[str]:
    return [in_child(lambda: childhood(folder))]


def _by_fork_of_a_thread(folder: str) -> list[str]:
    said: list[str] = []
    thread = threading.Thread(target=lambda: said.extend(_by_fork(folder)))
    thread.start()
    thread.join()
    return said


def _by_process(method: str, folder: str) -> list[str]:
    context = multiprocessing.get_context(method)
    queue = context.SimpleQueue()
    process = context.Process(target=_to_queue, args=(folder, queue))
    process.start()
    said = queue.get()
    process.join()
    return [said]


def _by_process_of_a_thread(folder: str) -> list[str]:
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(_by_process, "fork", folder).result()


def _by_pool(folder: str) -> list[str]:
    with multiprocessing.get_context("fork").Pool(2) as pool:
        return pool.map(childhood, [folder] * 2, chunksize=1)


def _by_executor(folder: str) -> list[str]:
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as pool:
        return list(pool.map(childhood, [folder] * 2))


class _Childhoods:
    """A torch data set of them."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __len__(self) -> int:
        return 2

    def __getitem__(self, _index: int) -> str:
        return str(childhood(self.folder))


def _by_data_loader(folder: str) -> list[str]:
    from torch.utils.data import DataLoader

    return [batch[0] for batch in DataLoader(_Childhoods(folder), num_workers=2)]


def _by_daemonizing(folder: str) -> list[str]:
    """fork, setsid, fork: what daemons do at their start, here after memwatch's."""
    read, write = os.pipe()
    if not os.fork():
        os.setsid()
        if os.fork():
            os._exit(0)
        os.write(write, str(childhood(folder)).encode())
        os._exit(0)
    os.close(write)
    os.wait()
    with os.fdopen(read) as answer:
        return [answer.read()]


WAYS = {
    "fork": _by_fork,
    "fork-of-a-thread": _by_fork_of_a_thread,
    "multiprocessing-fork": lambda folder: _by_process("fork", folder),
    "multiprocessing-forkserver": lambda folder: _by_process("forkserver", folder),
    "multiprocessing-spawn": lambda folder: _by_process("spawn", folder),
    "multiprocessing-fork-of-a-thread": _by_process_of_a_thread,
    "Pool": _by_pool,
    "ProcessPoolExecutor": _by_executor,
    "DataLoader": _by_data_loader,
    "daemonizing": _by_daemonizing,
}


@life
def children(folder: str, way: str, inside: str) -> None:
    """Has children, in a trial or out of it; its own brake goes on."""
    machine = Machine(folder)
    machine.start()
    remember_words()
    slot = running.current.slot

    def work() -> tuple[list[str], str]:
        return WAYS[way](folder), slot.work().label

    said, at = memwatch.guard(work, label="Trial #1")() if inside == "inside" else work()
    for each in said:
        say(f"child: {each}")
    say(f"slot: {slot.place.is_held()} {at}")
    say(f"parent: {machine.brake()}")
    # Whoever claimed a slot has given it up, so that ours is the only one.
    with Board.open() as board:
        say(f"slots: {[it.owner.pid == os.getpid() for it in board.slots()]}")


@life
def many_forks(folder: str, where: str, count: str) -> None:  # noqa: PLR0915
    """Forks as fast as it can, while memory goes up and down, and trials are held and told."""
    machine = Machine(folder)
    machine.start(hold="2ms")
    remember_words()
    over = threading.Event()
    left = int(count)
    log = logging.getLogger("memwatch.test")

    def up_and_down() -> None:
        dice = random.Random(1)
        while not over.is_set():
            machine.low()
            over.wait(dice.uniform(0.001, 0.02))
            machine.high()
            over.wait(dice.uniform(0.001, 0.01))

    def child() -> None:
        # What hangs if a lock was held by a thread that is no longer there; then the alarm ends it.
        signal.alarm(PATIENCE)
        if dirt():
            os.write(2, f"{dirt()}\n".encode())
            os._exit(1)
        log.debug("alive")
        thread = threading.Thread(target=bytearray, args=(MB,))
        thread.start()
        thread.join()
        os._exit(0)

    def goes_on() -> bool:
        return left > 0 or word("BRAKES") < 10

    def fork_on() -> None:
        nonlocal left
        while goes_on():
            left -= 1
            if not os.fork():
                try:
                    child()
                finally:
                    os._exit(2)

    def go() -> None:
        while goes_on():
            with contextlib.suppress(memwatch.EmergencyBrake):
                memwatch.guard(fork_on)()

    logging.disable(logging.CRITICAL)
    mover = threading.Thread(target=up_and_down)
    mover.start()
    if where == "thread":
        thread = threading.Thread(target=go)
        thread.start()
        thread.join()
    else:
        go()
    over.set()
    mover.join()
    machine.high()
    # The number of a child may be lost in a brake; the child is not.
    statuses = []
    with contextlib.suppress(ChildProcessError):
        while True:
            statuses.append(os.waitstatus_to_exitcode(os.wait()[1]))
    say(f"enough children: {len(statuses) > int(count) // 2}, failed: {[it for it in statuses if it]}")
    say(f"parent: {machine.brake()}")


# ---------------------------------------------------------------------------- exec ---

# What an exec'd program sees of its parent's brake. It prints by itself: it knows nothing of memwatch.
STRANGER = """
import os, resource, sys, time
fds = sorted(int(it) for it in os.listdir("/proc/self/fd"))[:-1]
tasks = os.listdir("/proc/self/task")
deadline = time.monotonic() + float(sys.argv[1])
while (limit := resource.getrlimit(resource.RLIMIT_DATA)[0]) >= 0 and time.monotonic() < deadline:
    time.sleep(0.01)
print(f"fds {fds}, threads {len(tasks)}, data {'unlimited' if limit < 0 else 'drawn in'}", flush=True)
"""


def stranger(patience: float = 0) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", STRANGER, str(patience)]


def spawned(patience: float = 0) -> str:
    """What a stranger started with posix_spawn(), which closes nothing for it, prints."""
    read, write = os.pipe()
    actions = [(os.POSIX_SPAWN_DUP2, write, 1)]
    pid = os.posix_spawn(sys.executable, stranger(patience), os.environ, file_actions=actions)
    os.close(write)
    with os.fdopen(read) as answer:
        said = answer.read()
    os.waitpid(pid, 0)
    return said.strip()


def run_stranger(patience: float = 0) -> str:
    done = subprocess.run(stranger(patience), stdout=subprocess.PIPE, text=True, check=True, close_fds=False)
    return done.stdout.strip()


@life
def strangers(folder: str) -> None:
    """Programs that it starts, and the one it becomes: exec leaves them nothing of the brake."""
    say(run_stranger())
    machine = Machine(folder)
    machine.start()
    say(machine.brake())
    say(run_stranger())
    say(spawned())
    os.execv(sys.executable, stranger())


@contextlib.contextmanager
def squeezed(machine: Machine) -> Iterator[None]:
    """Inside, a trial of another thread is told and sits in a lock, and this process's data is limited."""
    over = threading.Lock()
    over.acquire()

    def wait() -> None:
        machine.low()
        over.acquire()

    machine.start(hold="off", squeeze="20ms")
    thread = threading.Thread(target=machine.brake, args=(wait,))
    thread.start()
    until(lambda: data_limit() == "drawn in", what="the squeeze")
    try:
        yield
    finally:
        over.release()
        thread.join()


@life
def squeezed_children(folder: str) -> None:
    """Children of a process whose allocations are made to fail: theirs are not, at once or when it ends."""
    machine = Machine(folder)
    with squeezed(machine):
        say(f"fork: {in_child(data_limit)}")
        # They have inherited the limit, and nothing ran in them that could have lifted it.
        process = subprocess.Popen(stranger(PATIENCE), stdout=subprocess.PIPE, text=True)
        read, write = os.pipe()
        actions = [(os.POSIX_SPAWN_DUP2, write, 1)]
        pid = os.posix_spawn(sys.executable, stranger(PATIENCE), os.environ, file_actions=actions)
        os.close(write)
    say(f"parent: {data_limit()}")
    say(f"subprocess: {process.communicate()[0].strip()}")
    with os.fdopen(read) as answer:
        say(f"posix_spawn: {answer.read().strip()}")
    os.waitpid(pid, 0)
    say(f"hard: {data_limit(1)}")


@life
def again_after_exec(folder: str, generation: str = "1") -> None:
    """Becomes itself, which has the same pid and start time: one worker, one slot, a brake that works."""
    machine = Machine(folder)
    machine.start()
    say(machine.brake())
    with Board.open() as board:
        say(f"slots: {[it.owner.pid == os.getpid() for it in board.slots()]}")
    if generation == "1":
        os.execv(sys.executable, [sys.executable, "-m", "support.lives", "again_after_exec", folder, "2"])
    memwatch.stop()
    with Board.open() as board:
        say(f"slots: {len(list(board.slots()))}")


# ----------------------------------------------------------------------------- exits ---


@life
def exits_in_a_trial(_folder: str) -> None:
    memwatch.guard(sys.exit)(3)


@life
def trials_in_atexit(folder: str) -> None:
    """Callbacks registered before the brake was started run after it was stopped, and the others before."""
    atexit.register(lambda: say(f"after the brake: {memwatch.guard(lambda: RIGHT)()}"))
    machine = Machine(folder)
    machine.start()
    atexit.register(lambda: say(f"before: {machine.brake()}"))
    atexit.register(sys.exit, 3)  # which Python says it ignores, and does
    say(f"now: {machine.brake(lambda: RIGHT)}")


def in_daemon(work: Callable[[], Any]) -> None:
    threading.Thread(target=work, daemon=True).start()


@life
def leaves_a_trial_behind(folder: str, state: str) -> None:
    """Ends while a daemon thread is in a trial, which is at work, held, told, or being stopped."""
    machine = Machine(folder)
    machine.start(hold=1 if state == "held" else 0)

    def work() -> None:
        if state in ("told", "held"):
            machine.low()
        if state == "told":
            time.sleep(PATIENCE)
        if state == "raising":
            machine.low()
        while True:
            with contextlib.suppress(BaseException):
                sum(range(1000))

    in_daemon(lambda: machine.brake(work))
    until(lambda: running.current.trials, what="a trial")
    if state == "held":
        until_word("HELD_NS")
    elif state in ("told", "raising"):
        until_word("TOLD")


@life
def outlives_its_main_thread(folder: str) -> None:
    """Ends while another thread is in a trial, which Python waits for: it is braked all the same."""
    machine = Machine(folder)
    machine.start()
    main = threading.main_thread()

    def work() -> None:
        # From here on the interpreter waits for us.
        until(lambda: not main.is_alive(), what="the end of the main thread")
        machine.spin()

    threading.Thread(target=lambda: say(machine.brake(work))).start()


@life
def exits_at_once(folder: str) -> None:
    """os._exit() in a trial that is told to end."""
    machine = Machine(folder)
    machine.start(hold=0)

    def work() -> None:
        with memwatch.shield():
            machine.low()
            until_word("TOLD")
            os._exit(4)

    machine.brake(work)


@life
def raises(folder: str) -> None:
    """An error of its own leaves the trial, and the process."""

    def work() -> None:
        raise ValueError("of its own")

    machine = Machine(folder)
    machine.start()
    memwatch.guard(work)()


@life
def is_braked_for_good(folder: str) -> None:
    """A brake that nobody catches."""
    machine = Machine(folder)
    machine.start()
    memwatch.guard(machine.spin)()


@life
def is_terminated(folder: str, state: str) -> None:
    """By SIGTERM, in a trial that is at work, or held for as long as can be set."""
    wanted = {"at-work": BrakePhase.WATCHING, "held": BrakePhase.HOLDING}[state]
    worker = os.getpid()

    def is_wanted() -> bool:
        with contextlib.suppress(memwatch.BoardError), Board.open() as board:
            seen = [(it.work(), it.live()) for it in board.slots()]
            return any(work and live and work.label and live.phase is wanted for work, live in seen)
        return False

    if not os.fork():
        # Of another process: this one's threads cannot run while it is held.
        try:
            until(is_wanted, seconds=PATIENCE, what=f"a trial that is {state}")
            os.kill(worker, signal.SIGTERM)
        finally:
            os._exit(0)
    machine = Machine(folder)
    machine.start(hold=10)

    def work() -> None:
        if state == "held":
            machine.low()
        while True:
            pass

    memwatch.guard(work)()


@life
def is_shot_at(folder: str) -> None:
    """The brake's own signal, from a stranger, all the time until it is gone."""
    shoot = "import os, sys\nwhile True: os.kill(int(sys.argv[1]), 23)"
    subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", shoot, str(os.getpid())],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    machine = Machine(folder)
    machine.start()
    say(machine.brake())


@life
def trial_in_a_destructor(folder: str) -> None:
    """An object that lives until the interpreter takes its module down runs a trial then."""
    machine = Machine(folder)
    machine.start()

    guarded = memwatch.guard(lambda: RIGHT)

    class Last:
        # Names of modules are gone by then.
        def __del__(self, run: Callable[[], int] = guarded, write: Callable[[int, bytes], int] = os.write) -> None:
            write(1, b"%d\n" % run())

    sys.modules["support.last"] = Last()  # type: ignore[assignment]


@life
def started_and_stopped(folder: str, count: str) -> None:
    """Again and again; what that costs after the first ten times."""
    machine = Machine(folder)

    def once() -> None:
        machine.start()
        memwatch.guard(lambda: RIGHT)()
        memwatch.stop()

    for _ in range(10):
        once()
    before = len(descriptors()), tasks(), anonymous()
    for _ in range(int(count)):
        once()
    after = len(descriptors()), tasks(), anonymous()
    say(f"descriptors: {after[0] - before[0]}, threads: {len(after[1]) - len(before[1])}")
    grown = after[2] - before[2]
    say("memory: no more" if grown < 256 * 1024 else f"memory: {grown} bytes more")


def anonymous() -> int:
    """Anonymous memory of this process, in bytes: what it does not share with its page cache."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("smaps_rollup has no Anonymous")


@life
def stopped_by_a_thread(folder: str, state: str) -> None:
    """memwatch.stop() in another thread, while a trial runs, is held, told, or gives back its memory."""
    machine = Machine(folder)
    machine.start(hold=10 if state == "held" else 0)

    def stop() -> None:
        if state == "held":
            until_word("HELD_NS")
        elif state == "told":
            until_word("TOLD")
        memwatch.stop()
        over.set()

    over = threading.Event()

    def work() -> int:
        thread = threading.Thread(target=stop)
        if state in ("held", "told"):
            with memwatch.shield():
                thread.start()
                machine.low()
                over.wait()
        elif state == "settling":
            # The trial is over, and its garbage is collected.
            gc.callbacks.append(lambda *_: None if thread.ident else (thread.start(), thread.join()))
            machine.spin()
        else:
            thread.start()
            over.wait()
        return RIGHT

    say(machine.brake(work))
    over.wait()
    machine.start()
    say(f"again: {machine.brake()}")


# --------------------------------------------------------------------------- threads ---


@life
def thread_outlives_its_trial(folder: str) -> None:
    """One that a trial started and left behind is nobody's: the next trial is stopped, and it is not."""
    machine = Machine(folder)
    machine.start()
    over, turns = threading.Event(), itertools.count()

    def on_and_on() -> None:
        while not over.is_set():
            next(turns)

    thread = threading.Thread(target=on_and_on)
    memwatch.guard(thread.start)()
    say(machine.brake())
    seen = next(turns)
    until(lambda: next(turns) > seen + 1000, what="the thread's work")
    say(f"alive: {thread.is_alive()}")
    over.set()
    thread.join()


@life
def thread_of_a_trial(folder: str) -> None:
    """One that the trial started ends with it, without a word."""
    machine = Machine(folder)
    machine.start()
    threads: list[threading.Thread] = []

    def on_and_on() -> None:
        while True:
            pass

    def work() -> None:
        threads.append(threading.Thread(target=on_and_on))
        threads[0].start()
        machine.spin()

    say(machine.brake(work))
    until(lambda: not threads[0].is_alive(), what="the end of its thread")
    say("it has ended")


@life
def trials_at_once(folder: str) -> None:
    """Of three the newest is stopped; the others go on to their end."""
    machine = Machine(folder)
    machine.start()
    go, began, said = threading.Event(), [threading.Event() for _ in range(3)], {}

    def work(number: int) -> int:
        began[number].set()
        try:
            while not go.is_set():
                time.sleep(0.001)
        finally:
            # What it held comes back as it is left: were it later, the next newest would rightly be stopped, too.
            machine.high()
        return RIGHT

    def trial(number: int) -> None:
        try:
            said[number] = memwatch.guard(work, label=f"Trial {number}")(number)
        except memwatch.EmergencyBrake as error:
            said[number] = error.label

    threads = [threading.Thread(target=trial, args=(number,)) for number in range(3)]
    for number, thread in enumerate(threads):
        thread.start()
        began[number].wait()
    machine.low()
    until(lambda: 2 in said, seconds=PATIENCE, what="a brake")
    go.set()
    for thread in threads:
        thread.join()
    say(sorted(said.items()))


@life
def started_by_a_thread(folder: str, first: str) -> None:
    """The first start() was in another thread; trials there and in the main thread are braked."""
    machine = Machine(folder)
    thread = threading.Thread(target=machine.start)
    thread.start()
    thread.join()

    def in_thread() -> str:
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            return pool.submit(machine.brake).result()

    for where in (first, "main" if first == "thread" else "thread"):
        say(f"{where}: {machine.brake() if where == 'main' else in_thread()}")
    # Woken from a wait, as only a signal can.
    say(f"asleep: {machine.brake(lambda: (machine.low(), time.sleep(PATIENCE)))}")


@life
def sub_interpreter(folder: str, kind: str) -> None:
    """memwatch in a sub-interpreter says why it does not start, and the main one's brake goes on."""
    try:
        import _interpreters as interpreters
    except ImportError:
        import _xxsubinterpreters as interpreters
    if sys.version_info >= (3, 13):
        other = interpreters.create({"shared lock": "legacy", "own lock": "isolated"}[kind])
    else:
        other = interpreters.create(isolated=kind == "own lock")
    machine = Machine(folder)
    machine.start()
    refused = """
try:
    import memwatch
    memwatch.{call}
    print("not refused", flush=True)
except (memwatch.MemwatchError if "memwatch" in globals() else ImportError) as error:
    print("sub-interpreter" in str(error), "main one" in str(error), flush=True)
"""
    for call in ("start()", "guard(print)()", "trial('A').__enter__()"):
        interpreters.run_string(other, refused.format(call=call))
    say(machine.brake())
    interpreters.destroy(other)
    say(machine.brake())


# ------------------------------------------------------------------- loops and signals ---


@life
def notebook(folder: str) -> None:
    """A cell of a notebook runs in a callback of a running loop: trials there are braked, and Ctrl-C ends them."""
    machine = Machine(folder)
    machine.start()

    def interrupted() -> None:
        in_daemon(lambda: os.kill(os.getpid(), signal.SIGINT))
        time.sleep(PATIENCE)

    def cell() -> None:
        say(machine.brake())
        try:
            machine.brake(interrupted)
        except KeyboardInterrupt:
            say("interrupted")
        say(machine.brake(lambda: RIGHT))

    async def kernel() -> None:
        # As ipykernel: cells see KeyboardInterrupt, the loop does not.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        done = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(lambda: (cell(), done.set_result(None)))
        await done
        await asyncio.sleep(0)

    asyncio.run(kernel())
    say("the loop goes on")


@life
def loop_in_a_trial(folder: str) -> None:
    """asyncio.run() inside a trial: busy or asleep, it ends, and the next loop is a whole one."""
    machine = Machine(folder)
    machine.start()

    async def busy() -> None:
        machine.low()
        while True:
            await asyncio.sleep(0)

    async def asleep() -> None:
        machine.low()
        await asyncio.sleep(PATIENCE)

    async def swallows() -> None:
        async def task() -> None:
            machine.low()
            while True:
                pass

        await asyncio.gather(task(), return_exceptions=True)
        await asyncio.sleep(PATIENCE)

    for work in (busy, asleep, swallows):
        say(f"{work.__name__}: {machine.brake(lambda work=work: asyncio.run(work()))}")
    say(asyncio.run(asyncio.sleep(0, RIGHT)))


@life
def loop_with_signals(folder: str) -> None:
    """A loop that handles signals by itself hears its own, and takes no notice of ours."""
    machine = Machine(folder)
    machine.start()
    heard: list[str] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR1, heard.append, "USR1")
        for _ in range(3):
            heard.append(machine.brake(machine.spin))
            os.kill(os.getpid(), signal.SIGUSR1)
            await asyncio.sleep(0.01)
        loop.remove_signal_handler(signal.SIGUSR1)

    asyncio.run(main())
    say(heard)


@life
def loop_that_is_late(folder: str) -> None:
    """A trial in a loop's callback that nothing can cut for a second: each shot wakes the loop, and nobody reads."""
    machine = Machine(folder)
    machine.start(hold=0)
    heard: list[str] = []

    begins = threading.Event()

    def lower() -> None:
        begins.wait()
        machine.low()

    thread = threading.Thread(target=lower)
    thread.start()

    def work() -> None:
        begins.set()
        # One call in C that no signal ends.
        hashlib.pbkdf2_hmac("sha256", b"", b"", 4_000_000)

    async def main() -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, heard.append, "USR1")
        heard.append(machine.brake(work))
        heard.append(f"shots: {word('SHOTS') > 300}")
        os.kill(os.getpid(), signal.SIGUSR1)
        await asyncio.sleep(0.05)

    asyncio.run(main())
    say(heard)


# ------------------------------------------------------------------ board and results ---


@life
def board_is_hurt(folder: str, how: str) -> None:
    """Somebody does something to the board's file while a worker runs: it is braked all the same."""
    machine = Machine(folder)
    machine.start()
    say(machine.brake())
    with Board.open() as board:
        path = Path(board.path)
    size = path.stat().st_size
    with path.open("r+b") as file:
        if how == "unlinked":
            path.unlink()
        elif how == "cut":
            file.truncate(0)
        elif how == "header":
            file.write(b"\xff" * 4096)
        elif how == "slots":
            file.seek(4096)
            file.write(b"\xff" * (size - 4096))
        elif how == "zeros":
            file.write(bytes(size))
        elif how == "noise":
            file.write(random.Random(1).randbytes(size))
    say(machine.brake())
    # The helper looks once a second; whatever it finds, it makes a board that others can open.
    until(lambda: mine() == [True], seconds=PATIENCE, what="a board with one slot, ours")
    say(machine.brake())
    say(f"alive: {running.current.slot.live().brakes}")


def mine() -> list[bool]:
    try:
        with Board.open() as board:
            return [it.owner.pid == os.getpid() for it in board.slots()]
    except memwatch.BoardError:
        return []


@life
def dies_and_leaves_a_child(folder: str) -> None:
    """A worker is killed and its forked child lives on: the next worker gets a slot at once, for nothing is locked."""
    read, write = os.pipe()
    worker = os.fork()
    if not worker:
        machine = Machine(folder)
        machine.start()
        if not os.fork():
            os.read(read, 1)  # holds on to whatever it inherited
            os._exit(0)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(worker, 0)
    machine = Machine(folder)
    began = time.monotonic()
    machine.start()
    say(machine.brake())
    say(f"at once: {time.monotonic() - began < PATIENCE / 3}")
    with Board.open() as board:
        say(f"slots: {[it.owner.pid == os.getpid() for it in board.slots()]}")
    os.write(write, b"x")


def braked_in_a_child(folder: str) -> None:
    machine = Machine(Path(folder) / str(os.getpid()))
    machine.start()
    memwatch.guard(machine.spin, label="Trial #7")()


class _Brakes(_Childhoods):
    """A torch data set of trials that are braked."""

    def __getitem__(self, _index: int) -> str:
        braked_in_a_child(self.folder)
        return ""


@life
def brake_comes_to_the_parent(folder: str, way: str) -> None:
    """A brake in a pool's worker is raised in the parent with all that it knows."""
    try:
        if way == "ProcessPoolExecutor":
            with concurrent.futures.ProcessPoolExecutor(1) as pool:
                pool.submit(braked_in_a_child, folder).result()
        elif way == "Pool":
            with multiprocessing.Pool(1) as pool:
                pool.apply(braked_in_a_child, (folder,))
        elif way == "ThreadPoolExecutor":
            with concurrent.futures.ThreadPoolExecutor(1) as threads:
                threads.submit(braked_in_a_child, folder).result()
        else:
            from torch.utils.data import DataLoader

            list(DataLoader(_Brakes(folder), num_workers=1))
    except memwatch.EmergencyBrake as error:
        known = (error.label, error.available, error.threshold, error.seconds is not None)
        say(known if way != "DataLoader" else "Trial #7 killed" in str(error))


# ------------------------------------------------------------------------- what it needs ---


@life
def nothing_cuts_it(folder: str, what: str) -> None:
    """A trial in one call of C that holds the interpreter lock for minutes, or one that has released it."""
    machine = Machine(folder)
    machine.start(hold=0, grace="300ms")

    def work() -> None:
        machine.low()
        if what == "lock-held":
            sum(itertools.repeat(1, 10**12))
        else:
            # In C, and again from the start when a signal comes: as native libraries wait for their threads.
            ctypes.CDLL(None).sigsuspend(ctypes.create_string_buffer(b"\xff" * 128))

    machine.brake(work)
    say("it ended")


@life
def how_often_it_looks(folder: str) -> None:
    """Looks in a second, with headroom far above the watermark and just above it."""
    machine = Machine(folder)
    machine.start()

    def looks(available: int) -> int:
        machine.low(available)
        until_word("HEADROOM", lambda it: abs(it - available) < MB)
        before = live().looks
        time.sleep(1)
        return live().looks - before

    far, near = looks(HIGH), looks(1001 * MB)
    say("rarely when far" if far < 50 else f"{far} times when far")
    say("often when near" if near > 200 else f"{near} times when near")


def live() -> Any:
    it = ffi.new("struct mw_live *")
    assert not lib.mw_brake_live(running.current.handle, it)
    return it


@life
def no_thread_to_be_had(folder: str) -> None:
    """pthread_create() fails, first for the native thread and then for Python's; the library preloaded does that."""
    machine = Machine(folder)
    fail = ctypes.CDLL(None).fail_threads_after
    before = signal.getsignal(signal.SIGURG)
    fds = len(descriptors())
    for left in (0, 1):
        fail(left)
        try:
            machine.start()
        except memwatch.MemwatchError as error:
            say(f"{'ulimit -u' in str(error)} {'pids.max' in str(error)}")
        fail(-1)
        say(f"threads: {len(tasks())}, running: {running.current is not None}")
        # Ignored is what it is by default.
        say(f"handler: {signal.getsignal(signal.SIGURG) in (before, signal.SIG_IGN)}")
    say(f"descriptors: {len(descriptors()) - fds}")
    say(f"slots: {len(mine())}")
    machine.start()
    say(machine.brake())


@life
def as_nobody(folder: str) -> None:
    """Another user, who may lock 64 KiB and has no privilege."""
    machine = Machine(folder)
    # What is installed where that user may not read is loaded before.
    for name in (
        "logging",
        "atexit",
        "functools",
        "tomllib",
        "encodings.utf_8_sig",
        "memwatch.configfile",
        "memwatch.brake",
        "_interpreters",
        "_xxsubinterpreters",
    ):
        with suppress(ImportError):
            importlib.import_module(name)
    os.chmod(folder, 0o755)
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (65536, 65536))
    os.environ["MEMWATCH_BOARD"] = f"{folder}/nobody"
    os.mkdir(f"{folder}/nobody", 0o700)
    os.chown(f"{folder}/nobody", 65534, 65534)
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
    memwatch.start(root=machine.tree.root, **SETTINGS)
    say(f"locked: {bool(word('FLAGS') & lib.MW_NEWS_LOCKED)}")
    say(f"guard: {memwatch.guard(lambda: RIGHT)()}")
    say(f"thread: {'memwatch' in tasks()}")


@life
def locks_its_own_pages_only(folder: str) -> None:
    """Its own memory is locked; what the process maps later is not touched by that."""
    machine = Machine(folder)
    machine.start()
    say(f"locked: {bool(word('FLAGS') & lib.MW_NEWS_LOCKED)}")
    before = anonymous()
    memory = mmap.mmap(-1, 2**30)
    say(f"resident: {(anonymous() - before) // MB} MB")
    memory.close()
    try:
        import numpy as np
    except ImportError:
        return
    before = anonymous()
    array = np.empty(2**30, dtype=np.uint8)
    assert array.size
    assert anonymous() - before < 8 * MB


@life
def what_it_adds(folder: str) -> None:
    """Threads, memory and descriptors of a worker, before start() and after the first trial."""
    machine = Machine(folder)
    # What a worker has anyhow: its imports, a first thread, the allocator's first arenas.
    import logging.handlers  # noqa: F401

    # A settings file, which the checkout that is tested in may have; few do.
    config.Settings.load(os.environ, known=config.BRAKE)
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()
    until(lambda: len(tasks()) == 1, what="the thread's end")
    before = anonymous(), len(descriptors()), tasks()
    machine.start()
    memwatch.guard(lambda: RIGHT)()
    after = anonymous(), len(descriptors()), tasks()
    say(f"{after[0] - before[0]} {after[1] - before[1]} {len(after[2]) - len(before[2])} {after[2].count('memwatch')}")


@life
def is_stopped_for_a_while(folder: str) -> None:
    """SIGSTOP, and SIGCONT some seconds later: no brake for that, and the gap is on the board."""
    machine = Machine(folder)
    machine.start()

    def work() -> int:
        say(os.getpid())
        sys.stdin.readline()
        # One look after it goes on is enough, and it writes down the gap.
        until(lambda: live().gap_max_ns > 2 * 10**9, what="the gap")
        return RIGHT

    say(machine.brake(work))
    say(f"brakes: {word('BRAKES')}, holds: {word('HOLDS')}")
    until(lambda: running.current.slot.live().gap_max > 2, what="the gap on the board")
    say("on the board")


def main() -> None:
    name, folder, *rest = sys.argv[1:]
    # Python 3.12 and later warn of any fork of a process that has threads, and this one has.
    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
    LIVES[name](folder, *rest)


if __name__ == "__main__":
    main()
