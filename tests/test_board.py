"""
The board, from Python: who meets on it, who is refused, and what is left of those who were killed.

tests/csrc/test_board.c has what needs C: failing system calls, scribblers at one word, threads, signal handlers.
"""

import errno
import os
import re
import resource
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support import cbuild

from memwatch import BoardError
from memwatch.board import Board, BrakePhase, Drain, Live, Orders, Record, RecordKind, Work, default_folder, key_of

PROGRAM = cbuild.REPO / "tests/csrc/test_board.c"
FUZZ = cbuild.REPO / "tests/fuzz"
SOURCES = ("board.c", "board_file.c", "board_guard.c", "procfs.c", "parse.c")
SANITIZERS = {
    "plain": ["-O2"],
    "address,undefined": ["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    "thread": ["-O1", "-fsanitize=thread"],
}
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away, or mount")

LIVE = Live(
    time=12.5,
    rss=1,
    rss_peak=2,
    headroom=3,
    limit=4,
    binds=(5, 6),
    looks=7,
    phase=BrakePhase.WAITING,
    growth=8,
    trial_start=9.5,
)


@pytest.fixture
def folder() -> Iterator[Path]:
    """One in shared memory, as in earnest, where the board may be put."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as made:
        yield Path(made) / "the-board"


@pytest.fixture
def board(folder: Path) -> Iterator[Board]:
    with Board.open(folder, create=True) as opened:
        yield opened


def in_child(deed: Callable[[], object]) -> None:
    """Runs *deed* in a forked child; what it raises fails the test."""
    pid = os.fork()
    if not pid:
        try:
            deed()
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)

    assert 0 == os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def wait_for(condition: Callable[[], Any], seconds: float = 10.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "not so in time"
        time.sleep(0.001)
    return found


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


# ------------------------------------------------------------------------------ in C ---


@pytest.mark.slow
@pytest.mark.parametrize("sanitizer", SANITIZERS)
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_f54_f55_f95_f96_f97_the_c_program_passes(folder: Path, tmp_path: Path, compiler: str, sanitizer: str) -> None:
    """tests/csrc/test_board.c, with every call it lets fail, as it is and under three sanitizers."""
    found = shutil.which("gcc") if compiler == "gcc" else cbuild.clang()
    if found is None:
        pytest.skip(f"{compiler} is not installed")
    calls = set(re.findall(r"\b__wrap_(\w+)\(|^WRAP\([^,]+, (\w+)", PROGRAM.read_text(), re.M))
    wraps = [f"-Wl,--wrap={one or other}" for one, other in calls if one != "call"]
    flags = SANITIZERS[sanitizer]
    if "--coverage" in os.environ.get("MEMWATCH_CFLAGS", "") and compiler == "gcc" and sanitizer == "plain":
        wraps += ["-Wl,-u,__gcov_dump,-u,__gcov_reset"]
    program = cbuild.build([PROGRAM, *SOURCES], tmp_path / "it", compiler=found, flags=[*flags, *wraps])
    command: list[str | Path] = [program, folder.parent]
    if sanitizer == "thread" and (setarch := shutil.which("setarch")):
        # Its shadow wants addresses to be where they were before kernels shuffled them by 32 bits.
        command = [setarch, "-R", *command]
    environment = {**os.environ, "TSAN_OPTIONS": "halt_on_error=1", "UBSAN_OPTIONS": "print_stacktrace=1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)

    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "" == done.stderr


@pytest.mark.slow
@pytest.mark.skipif(cbuild.clang() is None, reason="libFuzzer is part of clang")
def test_f55_f97_the_fuzz_target_holds_over_its_corpus(tmp_path: Path) -> None:
    """Each claim of fuzz_board.c holds for all that its corpus has; the target's head says how to go on."""
    flags = [*SANITIZERS["address,undefined"], "-fsanitize=fuzzer", "-I", str(FUZZ)]
    program = cbuild.build(
        [FUZZ / "fuzz_board.c", *SOURCES], tmp_path / "fuzz", compiler=cbuild.clang() or "", flags=flags
    )
    corpus = list((FUZZ / "corpus/fuzz_board").iterdir())
    done = subprocess.run([program, *corpus], capture_output=True, text=True, check=False)

    assert corpus
    assert 0 == done.returncode, done.stderr


# ---------------------------------------------------------------------------- values ---


def test_what_one_writes_another_reads(folder: Path) -> None:
    """A second handle, as another process would have one, sees each part as it was written."""
    work = Work(
        "Trial #42",
        "split 3/5",
        epoch=3,
        trial_start=1.5,
        trial_rss=10,
        budget=20,
        filled=15,
        live_bytes=9,
        kept_bytes=3,
        live_time=1.25,
        worker=2,
        key=key_of("study|42"),
        tainted=True,
    )
    orders = Orders(Drain.RSS, drain_deadline=2.5, rss_limit=8, watchdog=(7, 8), time=3.25)
    with Board.open(folder, create=True) as ours, Board.open(folder) as theirs:
        slot = ours.claim(groups=[(1, 2), (3, 4)])
        slot.set_live(LIVE)
        slot.set_work(work)
        slot.record(Record(1.25, RecordKind.MARK, 5, None))
        (seen,) = theirs.slots()
        seen.set_orders(orders)

        assert slot.owner == seen.owner
        assert ((1, 2), (3, 4)) == seen.owner.groups
        assert os.getpid() == seen.owner.pid
        assert LIVE == seen.live()
        assert LIVE.rss == seen.rss
        assert work == seen.work()
        assert orders == slot.orders()
        assert ([Record(1.25, RecordKind.MARK, 5, None)], 1) == seen.records()
        assert ([], 1) == seen.records(1)


def test_what_was_never_written_is_none(board: Board) -> None:
    """Unknown is None, be it never written or written as unknown."""
    slot = board.claim()

    assert (None, None, None, None, ([], 0)) == (slot.rss, slot.live(), slot.work(), slot.orders(), slot.records())
    slot.set_live(unknown := Live(None, None, None, None, None, phase=BrakePhase.OFF))
    slot.set_work(Work())
    slot.set_orders(Orders())
    assert unknown == slot.live()
    assert slot.rss is None
    assert Work() == slot.work()
    assert Orders() == slot.orders()


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        pytest.param("", "", id="empty"),
        pytest.param("a" * 128, "a" * 128, id="all-128-bytes"),
        pytest.param("a" * 129, "a" * 128, id="one-too-many"),
        pytest.param("a" * 127 + "é", "a" * 127, id="not-half-of-two-bytes"),
        pytest.param("€" * 50, "€" * 42, id="not-a-third-of-three"),
        pytest.param("\N{FIRE}" * 33, "\N{FIRE}" * 32, id="four-bytes-each"),
        pytest.param("a\0b", "a", id="up-to-a-nul"),
        pytest.param("a\udc80b", "a?b", id="what-utf-8-has-not"),
        pytest.param("a\n\x1b[31m", "a\n\x1b[31m", id="escaping-is-for-who-prints"),
    ],
)
def test_f100_labels_fit_at_a_characters_end(board: Board, text: str, kept: str) -> None:
    """A label is cut where a character ends, and a shorter one leaves nothing of a longer one."""
    slot = board.claim()
    slot.set_work(Work("x" * 200, "y" * 200))
    slot.set_work(Work(label=text, detail=text))

    assert Work(label=kept, detail=kept) == slot.work()


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: Work(epoch=-1), id="negative"),
        pytest.param(lambda: Work(trial_rss=2**64 - 2), id="what-means-no-limit"),
        pytest.param(lambda: Work(key=2**64), id="more-than-64-bits"),
        pytest.param(lambda: Orders(rss_limit=2**64 - 1), id="what-means-unknown"),
    ],
)
def test_values_refuse_to_be_wrong(make: Callable[[], object]) -> None:
    """A number that C would take for a word of its own is refused when the value is built."""
    with pytest.raises(ValueError, match=r"need 0 <= \w+ < 2\*\*64 - 2, got"):
        make()


@pytest.mark.parametrize("seconds", [-1.0, 1e12, float("inf"), float("nan")])
def test_times_refuse_to_be_wrong(board: Board, seconds: float) -> None:
    """So is a time that nanoseconds cannot hold."""
    slot = board.claim()

    with pytest.raises(ValueError, match="need seconds from 0"):
        slot.set_work(Work(trial_start=seconds))


# Made once, and not to change: a worker of the next version finds the trials of one that was killed.
KEYS = [
    ("", 13020603013274838756),
    ("study|42|2026-11-23 19:45:01", 4734183965731363062),
    ("Größe", 8433303749423783192),
    ("a\udc80b", 17564911657457786530),
]


@pytest.mark.parametrize(("text", "key"), KEYS)
def test_a_key_is_the_same_everywhere(text: str, key: int) -> None:
    """In each process and version; of any text that Python can hold."""
    assert key == key_of(text)


def test_keys_are_64_bits_and_differ() -> None:
    """None of 100,000 is 0, which means none, and no two are the same: one in four billion times would be."""
    keys = {key_of(f"study|{number}") for number in range(100_000)}

    assert 100_000 == len(keys)
    assert 0 not in keys
    assert 63 <= max(keys).bit_length() <= 64


def test_rss_alone_is_cheap_and_the_same(board: Board) -> None:
    """Slot.rss reads what live().rss does, from whichever copy counts, within 1 us (0.4 us here)."""
    slot = board.claim()
    for rss in range(4):
        slot.set_live(LIVE._replace(rss=rss))

        assert (rss, rss) == (slot.rss, slot.live().rss)  # type: ignore[union-attr]

    def cost() -> float:
        began = time.perf_counter()
        for _ in range(1000):
            slot.rss  # noqa: B018
        return (time.perf_counter() - began) / 1000

    assert min(cost() for _ in range(20)) < 1e-6


def test_importing_it_is_light() -> None:
    """No logging, psutil, asyncio or numpy: a worker pays for the board in each process."""
    code = (
        "import sys, memwatch.board; print([n for n in ('logging', 'psutil', 'asyncio', 'numpy') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "[]\n" == done.stdout


# ------------------------------------------------------------- folder and file, F103-105 ---


def test_f104_the_board_is_ours_alone_whatever_the_umask(folder: Path) -> None:
    """Folder 0700 and file 0600, with umask 0 too."""
    was = os.umask(0)
    try:
        Board.open(folder, create=True).close()
    finally:
        os.umask(was)

    assert "0o700" == oct(stat.S_IMODE(os.stat(folder).st_mode))
    assert "0o600" == oct(stat.S_IMODE(os.stat(folder / "board").st_mode))
    assert ["board"] == names(folder)


def give_away(path: Path) -> None:
    os.chown(path, 65534, 65534)


def change_byte(path: Path, offset: int) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(b"\x7f")


REFUSED = [
    pytest.param(lambda f: (f / "board").chmod(0o666), "closed to others", id="f105-file-open-to-others"),
    pytest.param(lambda f: f.chmod(0o755), "closed to others", id="f105-folder-open-to-others"),
    pytest.param(
        lambda f: give_away(f / "board"),
        "must both belong|both must belong",
        id="f105-file-of-another",
        marks=root_only,
    ),
    pytest.param(give_away, "both must belong", id="f105-folder-of-another", marks=root_only),
    pytest.param(
        lambda f: ((f / "board").rename(f / "b"), (f / "board").symlink_to("b")), "symlink", id="f103-symlink-file"
    ),
    pytest.param(
        lambda f: (f.rename(f"{f}2"), f.symlink_to(f"{f}2")),
        "is a symlink or no folder",
        id="f103-symlink-folder",
    ),
    pytest.param(lambda f: change_byte(f / "board", 8), "another version", id="f97-other-version"),
]


@pytest.mark.parametrize("create", [False, True])
@pytest.mark.parametrize(("spoil", "message"), REFUSED)
def test_what_is_not_ours_is_refused_and_left(
    folder: Path, spoil: Callable[[Path], object], message: str, create: bool
) -> None:
    """Another's, a symlink or another version's: the error says so, and nothing is touched, asked to or not."""
    Board.open(folder, create=True).close()
    spoil(folder)
    before = [(name, os.lstat(folder / name).st_ino) for name in names(folder)]

    with pytest.raises(BoardError, match=message) as caught:
        Board.open(folder, create=create)
    assert str(folder.parent) in str(caught.value)
    assert before == [(name, os.lstat(folder / name).st_ino) for name in names(folder)]


def make_fifo(folder: Path) -> None:
    (folder / "board").unlink()
    os.mkfifo(folder / "board", 0o600)


REPLACED = [
    pytest.param(lambda f: os.truncate(f / "board", 0), id="f95-empty"),
    pytest.param(lambda f: os.truncate(f / "board", 4096), id="f95-one-page"),
    pytest.param(lambda f: os.truncate(f / "board", os.stat(f / "board").st_size - 1), id="f95-a-byte-short"),
    pytest.param(lambda f: change_byte(f / "board", 0), id="f97-other-magic"),
    pytest.param(lambda f: change_byte(f / "board", 12), id="f97-other-byte-order"),
    pytest.param(lambda f: change_byte(f / "board", 60), id="f86-other-boot"),
    pytest.param(make_fifo, id="f103-fifo"),
]


@pytest.mark.parametrize("spoil", REPLACED)
def test_what_is_damaged_is_told_and_replaced_by_the_next_worker(folder: Path, spoil: Callable[[Path], object]) -> None:
    """One who looks is told that it is damaged; one who comes to work leaves it and makes another."""
    Board.open(folder, create=True).close()
    spoil(folder)

    with pytest.raises(BoardError, match="the next worker to start replaces it"):
        Board.open(folder)
    with Board.open(folder, create=True) as board:
        board.claim()
        with Board.open(folder) as other:
            assert [os.getpid()] == [slot.owner.pid for slot in other.slots()]
    assert ["board"] == names(folder)


@pytest.mark.parametrize(
    ("folder_name", "create", "message"),
    [
        pytest.param("nothing", False, "there is no board at .*nothing/board: no worker has run yet", id="none"),
        pytest.param("no/where", True, "no/where cannot be made: the folder above it does not exist", id="nowhere"),
        pytest.param("x" * 300, True, "File name too long", id="what-has-no-words-of-its-own"),
    ],
)
def test_what_is_not_there_is_told(tmp_path: Path, folder_name: str, create: bool, message: str) -> None:
    """The message names the path, and what to do."""
    with pytest.raises(BoardError, match=message):
        Board.open(tmp_path / folder_name, create=create)


def test_a_path_is_no_terminal_escape(tmp_path: Path) -> None:
    """Control characters of a path are escaped in what is said of it (F100)."""
    with pytest.raises(BoardError, match=r"a\\x1bb/board") as caught:
        Board.open(tmp_path / "a\x1bb")
    assert "\x1b" not in str(caught.value)


def test_f103_a_slash_at_the_end_follows_no_symlink(folder: Path) -> None:
    """ "folder/" is "folder", although the kernel would follow a symlink of that name."""
    Board.open(folder, create=True).close()
    link = folder.parent / "link"
    link.symlink_to(folder)

    with pytest.raises(BoardError, match="symlink or no folder"):
        Board.open(f"{link}/")
    Board.open(f"{folder}/").close()


def test_the_default_is_one_folder_a_user(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """MEMWATCH_BOARD names another; empty is as good as none."""
    monkeypatch.setenv("MEMWATCH_BOARD", "")

    assert f"/dev/shm/memwatch-{os.geteuid()}" == default_folder()
    monkeypatch.setenv("MEMWATCH_BOARD", str(folder))
    with Board.open(create=True) as board:
        assert f"{os.path.abspath(folder)}/board" == board.path


def test_leftovers_of_killed_makers_are_swept(folder: Path) -> None:
    """A half-made board goes after a minute; one that is being made, and what is not ours to judge, stays."""
    Board.open(folder, create=True).close()
    for name, age in {"board.1.0": 61, "board.1.1": 0, "notes": 1000}.items():
        (folder / name).touch()
        os.utime(folder / name, (time.time() - age,) * 2)
    Board.open(folder).close()

    assert ["board", "board.1.0", "board.1.1", "notes"] == names(folder)
    Board.open(folder, create=True).close()
    assert ["board", "board.1.1", "notes"] == names(folder)


# ---------------------------------------------------------------------- no room, F95 ---


def test_f95_a_file_size_limit_is_told(folder: Path) -> None:
    """RLIMIT_FSIZE too low for it: an error that names it, nothing half-made."""

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        # As in a program that is not Python, which ignores it: death, if it came.
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        with pytest.raises(BoardError, match="RLIMIT_FSIZE"):
            Board.open(folder, create=True)

    in_child(limited)

    assert [] == names(folder)


@root_only
@pytest.mark.slow
def test_f95_a_full_tmpfs_is_told(tmp_path: Path) -> None:
    """No room for all of it: an error that says so and nothing half-made; not SIGBUS at some later write."""
    code = """
import os, sys
from memwatch import BoardError
from memwatch.board import Board
try:
    Board.open(sys.argv[1] + "/board", create=True)
except BoardError as error:
    print(error, os.listdir(sys.argv[1] + "/board"), os.statvfs(sys.argv[1]).f_bfree > 500)
"""
    mount = 'mount -t tmpfs -o size=4m,mode=700 none "$1" && exec "$2" -c "$3" "$1"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-ec", mount, "sh", tmp_path, sys.executable, code],
        capture_output=True,
        text=True,
        check=False,
    )

    assert "" == done.stderr
    assert re.search(r"there is no room for .*/board/board, which takes \d+ bytes.* \[\] True$", done.stdout)


# ------------------------------------------------------- cut short, unlinked, remade: F95 ---


def test_f95_cut_short_while_mapped_is_noticed_and_made_anew(folder: Path) -> None:
    """Python that reads and writes a board whose file is gone does not die; check() makes another."""
    with Board.open(folder, create=True) as board, Board.open(folder) as reader:
        slot = board.claim(groups=[(1, 2)])
        slot.set_live(LIVE)
        (seen,) = reader.slots()
        os.truncate(folder / "board", 0)

        assert (None, None, None, ([], 0)) == (seen.rss, seen.live(), seen.work(), seen.records())
        with pytest.raises(BoardError, match=r"Board\.check\(\) makes the board anew|claims anew"):
            slot.set_live(LIVE)
        with pytest.raises(BoardError, match="damaged"):
            reader.check()  # who only looks makes nothing
        assert board.check()
        assert not board.check()
        slot.set_live(LIVE)
        assert reader.check()
        assert [LIVE] == [seen.live() for seen in reader.slots()]
        assert ((1, 2),) == slot.owner.groups


def test_f95_unlinked_is_noticed_and_claimed_anew(folder: Path) -> None:
    """As logout does it, folder and all: another board, with us on it and what we are at."""
    with Board.open(folder, create=True) as board:
        slot = board.claim()
        slot.set_work(work := Work("Trial #1", epoch=1))
        assert not board.check()
        shutil.rmtree(folder)

        assert board.check()
        assert slot is board.slot
        with Board.open(folder) as other:
            assert [work] == [seen.work() for seen in other.slots()]
        assert not board.check()


def test_f95_what_was_made_meanwhile_is_joined(folder: Path) -> None:
    """Two on an unlinked board meet again on the one that the faster of them makes."""
    with Board.open(folder, create=True) as one, Board.open(folder, create=True) as other:
        os.unlink(folder / "board")

        assert one.check()
        assert other.check()
        one.claim()
        assert [os.getpid()] == [slot.owner.pid for slot in other.slots()]


def test_f95_check_that_fails_is_tried_again(folder: Path) -> None:
    """While the board cannot be made again, check() says why; once it can, our slot is back."""
    with Board.open(folder, create=True) as board:
        slot = board.claim()
        shutil.rmtree(folder)
        folder.write_text("in the way")
        for _ in range(2):
            with pytest.raises(BoardError, match="symlink or no folder"):
                board.check()
        folder.unlink()

        assert board.check()
        assert slot.live() is None
        slot.set_live(LIVE)
        assert LIVE == slot.live()


def test_a_claim_that_was_lost_is_taken_again(board: Board) -> None:
    """Somebody scribbled over our claim: the board is sound, but check() sees that we are not on it."""
    slot = board.claim()
    slot.place.mapping.words[slot.place.base] = 0  # the claim word is the first

    assert not list(board.slots())
    with pytest.raises(BoardError, match="no longer that of pid"):
        slot.set_work(Work("lost"))
    assert board.check()
    slot.set_work(Work("found"))
    assert ["found"] == [seen.work().label for seen in board.slots()]  # type: ignore[union-attr]


def test_f95_threads_may_read_while_it_is_made_anew(folder: Path) -> None:
    """The old mapping stays as long as somebody is inside it."""
    with Board.open(folder, create=True) as board:
        board.claim().set_live(LIVE)
        over, errors = threading.Event(), []

        def read() -> None:
            try:
                while not over.is_set():
                    for slot in board.slots():
                        assert slot.rss in (None, LIVE.rss)
                        assert slot.live() in (None, LIVE)
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=read) for _ in range(3)]
        for thread in threads:
            thread.start()
        for i in range(20):
            if i % 2:
                os.unlink(folder / "board")
            else:
                os.truncate(folder / "board", 0)
            assert board.check()
        over.set()
        for thread in threads:
            thread.join()

        assert [] == errors


@pytest.mark.slow
def test_two_creators_meet_on_one_board(folder: Path) -> None:
    """Started at one moment, many times over, also where a damaged one stands: they see each other."""
    gate, told = os.pipe(), os.pipe()

    def worker() -> None:
        os.read(gate[0], 1)
        board = Board.open(folder, create=True)
        board.claim()
        os.write(told[1], b"x")
        # When both replace a damaged one, the first is told by its next check.
        wait_for(lambda: (board.check(), len(list(board.slots())) == 2)[1])
        os.write(told[1], b"y")
        os.read(gate[0], 1)

    for i in range(30):
        shutil.rmtree(folder, ignore_errors=True)
        if i % 2:
            Board.open(folder, create=True).close()
            os.truncate(folder / "board", 0)
        pids = []
        for _ in range(2):
            pids.append(pid := os.fork())
            if not pid:
                try:
                    worker()
                    os._exit(0)
                finally:
                    os._exit(1)
        os.write(gate[1], b"gg")
        seen = b""
        while len(seen) < 4 and (more := os.read(told[0], 4)):
            seen += more
        os.write(gate[1], b"gg")
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]

        assert [0, 0] == codes
        assert ["board"] == names(folder)
    for fd in (*gate, *told):
        os.close(fd)


# ------------------------------------------------------------- whose slot: F48 F54 F85 F86 ---


def test_f48_a_forked_child_has_no_slot_but_may_claim_one(board: Board) -> None:
    """The parent's slot stays the parent's: the child reads it, but cannot write to it or give it up."""
    slot = board.claim()
    slot.set_work(Work("parent's"))

    def child() -> None:
        assert board.slot is None
        assert not slot.mine
        with pytest.raises(BoardError, match=f"belongs to pid {os.getppid()}"):
            slot.set_work(Work("child's"))
        assert ["parent's"] == [seen.work().label for seen in board.slots()]  # type: ignore[union-attr]
        own = board.claim()
        own.set_work(Work("child's"))
        assert {os.getppid(), os.getpid()} == {seen.owner.pid for seen in board.slots()}
        assert board.slot is own
        assert not board.check()
        board.close()

    in_child(child)
    in_child(board.close)

    assert slot.mine
    assert ["parent's"] == [seen.work().label for seen in board.slots()]  # type: ignore[union-attr]


def test_f50_after_exec_the_slot_is_the_same(folder: Path) -> None:
    """The process is the one it was, so it gets the slot it had."""
    code = """
import os, sys
from memwatch.board import Board
slot = Board.open(sys.argv[1], create=True).claim()
print(slot.number, slot.owner.generation, flush=True)
if len(sys.argv) == 2:
    os.execv(sys.executable, [sys.executable, "-c", os.environ["CODE"], sys.argv[1], "again"])
"""
    done = subprocess.run(
        [sys.executable, "-c", code, folder],
        env={**os.environ, "CODE": code},
        capture_output=True,
        text=True,
        check=True,
    )

    assert "0 1\n0 1\n" == done.stdout


def test_f54_the_slot_of_one_who_was_killed_can_be_read_and_then_taken(board: Board) -> None:
    """SIGKILL leaves the last words on the board; the slot goes to whoever finds no free one."""

    def worker() -> None:
        slot = board.claim()
        slot.set_work(Work("Trial #7", epoch=1))
        slot.record(Record(1.0, RecordKind.LOOK, 5, 6))
        os.kill(os.getpid(), signal.SIGKILL)

    pid = os.fork()
    if not pid:
        try:
            worker()
        finally:
            os._exit(1)
    # A zombie holds no memory: it is dead before anybody has waited for it.
    (dead,) = wait_for(lambda: list(board.dead()))

    assert -signal.SIGKILL == os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert (pid, "Trial #7") == (dead.owner.pid, dead.work().label)
    assert ([Record(1.0, RecordKind.LOOK, 5, 6)], 1) == dead.records()
    assert [] == list(board.slots())
    assert 1 == board.claim().number  # not the dead one's, for there are free ones


@pytest.mark.slow
def test_the_65th_worker_is_told_and_the_next_gets_the_place_of_the_dead(board: Board) -> None:
    """64 workers live: the error says what that means. One ends, and there is a slot."""
    ready, go = os.pipe(), os.pipe()
    pids = []
    for _ in range(64):
        pids.append(pid := os.fork())
        if not pid:
            try:
                board.claim()
                os.write(ready[1], b"x")
                os.close(go[1])
                os.read(go[0], 1)
            finally:
                os._exit(0)
    seen = 0
    while seen < 64:
        seen += len(os.read(ready[0], 64))

    try:
        assert sorted(pids) == sorted(slot.owner.pid for slot in board.slots())
        with pytest.raises(BoardError, match=r"all 64 slots of .* are taken by living workers: this one is braked"):
            board.claim()
        os.kill(pids[40], signal.SIGKILL)
        os.waitpid(pids[40], 0)
        slot = board.claim()
        assert os.getpid() == slot.owner.pid
        assert 2 == slot.owner.generation
    finally:
        os.close(go[1])
        for pid in pids[:40] + pids[41:]:
            os.waitpid(pid, 0)
        for fd in (*ready, go[0]):
            os.close(fd)


@root_only
@pytest.mark.slow
def test_f86_a_worker_in_another_pid_namespace_is_not_taken_for_dead(board: Board, folder: Path) -> None:
    """Its pid says nothing here: its heartbeat does. One that stopped long ago is dead."""
    code = """
import sys, time
from memwatch.board import Board, Live
board = Board.open(sys.argv[1])
slot = board.claim()
now = time.monotonic()
print(slot.owner.pid, flush=True)
for line in sys.stdin:
    slot.set_live(Live(now - float(line), 1, 1, 1, 1))
    print(len(list(board.slots())), flush=True)
"""
    command = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", code, folder]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        pid = int(worker.stdout.readline())
        ours = board.claim()

        def look(age: float) -> tuple[int, int]:
            """How many of the two live, seen from there and from here."""
            assert worker.stdin is not None
            assert worker.stdout is not None
            worker.stdin.write(f"{age}\n")
            return int(worker.stdout.readline()), len(list(board.slots()))

        assert 2 > pid
        assert ours.number == 1
        assert 2 == len(list(board.slots()))  # no heartbeat yet
        # Ours has none either: it lives, as seen from there, until that is so for a minute.
        assert (2, 2) == look(age=0)
        assert (2, 2) == look(age=50)
        assert (2, 1) == look(age=70)  # itself it can see
        assert [pid] == [slot.owner.pid for slot in board.dead()]
        worker.stdin.close()


def test_a_hostile_slot_is_read_without_an_error(board: Board) -> None:
    """Every word of our state is garbage: what is read is None or a value, never an exception (F55)."""
    slot = board.claim()
    place = slot.place
    for word in (2**64 - 1, 2**64 - 2, 0x80_80_80_80_80_80_80_80, 1):
        slot.set_live(LIVE)
        slot.set_work(Work("x"))
        slot.set_orders(Orders())
        slot.record(Record(1.0, RecordKind.LOOK, 1, 1))
        kept = {at: place.mapping.words[at] for at in range(place.base, place.base + 512)}
        sequences = {at for at, kept_word in kept.items() if kept_word >> 48 == place.claim >> 48}
        for at in kept.keys() - sequences:
            place.mapping.words[at] = word
        place.mapping.words[place.base + 4 + 3] = slot.owner.generation  # else nobody's

        slot.live(), slot.work(), slot.orders(), slot.records(), slot.rss
        assert isinstance(list(board.slots()) + list(board.dead()), list)
        for at, kept_word in kept.items():
            place.mapping.words[at] = kept_word
    assert LIVE == slot.live()


# ------------------------------------------------------------------ killed while writing ---


@pytest.mark.slow
def test_f96_a_worker_killed_while_writing_leaves_whole_values(board: Board) -> None:
    """100 workers written in Python, each killed at some moment under a reader: nothing is torn."""
    whole = 0
    for i in range(100):
        pid = os.fork()
        if not pid:
            try:
                slot = board.claim()
                n = 0
                while True:
                    n += 1
                    slot.set_live(Live(float(n), n, n, n, n, (n, n), n, n, n, n, BrakePhase.WATCHING, n, n))
                    slot.set_work(Work(f"Trial #{n}", f"split {n}", epoch=n, budget=n, worker=n))
            finally:
                os._exit(1)
        slots: list[Any] = wait_for(lambda pid=pid: [s for s in board.slots() if s.owner.pid == pid and s.rss])
        for _ in range(i % 7):
            check_whole(slots[0])
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        whole += check_whole(slots[0])

    assert 100 == whole


def check_whole(slot: Any) -> bool:
    """Whether there was something to read; that each of its numbers is the same."""
    live, work = slot.live(), slot.work()
    if live is not None:
        n = live.rss
        assert Live(float(n), n, n, n, n, (n, n), n, n, n, n, BrakePhase.WATCHING, n, n) == live
    if work is not None:
        n = work.epoch
        assert replace(work, label=f"Trial #{n}", detail=f"split {n}", budget=n, worker=n) == work
    return live is not None


# ------------------------------------------------------------------------------ closing ---


def test_closing_gives_the_slot_up(folder: Path) -> None:
    """Who leaves of his own will leaves nothing behind; twice is fine, and afterwards it says so."""
    with Board.open(folder, create=True) as board:
        slot = board.claim()
        assert slot is board.claim()
    board.close()

    with Board.open(folder) as other:
        assert ([], []) == (list(other.slots()), list(other.dead()))
    with pytest.raises(BoardError, match=r"was closed: open it anew"):
        board.claim()
    with pytest.raises(BoardError, match="no longer that of pid"):
        slot.set_work(Work())
    assert "closed" in repr(board)


def test_it_keeps_no_descriptor(board: Board) -> None:
    """The board is a mapping: nothing for a child to inherit, and nothing for close_fds to close."""
    with os.scandir("/proc/self/fd") as entries:
        targets = [os.readlink(entry.path) for entry in entries if os.path.lexists(entry.path)]

    assert [] == [target for target in targets if "board" in target]


def test_errors_have_a_name(folder: Path) -> None:
    """An errno without words of its own is told by name."""
    Board.open(folder, create=True).close()
    (folder / "board").unlink()
    (folder / "board").mkdir()

    with pytest.raises(BoardError, match=errno.errorcode[errno.EISDIR]):
        Board.open(folder, create=True)
