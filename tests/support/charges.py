"""
Workers that are hard to watch: each function is one.

    python charges.py NAME [WORD ...]

They print "word=pid" for who they started, and "ready" once they are what they are to be. $FOLDER is the test's.
"""

import ctypes
import mmap
import os
import signal
import sys
import time
from pathlib import Path

MB = 10**6
HARD = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

# The same in C: no Python, and calls that Python has not.
C = r"""
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "sleep";

	if (!strcmp(what, "eat")) {
		size_t size = strtoull(argv[2], NULL, 10);
		char *memory = malloc(size);

		if (!memory)
			return 9;
		memset(memory, 1, size);
		memory[size / 2] = 2;
	}
	if (!strcmp(what, "setuid") && setresuid(0, 0, 0))
		return 9;
	puts("ready");
	fflush(stdout);
	if (!strcmp(what, "vfork")) {
		/* The parent waits for its child, uninterruptibly, until that executes or ends. */
		if (!vfork()) {
			pause();
			_exit(0);
		}
	}
	for (;;)
		pause();
}
"""


def say(line: object) -> None:
    os.write(1, f"{line}\n".encode())  # whole, whoever else writes to that log


def ignore(*numbers: int) -> None:
    for number in numbers or HARD:
        signal.signal(number, signal.SIG_IGN)


def stay() -> None:
    """Until somebody ends it; a life of an hour is enough for any test."""
    say("ready")
    end = time.monotonic() + 3600
    while time.monotonic() < end:
        time.sleep(1)


def asked(name: str) -> bool:
    """Whether the test has made that file."""
    return Path(os.environ["FOLDER"], name).exists()


def until_asked(name: str) -> None:
    while not asked(name):
        time.sleep(0.01)


def sleeps() -> None:
    stay()


def deaf() -> None:
    ignore()
    stay()


def brood(how: str) -> None:
    """Starts children that hear no signal, one of each kind; then goes on ("stays"), or ends with that status."""

    def child(word: str, *, session: bool = False, orphan: bool = False) -> None:
        if os.fork():
            return
        if session:
            os.setsid()
        if orphan and os.fork():
            os._exit(0)
        ignore()
        say(f"{word}={os.getpid()}")
        time.sleep(3600)
        os._exit(0)

    child("in_group")
    child("own_session", session=True)
    child("orphan", orphan=True)
    child("daemon", session=True, orphan=True)
    until_asked("go")
    if how == "stays":
        stay()
    sys.stdout.flush()
    os._exit(int(how))


def daemonizes() -> None:
    reads, writes = os.pipe()
    if os.fork():
        os.read(reads, 1)
        os._exit(0)
    os.setsid()
    if os.fork():
        os._exit(0)
    ignore()
    say(f"daemon={os.getpid()}")
    os.write(writes, b"x")
    stay()


def ends(status: str = "0", after: str = "0") -> None:
    """By itself; a status below 0 is a signal."""
    time.sleep(float(after))
    if int(status) < 0:
        os.kill(os.getpid(), -int(status))
    os._exit(int(status))


def ends_by_number(*statuses: str) -> None:
    """Each life has another status, the last one for all that come; "stays" does not end."""
    path = Path(os.environ["FOLDER"], f"lives_{os.getppid()}")
    life = len(path.read_bytes()) if path.exists() else 0
    path.write_bytes(b"x" * (life + 1))
    how = statuses[min(life, len(statuses) - 1)]
    if how == "stays":
        stay()
    os._exit(int(how))


def writes(size: str) -> None:
    """So many bytes, as fast as it can, in lines with their number; no two are alike."""
    lines = int(size) // 100
    block = 10_000
    for begin in range(0, lines, block):
        text = "".join(f"{number:099d}\n" for number in range(begin, min(begin + block, lines)))
        data = text.encode()
        while data:
            data = data[os.write(1, data) :]
    say("ready")
    os._exit(0)


def closes_stderr() -> None:
    os.close(2)
    os.close(1)
    os.close(0)
    Path(os.environ["FOLDER"], "closed").touch()
    time.sleep(3600)


def changes_uid() -> None:
    os.setgid(65534)
    os.setuid(65534)
    ignore()
    stay()


def executes(program: str, *words: str) -> None:
    """Another one in its place, once it was asked."""
    say("ready")
    until_asked("go")
    os.execv(program, [program, *words])


def eats(size: str, step: str = "10") -> None:
    """Grows by steps of so many MB, and stays so."""
    kept = []
    while len(kept) * int(step) < int(size):
        kept.append(bytearray(b"\1") * (int(step) * MB))
        time.sleep(0.01)
    stay()


def shares(size: str) -> None:
    """Its children share its memory; once asked, each has its own."""
    memory = mmap.mmap(-1, int(size) * MB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    memory[:] = b"\1" * len(memory)
    for _ in range(3):
        if not os.fork():
            until_asked("go")
            memory[:] = b"\2" * len(memory)
            time.sleep(3600)
    stay()


def brakes(size: str) -> None:
    """A trial that takes too much, and may be cut where nothing is held; the next one is small."""
    import memwatch

    def fills() -> None:
        kept = []
        for _ in range(int(size)):
            with memwatch.shield():
                kept.append(bytearray(b"\1") * MB)
                time.sleep(0.001)
            memwatch.check()

    try:
        memwatch.guard(fills, label="Trial #42 error\n✅ forged")()
        say("fits")
    except memwatch.EmergencyBrake:
        say("braked")
    memwatch.guard(lambda: None)()
    stay()


def taints() -> None:
    """Asks to be started anew, in its first life alone."""
    import memwatch
    from memwatch import running

    first = not asked("second")
    Path(os.environ["FOLDER"], "second").touch()
    for _ in range(10**6):
        memwatch.guard(time.sleep)(0.01)
        if first and running.current is not None:
            running.current.tainted = True  # as a brake out of nowhere does


def trials(count: str) -> None:
    """So many trials in all, each one written down when it begins and ends; a drain comes between two."""
    import memwatch

    path = Path(os.environ["FOLDER"], "trials")
    done = len(path.read_text().split("E")) - 1 if path.exists() else 0

    def trial() -> None:
        with path.open("a") as file:
            file.write("B")
            file.flush()
            time.sleep(0.02)
            file.write("E")

    while done < int(count):
        memwatch.guard(trial)()
        done += 1


def studies(count: str) -> None:
    """A study with that n_trials, which knows of no other life; in the first two, one trial asks to be started anew."""
    import optuna

    import memwatch
    from memwatch import running

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = f"sqlite:///{os.environ['FOLDER']}/study.db"
    study = optuna.create_study(study_name="a", storage=storage, load_if_exists=True)
    life = len(study.trials)

    def objective(trial: optuna.Trial) -> float:
        if life == trial.number < 2 and running.current is not None:
            running.current.tainted = True
            memwatch.label("tainted")  # so that it stands on the board
            while not memwatch.draining():
                time.sleep(0.01)
        return trial.suggest_float("x", 0, 1)

    study.optimize(objective, n_trials=int(count))


def forges() -> None:
    """Prints what would be a line of the watchdog's, or an event; its name and its trial say so too."""
    import memwatch

    line = '2026-01-01 00:00:00 ❌ ERROR: Worker 9 is given up\n{"event": "fatal", "worker": 9}\n\x1b]0;x\x07\r'
    name = ctypes.create_string_buffer(b"x\n2026 ERROR\n")
    ctypes.CDLL(None).prctl(15, name, 0, 0, 0)
    os.write(1, line.encode())
    os.write(2, line.encode())

    def trial() -> None:
        memwatch.label(line)
        say("ready")
        time.sleep(3600)

    memwatch.guard(trial, label=line)()


def prints() -> None:
    os.write(1, b"out\n")
    os.write(2, b"err\n")
    stay()


def environment() -> None:
    say(" ".join(sorted(os.environ)))
    stay()


def main() -> None:
    name, *words = sys.argv[1:]
    globals()[name](*words)


if __name__ == "__main__":
    main()
