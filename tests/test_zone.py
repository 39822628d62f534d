"""
Free pages that MemAvailable leaves out: /proc/zoneinfo against a reference and captures of named kernels, and
what they are worth as headroom (mw_sampler_credit).

tests/csrc/test_zone.c has the table of what is refused, and every cut of it.
"""

import errno
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import cbuild
from support.fork import in_child
from support.native import Parsers
from support.wait import until

from memwatch import Sampler
from memwatch.sampler import PURE
from memwatch.testing import ProcTree

CAPTURED = cbuild.REPO / "tests/proc"
KB = 1024
MiB = 2**20

needs_native = pytest.mark.skipif(PURE, reason="the credit is the native sampler's alone (MEMWATCH_PURE is set)")


@pytest.fixture(scope="session")
def parse(tmp_path_factory: pytest.TempPathFactory) -> Parsers:
    return Parsers(cbuild.library(["parse_zone.c"], tmp_path_factory.mktemp("zone") / "zone.so"))


def pieces(text: bytes, size: int) -> list[bytes]:
    return [text[at : at + size] for at in range(0, len(text), size)]


# -------------------------------------------------------------------- captures ---


@pytest.mark.parametrize(
    ("machine", "pages"),
    [
        pytest.param("linux-6.1-1cpu", 444, id="1-cpu"),
        pytest.param("linux-6.1-numa", 210 + 6006 + 188 + 373 + 1278 + 1171 + 311 + 357, id="2-nodes"),
        pytest.param("linux-6.18-pagesets", 3690 + 529, id="linux-6.18"),
    ],
)
def test_captured_machines(parse: Parsers, machine: str, pages: int) -> None:
    """What each CPU's list of each zone holds, however the text is cut."""
    text = (CAPTURED / machine / "proc/zoneinfo").read_bytes()

    assert pages == parse.pagesets(text)
    assert {pages} == {parse.pagesets(text[:at], text[at:]) for at in range(len(text))}
    assert {pages} == {parse.pagesets(*pieces(text, size)) for size in range(1, 300)}


def test_a_captured_text_cut_short_is_never_more(parse: Parsers) -> None:
    """Refused, unless whole lines are missing; then it is less, and memory is not thought to be there."""
    text = (CAPTURED / "linux-6.1-numa/proc/zoneinfo").read_bytes()
    whole = parse.pagesets(text)
    assert isinstance(whole, int)
    for at in range(1, len(text)):
        pages = parse.pagesets(text[:at])

        if text[at - 1 : at] != b"\n":
            assert "EBADMSG" == pages
        else:
            assert "ENODATA" == pages or (isinstance(pages, int) and pages <= whole)


def test_this_machine(parse: Parsers) -> None:
    """The kernel that runs here, in its own words."""
    try:
        text = Path("/proc/zoneinfo").read_bytes()
    except FileNotFoundError:
        pytest.skip("no /proc/zoneinfo here: a container's /proc may leave it out")

    assert sum(map(int, re.findall(rb"^ +count: +(\d+)$", text, re.M))) == parse.pagesets(text)


# ------------------------------------------------------------------- a reference ---


def reference(text: bytes) -> int | None:
    """The same rules once more: pages, or None where there is no number to take."""
    *lines, rest = text.split(b"\n")
    if rest or any(len(line) > 256 for line in lines):
        return None
    zones, pagesets, counts = False, False, []
    for line in lines:
        if line.startswith(b"Node "):
            if not re.match(rb"Node [0-9]+, zone ", line) or int(line[5 : line.index(b",")]) >= 2**64:
                return None
            zones, pagesets = True, False
        elif not zones:
            return None
        elif line.lstrip(b" ") == b"pagesets":
            pagesets = True
        elif pagesets and line.lstrip(b" ").startswith(b"count:"):
            value = line.lstrip(b" ")[6:].lstrip(b" ")
            if not re.fullmatch(rb"[0-9]+", value):
                return None
            counts.append(int(value))
    return sum(counts) if counts and sum(counts) < 2**64 else None


numbers = st.one_of(st.integers(0, 9999), st.sampled_from([2**31, 2**63, 2**64 - 1, 2**64, 10**30])).map(b"%d".__mod__)
line = st.one_of(
    st.just(b"  pagesets"),
    numbers.map(lambda n: b"              count: " + n),
    numbers.map(lambda n: b"Node " + n + b", zone   Normal"),
    st.sampled_from(
        [b"    cpu: 0", b"              high:  186", b"  start_pfn:           1", b"", b"count: ", b"Node 0"]
    ),
    st.binary(max_size=12).filter(lambda some: b"\n" not in some),
)
texts = st.lists(line, max_size=20).map(lambda lines: b"".join(each + b"\n" for each in lines))
well_formed = st.lists(st.integers(0, 10**6), min_size=1, max_size=9).map(
    lambda counts: b"Node 0, zone    DMA32\n  pagesets\n" + b"".join(b"  count: %d\n  high: 1\n" % n for n in counts)
)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A well-formed text of which a few bytes were changed, lost or doubled."""
    text = bytearray(draw(well_formed))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(text) - 1))
        deed = draw(st.sampled_from(["change", "lose", "double"]))
        if deed == "change":
            text[at] = draw(st.sampled_from(b"0129 \n:,-cNz\0\xff"))
        elif deed == "double":
            text[at:at] = text[at : at + 9]
        elif len(text) > 1:
            del text[at : at + draw(st.integers(1, 9))]
    return bytes(text)


@pytest.mark.parametrize("kind", [texts, well_formed, damaged()], ids=["lines", "well-formed", "damaged"])
def test_f05_f06_any_text_gives_the_reference_s_answer(parse: Parsers, kind: st.SearchStrategy[bytes]) -> None:
    """The same pages or none, and the same answer however the text is cut."""

    @settings(max_examples=150, deadline=None, database=None)
    @given(text=kind, size=st.integers(1, 40))
    def holds(text: bytes, size: int) -> None:
        answer = parse.pagesets(text)

        assert reference(text) == (answer if isinstance(answer, int) else None)
        assert answer == parse.pagesets(*pieces(text, size))

    holds()


# ----------------------------------------------------------------------- the fake ---


@pytest.mark.parametrize("counts", [(0, 0), (3066,), (1, 20, 300, 4000)])
def test_the_fake_tells_what_it_was_told(parse: Parsers, tmp_path: Path, counts: tuple[int, ...]) -> None:
    """ProcTree's zoneinfo holds the pages that it was given; from the start it holds none."""
    tree = ProcTree(tmp_path)
    text = tmp_path / "proc/zoneinfo"
    assert 0 == parse.pagesets(text.read_bytes())
    tree.zoneinfo(counts)

    assert sum(counts) == parse.pagesets(text.read_bytes())


def test_the_fake_is_like_a_real_kernel(parse: Parsers, tmp_path: Path) -> None:
    """Each of its lines stands in the captured file, but for its figures; without CPUs, nobody tells."""
    ProcTree(tmp_path).zoneinfo([7, 8])
    real = (CAPTURED / "linux-6.18-pagesets/proc/zoneinfo").read_text()

    def shapes(text: str) -> set[str]:
        return {re.sub(r"\d+", "0", line) for line in text.splitlines()}

    assert set() == shapes((tmp_path / "proc/zoneinfo").read_text()) - shapes(real)
    ProcTree(tmp_path).zoneinfo([])
    assert "ENODATA" == parse.pagesets((tmp_path / "proc/zoneinfo").read_bytes())


@needs_native
def test_this_process_below_a_root_is_the_tree_s(tmp_path: Path) -> None:
    """Who looks at itself below a tree sees the tree's process, whatever its own pid."""
    tree = ProcTree(tmp_path, pid=1234)
    tree.process(1234, rss=77 * 4096 * 16)
    with Sampler(root=tree.root) as sampler:
        assert 77 * 4096 * 16 == sampler.sample().rss


# ---------------------------------------------------------------------- the credit ---


class Looker:
    """The C sampler on a tree's own process, asked without Python's shell."""

    def __init__(self, root: Path, flags: int = 0) -> None:
        from memwatch._native import ffi, lib

        self.ffi, self.lib = ffi, lib
        out = ffi.new("struct mw_sampler **")
        assert lib.mw_sampler_open(str(root).encode(), 0, flags, out) == 0
        self.handle = ffi.gc(out[0], lib.mw_sampler_close)
        assert lib.mw_sampler_near(self.handle, 2**64 - 1) == 0  # every figure of this moment

    def credit(self, size: int, *, dirty: bool = False) -> int:
        return int(self.lib.mw_sampler_credit(self.handle, size, dirty))

    def headroom(self) -> int:
        """mw_headroom(), and mw_sample() says the same."""
        assert self.lib.mw_headroom(self.handle) == self.sample().headroom
        return int(self.lib.mw_headroom(self.handle))

    def sample(self) -> Any:
        out = self.ffi.new("struct mw_sample *")
        assert self.lib.mw_sample(self.handle, out) == 0
        return out


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[ProcTree]:
    tree = ProcTree(tmp_path)
    tree.machine(total=8000 * MiB, available=1000 * MiB, free=500 * MiB)
    return tree


@needs_native
@pytest.mark.parametrize(
    ("credit", "headroom"),
    [
        pytest.param(0, 1000 * MiB, id="none"),
        pytest.param(834 * MiB, 1834 * MiB, id="some"),
        pytest.param(7000 * MiB, 8000 * MiB, id="all"),
        pytest.param(7000 * MiB + 1, 8000 * MiB, id="never-more-than-there-is"),
        pytest.param(2**64 - 1, 8000 * MiB, id="the-largest"),
    ],
)
def test_credit_counts_as_headroom_of_the_machine(tree: ProcTree, credit: int, headroom: int) -> None:
    """From the next look on, and until another is given; MemAvailable stays what the kernel says."""
    looker = Looker(tree.root)
    assert 1000 * MiB == looker.headroom()
    assert 0 == looker.credit(credit)

    assert headroom == looker.headroom()
    assert 1000 * MiB == looker.sample().mem_available
    assert 8000 * MiB == looker.sample().limit
    assert 0 == looker.credit(0)
    assert 1000 * MiB == looker.headroom()


@needs_native
def test_credit_comes_beside_swap(tree: ProcTree) -> None:
    """Where free swap counts, it counts on top: swap is not part of MemTotal."""
    from memwatch._native import lib

    tree.machine(total=8000 * MiB, available=1000 * MiB, swap_total=3000 * MiB, swap_free=2000 * MiB)
    looker = Looker(tree.root, lib.MW_COUNT_SWAP)
    looker.credit(9000 * MiB)

    assert 10000 * MiB == looker.headroom()


@needs_native
@pytest.mark.parametrize("version", [1, 2])
def test_credit_is_nothing_to_a_cgroup(tmp_path: Path, version: int) -> None:
    """A cgroup's limit binds as before; and it binds once the machine, with its credit, has more."""
    tree = ProcTree(tmp_path, version=version)
    tree.machine(total=8000 * MiB, available=1000 * MiB)
    folder = tree.group("/job", limit=2000 * MiB, usage=1900 * MiB)
    tree.join("/job")
    looker = Looker(tree.root)
    looker.credit(834 * MiB)

    assert 100 * MiB == looker.headroom()
    tree.group("/job", limit=2000 * MiB, usage=500 * MiB)
    assert 1500 * MiB == looker.headroom()
    assert (folder.stat().st_ino, 2000 * MiB) == (looker.sample().bind_ino, looker.sample().limit)
    looker.credit(0)
    assert (1000 * MiB, 0) == (looker.headroom(), looker.sample().bind_ino)


@needs_native
@pytest.mark.parametrize("version", [1, 2])
def test_f22_what_waits_for_the_disk_is_there_at_a_second_look(tmp_path: Path, version: int) -> None:
    """Writing files through a cgroup read as below the floor, while the kernel waits for the disk and kills nobody."""
    tree = ProcTree(tmp_path, version=version)
    lists = {"inactive_file": 300 * MiB, "active_file": 200 * MiB, "dirty": 350 * MiB, "writeback": 100 * MiB}
    tree.group("/job", limit=1000 * MiB, usage=990 * MiB, **lists)
    tree.join("/job")
    looker = Looker(tree.root)

    assert 60 * MiB == looker.headroom()
    looker.credit(0, dirty=True)
    assert 510 * MiB == looker.headroom()
    looker.credit(0)
    assert 60 * MiB == looker.headroom()


@needs_native
def test_credit_invents_no_headroom(tree: ProcTree) -> None:
    """Where MemAvailable cannot be read, headroom is unknown, whatever credit there is."""
    looker = Looker(tree.root)
    looker.credit(834 * MiB)
    (tree.root / "proc/meminfo").write_text("MemTotal: ")
    sample = looker.sample()

    assert 2**64 - 1 == sample.headroom
    assert -errno.EBADMSG == looker.lib.mw_headroom(looker.handle)


@needs_native
def test_credit_is_refused_where_nobody_may_look(tree: ProcTree) -> None:
    """In a forked child, whose handle speaks of its parent; and without a handle."""
    looker = Looker(tree.root)

    assert -errno.EBADF == looker.lib.mw_sampler_credit(looker.ffi.NULL, 1, 0)
    assert str(-errno.ECHILD) == in_child(lambda: looker.credit(MiB))
    assert 1000 * MiB == looker.headroom()


@needs_native
@pytest.mark.slow
def test_limits_that_may_be_late_are_not_forgotten(tmp_path: Path) -> None:
    """The brake reads them once a second where there is plenty: one that is lowered is met all the same."""
    from memwatch._native import lib

    tree = ProcTree(tmp_path)
    tree.group("/job", limit=2000 * MiB, usage=100 * MiB)
    tree.join("/job")
    looker = Looker(tree.root, lib.MW_LAZY_LIMITS)
    assert lib.mw_sampler_near(looker.handle, 10 * MiB) == 0
    assert 1900 * MiB == looker.headroom()
    tree.group("/job", limit=110 * MiB, usage=100 * MiB)

    until(lambda: looker.lib.mw_headroom(looker.handle) == 10 * MiB)
    tree.group("/job", limit=105 * MiB, usage=100 * MiB)
    until(lambda: looker.lib.mw_headroom(looker.handle) == 5 * MiB)
