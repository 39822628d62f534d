"""
The parsers of csrc/parse*.c against hand-made hostile files and captures of named kernels.

tests/proc/hostile/EXPECT.md says in words what the tables here say in values. test_parse_reference.py holds
the same parsers to a reference.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import cbuild
from support.hostile import HOSTILE, MONSTERS, good, hostile, monster
from support.native import NO_LIMIT, Membership, Meminfo, Mount, Parsers, Pressure, Stat, Statm

PARSERS = ["parse.c", "parse_cgroup.c"]
CAPTURES = cbuild.REPO.parent / "shared" / "proc"

KB = 1024


@pytest.fixture(scope="session")
def parse(tmp_path_factory: pytest.TempPathFactory) -> Parsers:
    return Parsers(cbuild.library(PARSERS, tmp_path_factory.mktemp("parse") / "parse.so"))


# ---------------------------------------------------------------- the hostile files ---

GOOD = Meminfo(8000000 * KB, 1000000 * KB, 5000000 * KB, 2000000 * KB, 1500000 * KB)
ESTIMATE = GOOD._replace(available=4100000 * KB, estimated=True)

MEMINFO = {
    "01-good": GOOD,
    "02-cut-in-number": "EBADMSG",
    "03-cut-before-unit": "EBADMSG",
    "05-cut-in-key": "EBADMSG",
    "06-no-final-newline": GOOD,
    "07-negative": "EBADMSG",
    "09-plus": "EBADMSG",
    "10-decimal-point": "EBADMSG",
    "11-exponent": "EBADMSG",
    "13-leading-zeros": GOOD,
    "14-nul-in-number": "EBADMSG",
    "15-nul-at-end": "EBADMSG",
    "17-crlf": "EBADMSG",
    "18-line-1mib-digits": "EBADMSG",
    "19-line-64k-key": "EBADMSG",
    "21-key-as-suffix": ESTIMATE,
    "22-key-as-prefix": ESTIMATE,
    "23-swapcached-before-cached": GOOD,
    "25-lower-case-key": ESTIMATE,
    "26-value-2p64": "EOVERFLOW",
    "27-value-2p64-minus-1": "EOVERFLOW",
    "29-value-2p54-minus-1": GOOD._replace(total=2**64 - KB, available=2**64 - KB),
    "30-value-100-digits": "EOVERFLOW",
    "31-swapfree-underflow": GOOD._replace(swap_total=None, swap_free=None, swap_error="EOVERFLOW"),
    "33-unit-mb": "EBADMSG",
    "34-unit-lower-case": "EBADMSG",
    "35-unit-without-space": "EBADMSG",
    "37-text-after-unit": "EBADMSG",
    "38-two-numbers": "EBADMSG",
    "39-no-colon": ESTIMATE,
    "41-leading-space": ESTIMATE,
    "42-no-space-after-colon": GOOD,
    "43-tab-after-colon": "EBADMSG",
    "45-unicode-digits": "EBADMSG",
    "46-fullwidth-digits": "EBADMSG",
    "47-utf8-bom": "ENODATA",
    "49-value-missing": "EBADMSG",
    "50-empty-value-line": "EBADMSG",
    "51-unknown-line-without-value": GOOD,
    "53-total-missing": "ENODATA",
    "54-available-missing": ESTIMATE,
    "55-available-missing-shmem-larger": ESTIMATE._replace(available=0),
    "57-reversed-order": GOOD,
    "58-available-above-total": "ERANGE",
    "59-free-above-total": "ERANGE",
    "61-total-zero": "ERANGE",
    "62-available-zero": GOOD._replace(available=0),
    "63-empty": "ENODATA",
    "65-only-newlines": "ENODATA",
    "66-one-colon": "EBADMSG",
    "67-random-bytes": "EBADMSG",
}

STATM = {
    "01-good": Statm(31963 * 4096, 158 * 4096),
    "02-zombie": "ESRCH",
    "03-cut-in-number": "EBADMSG",
    "05-no-newline": "EBADMSG",
    "06-six-fields": "EBADMSG",
    "07-eight-fields": "EBADMSG",
    "09-plus": "EBADMSG",
    "10-hex": "EBADMSG",
    "11-nul": "EBADMSG",
    "13-tabs": "EBADMSG",
    "14-double-space": "EBADMSG",
    "15-leading-space": "EBADMSG",
    "17-rss-2p64": "EOVERFLOW",
    "18-rss-2p52": "EOVERFLOW",
    "19-shared-2p64-minus-1": Statm(12547 * 4096, None),
    "21-unicode-digits": "EBADMSG",
    "22-empty": "ENODATA",
    "23-only-spaces": "EBADMSG",
}

PROBE = Stat(pid=109, ppid=1, start_time=337, state="S")

STAT = {
    "01-good": PROBE,
    "02-comm-with-paren": PROBE,
    "03-comm-with-newline": PROBE,
    "05-comm-non-utf8": PROBE,
    "06-comm-looks-like-fields": PROBE,
    "07-cut-in-starttime": "EBADMSG",
    "09-other-pid": PROBE._replace(pid=110),
    "10-44-fields-2.6": Stat(pid=1, ppid=0, start_time=2, state="S"),
    "11-starttime-negative": "EBADMSG",
}

MEMORY_MAX = {
    "01-good": 134217728,
    "02-good-max": NO_LIMIT,
    "03-max-no-newline": "EBADMSG",
    "05-max-upper-case": "EBADMSG",
    "06-max-space": "EBADMSG",
    "07-maximum": "EBADMSG",
    "09-negative": "EBADMSG",
    "10-plus": "EBADMSG",
    "11-hex": "EBADMSG",
    "13-crlf": "EBADMSG",
    "14-trailing-space": "EBADMSG",
    "15-two-lines": "EBADMSG",
    "17-zero": 0,
    "18-v1-unlimited-4k": NO_LIMIT,
    "19-v1-unlimited-16k": NO_LIMIT,
    "21-v1-unlimited-rhel6": NO_LIMIT,
    "22-v1-unlimited-3.x": NO_LIMIT,
    "23-value-2p64": "EOVERFLOW",
    "25-empty": "ENODATA",
    "26-only-newline": "EBADMSG",
    "27-only-spaces": "EBADMSG",
    "29-line-64k-digits": "EOVERFLOW",
}

# inactive_file, and what counts as reclaimable on v2: no file_dirty is told, so the inactive list alone.
# In a text that is cut file_dirty may have been cut off.
MEMORY_STAT = {
    "01-good": (1500000, 1500000),
    "02-cut-in-number": ("EBADMSG", "EBADMSG"),
    "03-no-final-newline": (1500000, "EBADMSG"),
    "05-key-as-suffix": ("ENODATA", "ENODATA"),
    "06-active-before-inactive": (1500000, 1500000),
    "07-v1-both": (100, 100),
    "09-negative": ("EBADMSG", "EBADMSG"),
    "10-plus": ("EBADMSG", "EBADMSG"),
    "11-tab": ("EBADMSG", "EBADMSG"),
    "13-colon": ("ENODATA", "ENODATA"),
    "14-with-unit": ("EBADMSG", "EBADMSG"),
    "15-crlf": ("EBADMSG", "EBADMSG"),
    "17-value-2p64": ("EOVERFLOW", "EOVERFLOW"),
    "18-inactive-above-usage": (99000000000, 99000000000),
    "19-empty": ("ENODATA", "ENODATA"),
}

# oom, oom_kill, oom_group_kill.
MEMORY_EVENTS = {
    "01-good": (5, 1, 0),
    "02-old-five-lines": (1, 1, "ENODATA"),
    "03-cut": (5, "EBADMSG", "EBADMSG"),
    "05-order": (5, 1, 3),
    "06-empty": ("ENODATA", "ENODATA", "ENODATA"),
}

PRESSURE = {
    "01-good": Pressure(160, 519605, 160, 516764),
    "02-cut-in-total": "EBADMSG",
    "03-only-some": Pressure(160, 519605),
    "05-decimal-comma": "EBADMSG",
    "06-negative": "EBADMSG",
    "07-above-100": "ERANGE",
    "09-one-decimal": "EBADMSG",
    "10-missing-field": "EBADMSG",
    "11-total-2p64": "EOVERFLOW",
    "13-empty": "ENODATA",
}

V2 = Mount(2, b"/", b"/sys/fs/cgroup")
V1 = Mount(1, b"/", b"/sys/fs/cgroup/memory")

# What is left when the sound lines of other file systems are passed over.
MOUNTINFO: dict[str, list[Mount | str]] = {
    "01-good-v2": [V2],
    "02-good-v1": [V1],
    "03-recursiveprot-is-not-v1": [V2],
    "05-octal-tab-newline-backslash": [V2._replace(point=b"/a\tb\nc\\d")],
    "06-escape-backslash-then-digits": [V2._replace(point=rb"/a\040b")],
    "07-escape-cut": ["EBADMSG"],
    "09-escape-too-big": ["EBADMSG"],
    "10-escape-nul": ["EBADMSG"],
    "11-no-optional-field": [V2],
    "13-dash-in-path": [V2._replace(point=b"/mnt/a - b")],
    "14-no-separator": ["EBADMSG"],
    "15-nothing-after-separator": ["EBADMSG"],
    "17-cut-last-line": ["EBADMSG"],
    "18-no-final-newline": ["EBADMSG"],
    "19-type-is-only-the-source": [],
    "21-name-memory-hierarchy": [],
    "22-memory-with-others": [V1._replace(point=b"/cgroup")],
    "23-memory-in-mount-options-only": [],
    "25-bind-elsewhere": [V2, Mount(2, b"/app.slice", b"/mnt/x")],
    "26-root-outside-namespace": [V2._replace(root=b"/../..")],
    "27-root-docker-id": [V1._replace(root=b"/docker/0123456789abcdef")],
    "29-negative-id": ["EBADMSG"],
    "30-device-malformed": ["EBADMSG"],
    "31-relative-mount-point": ["EBADMSG"],
    "33-crlf": ["EBADMSG"] * 3,
    "34-nul": ["EBADMSG"],
    "35-long-overlay-line": [V2],
    "37-only-spaces": ["EBADMSG"],
}

CGROUP = {
    "01-good-v2": Membership(2, b"/app.slice/job.scope/worker"),
    "02-good-hybrid": Membership(1, b"/kubepods/pod1"),
    "03-root": Membership(2, b"/"),
    "05-colons": Membership(2, b"/a:b:c/d"),
    "06-leading-colon-name": Membership(2, b"/:memory:/x"),
    "07-newline-escape": Membership(2, rb"/a\012b"),
    "09-non-utf8": Membership(2, b"/bad\xffname"),
    "10-deleted": Membership(2, b"/free.slice/gone (deleted)"),
    "11-outside-namespace": Membership(2, b"/../../user.slice/x", outside=True),
    "13-dotdot-in-the-middle": "EBADMSG",
    "14-dots-are-a-name": Membership(2, b"/..a/..."),
    "15-relative": "EBADMSG",
    "17-one-colon": "EBADMSG",
    "18-no-colon": "EBADMSG",
    "19-no-newline": "EBADMSG",
    "21-nul": "EBADMSG",
    "22-id-negative": "EBADMSG",
    "23-id-hex": "EBADMSG",
    "25-two-unified-lines": "EBADMSG",
    "26-memory-with-others": Membership(1, b"/docker/x"),
    "27-memory-as-part-of-a-name": Membership(2, b"/a"),
    "29-zero-with-controllers": "EBADMSG",
    "30-path-5000": "ENAMETOOLONG",
    "31-depth-1000": Membership(2, b"/a" * 1000),
    "33-trailing-slash": "EBADMSG",
    "34-shell-and-format": Membership(2, b"/$(reboot)/%n%s;`x`"),
    "35-ansi-escape": Membership(2, b"/\x1b[2J\x1b]0;x\x07"),
    "37-only-spaces": "EBADMSG",
}

CONTROLLERS = {
    "01-good": True,
    "02-without-memory": False,
    "03-empty-line": False,
    "05-part-of-a-word": False,
    "06-no-newline": "EBADMSG",
    "07-tabs": False,
}

TABLES: dict[str, dict[str, Any]] = {
    "meminfo": MEMINFO,
    "statm": STATM,
    "stat": STAT,
    "memory.max": MEMORY_MAX,
    "memory.stat": MEMORY_STAT,
    "memory.events": MEMORY_EVENTS,
    "pressure": PRESSURE,
    "mountinfo": MOUNTINFO,
    "cgroup": CGROUP,
    "cgroup.controllers": CONTROLLERS,
}

READERS: dict[str, Callable[[Parsers, bytes], Any]] = {
    "meminfo": Parsers.meminfo,
    "statm": Parsers.statm,
    "stat": Parsers.stat,
    "memory.max": Parsers.limit,
    "memory.stat": lambda parse, text: (parse.key(text, b"inactive_file"), parse.reclaimable(text, 2)),
    "memory.events": lambda parse, text: tuple(
        parse.key(text, key) for key in (b"oom", b"oom_kill", b"oom_group_kill")
    ),
    "pressure": Parsers.pressure,
    "mountinfo": lambda parse, text: memory_mounts(parse.mount, text),
    "cgroup": Parsers.membership,
    "cgroup.controllers": lambda parse, text: parse.word(text, b"memory"),
}


def memory_mounts(mount: Callable[[bytes], Any], text: bytes) -> list[Any]:
    """What *mount* says of each line, but for those that are sound and no memory cgroup."""
    return [answer for line in text.splitlines(keepends=True) if (answer := mount(line)) != "ENODATA"]


CASES = [(kind, name) for kind, table in TABLES.items() for name in table]


@pytest.mark.parametrize(("kind", "name"), CASES, ids=[f"{kind}-{name}" for kind, name in CASES])
def test_a_hostile_file_gives_the_value_it_has_or_an_error(parse: Parsers, kind: str, name: str) -> None:
    """Each file of tests/proc/hostile gives what EXPECT.md says of it, and never another number."""
    answer = READERS[kind](parse, hostile(kind, name))

    assert TABLES[kind][name] == answer


def test_every_row_of_expect_is_asserted() -> None:
    """The tables here name the files EXPECT.md names, all of them; and each file is named there."""
    named: dict[str, list[str]] = {}
    for line in (HOSTILE / "EXPECT.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            rows = named.setdefault(line[3:], [])
        elif row := re.match(r"\| (\d\d-\S+) \|", line):
            rows.append(row[1])
    kept = {(path.parent.name, path.name) for path in HOSTILE.glob("*/*")}

    assert {kind: list(table) for kind, table in TABLES.items()} == named
    assert set(CASES) == kept | set(MONSTERS)


@pytest.mark.skipif(not CAPTURES.is_dir(), reason="needs the originals, in shared/proc beside the checkout")
@pytest.mark.parametrize(("kind", "name"), MONSTERS)
def test_a_monster_made_here_is_the_original(kind: str, name: str) -> None:
    """The files that are made and not kept are byte for byte those that EXPECT.md speaks of."""
    assert (CAPTURES / "hostile" / kind / name).read_bytes() == monster(kind, name)


@pytest.mark.parametrize("name", ["01-good", "23-swapcached-before-cached"])
def test_f09_cached_is_not_swapcached(parse: Parsers, name: str) -> None:
    """A key stands at the start of its line: SwapCached comes first and is not Cached."""
    assert 3000000 * KB == parse.kb(hostile("meminfo", name), b"Cached")


def test_a_v1_group_counts_what_is_below_it(parse: Parsers) -> None:
    """On v1 the total_ figures are those of the hierarchy that the limit holds for."""
    text = hostile("memory.stat", "07-v1-both")

    assert 1500000 == parse.reclaimable(text, 1)
    assert 1500000 == parse.key(text, b"total_inactive_file")


# ------------------------------------------------------------------ faults, by name ---

HEAD = b"MemTotal: 8000 kB\nMemFree: 1000 kB\n"
TAIL = b"SwapTotal: 20 kB\nSwapFree: 15 kB\n"
SMALL = Meminfo(8000 * KB, 1000 * KB, 5000 * KB, 20 * KB, 15 * KB)


def with_line(line: bytes) -> bytes:
    return HEAD + line + TAIL


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        pytest.param(b"Cached: 50 kB\nShmem: 5 kB\nSReclaimable: 3 kB\n", 1048, id="sum"),
        pytest.param(b"Cached: 50 kB\nShmem: 5 kB\n", 1045, id="no-sreclaimable-as-in-gvisor"),
        pytest.param(b"Cached: 50 kB\nShmem: 1051 kB\n", 0, id="never-below-0"),
        pytest.param(b"Cached: 50 kB\n", "ENODATA", id="without-shmem-cached-may-all-be-tmpfs"),
        pytest.param(b"Shmem: 5 kB\n", "ENODATA", id="without-cached"),
        pytest.param(b"Cached: 50 kB\nShmem: 5\n", "EBADMSG", id="malformed-part"),
        pytest.param(b"Cached: 7006 kB\nShmem: 5 kB\n", "ERANGE", id="above-total"),
    ],
)
def test_f04_no_memavailable_is_estimated(parse: Parsers, line: bytes, expected: int | str) -> None:
    """Without MemAvailable: MemFree + Cached + SReclaimable - Shmem, marked as an estimate."""
    answer = parse.meminfo(with_line(line))
    wanted = expected
    if isinstance(expected, int):
        wanted = SMALL._replace(available=expected * KB, estimated=True)

    assert wanted == answer


@pytest.mark.parametrize("kind", ["meminfo", "statm", "stat", "memory.max", "cgroup.controllers", "pressure"])
def test_f05_a_cut_line_is_refused(parse: Parsers, kind: str) -> None:
    """Whatever a text is cut to, the answer is the whole text's, or unknown, or an error."""
    text = good(kind)
    whole = READERS[kind](parse, text)
    for length in range(1, len(text)):
        answer = READERS[kind](parse, text[:length])
        if isinstance(answer, Meminfo) and answer.swap_error:
            answer = answer._replace(swap_total=GOOD.swap_total, swap_free=GOOD.swap_free, swap_error=None)
        if isinstance(answer, Pressure) and answer.full_avg10 is None:
            answer = answer._replace(full_avg10=whole.full_avg10, full_total_us=whole.full_total_us)

        assert answer == whole or answer in ("EBADMSG", "ENODATA"), text[:length]


def test_f05_what_may_be_cut_off_is_not_absent(parse: Parsers) -> None:
    """A kernel without MemAvailable and a text that lost it are told apart by the final newline."""
    text = with_line(b"Cached: 50 kB\nShmem: 5 kB\n")

    assert SMALL._replace(available=1045 * KB, estimated=True) == parse.meminfo(text)
    assert "EBADMSG" == parse.meminfo(text + b"Zswap: 1")


@pytest.mark.parametrize(
    "value",
    [b"-1 kB", b"+5 kB", b"0x10 kB", b"5 MB", b"5kB", b"5", b"5 kB ", b"5 kB\r", b"5\0 kB", b"\t5 kB", b"\xd9\xa5 kB"],
)
def test_f06_a_garbled_line_is_refused(parse: Parsers, value: bytes) -> None:
    """Only ASCII digits, a blank and "kB": a sign, a base, another unit or a NUL is no number."""
    assert "EBADMSG" == parse.meminfo(with_line(b"MemAvailable: " + value + b"\n"))


@pytest.mark.parametrize("kib", [2**54, 2**64 - 1, 2**64, 2**64 + 5000, 10**100])
def test_f07_a_number_that_does_not_fit_is_refused(parse: Parsers, kib: int) -> None:
    """Neither the number nor its 1,024-fold may wrap round: 2^64 + 5000 is not 5000."""
    assert "EOVERFLOW" == parse.meminfo(with_line(b"MemAvailable: %d kB\n" % kib))


def test_f08_the_first_of_two_counts(parse: Parsers) -> None:
    """Of a key that stands twice the first counts, in each parser that looks for keys."""
    twice = with_line(b"MemAvailable: 5000 kB\nMemAvailable: 6000 kB\n") + HEAD + TAIL
    stat = b"file_dirty 1\nfile_writeback 1\ninactive_file 5\nactive_file 5\n"

    assert SMALL == parse.meminfo(twice)
    assert 5000 * KB == parse.kb(twice, b"MemAvailable")
    assert 1 == parse.key(b"oom_kill 1\noom_kill 2\n", b"oom_kill")
    assert 8 == parse.reclaimable(stat + stat.replace(b"5", b"9"), 2)


def test_a_tab_may_stand_before_a_number_of_status(parse: Parsers) -> None:
    """/proc/PID/status aligns with one; "VmData" was refused, and so nobody was ever squeezed."""
    assert 336 * KB == parse.kb(b"Name:\tpython\nVmData:\t     336 kB\n", b"VmData")


@pytest.mark.parametrize(
    "line", [b"XMemAvailable: 7 kB\n", b" MemAvailable: 7 kB\n", b"MemAvailableX: 7 kB\n", b"memavailable: 7 kB\n"]
)
def test_f09_another_key_is_not_ours(parse: Parsers, line: bytes) -> None:
    """A key that merely contains ours does not count, before or after it."""
    assert SMALL == parse.meminfo(with_line(line + b"MemAvailable: 5000 kB\n"))


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(b"MemTotal: 0 kB\nMemFree: 0 kB\nMemAvailable: 0 kB\n" + TAIL, id="total-0"),
        pytest.param(b"MemTotal: 9 kB\nMemFree: 10 kB\nMemAvailable: 9 kB\n" + TAIL, id="free"),
        pytest.param(b"MemTotal: 9 kB\nMemFree: 9 kB\nMemAvailable: 10 kB\n" + TAIL, id="available"),
    ],
)
def test_f10_an_insane_sample_is_refused(parse: Parsers, text: bytes) -> None:
    """What is well-formed but cannot be is -ERANGE, for the caller to drop and count."""
    assert "ERANGE" == parse.meminfo(text)


@pytest.mark.parametrize(
    ("swap", "error"),
    [
        pytest.param(b"SwapTotal: 0 kB\nSwapFree:18014396678257232 kB\n", "ERANGE", id="wsl-1"),
        pytest.param(b"SwapTotal: 0 kB\nSwapFree: 18446744073709551488 kB\n", "EOVERFLOW", id="old-lxcfs"),
        pytest.param(b"SwapTotal: 9 kB\nSwapFree: x kB\n", "EBADMSG", id="malformed"),
        pytest.param(b"SwapTotal: 9 kB\n", "ENODATA", id="half"),
        pytest.param(b"", "ENODATA", id="none"),
        pytest.param(b"SwapTotal: 9 kB\nSwapFree: 8", "EBADMSG", id="cut"),
    ],
)
def test_f10_insane_swap_leaves_memory_alone(parse: Parsers, swap: bytes, error: str) -> None:
    """Swap fails apart: both its numbers are unknown, and MemAvailable stands."""
    answer = parse.meminfo(HEAD + b"MemAvailable: 5000 kB\n" + swap)

    assert SMALL._replace(swap_total=None, swap_free=None, swap_error=error) == answer


def test_f15_a_zombie_is_gone_and_not_small(parse: Parsers) -> None:
    """Seven zeros are -ESRCH; a process that holds nothing but has a size is alive."""
    assert "ESRCH" == parse.statm(b"0 0 0 0 0 0 0\n")
    assert Statm(0, 0) == parse.statm(b"1 0 0 0 0 0 0\n")


@pytest.mark.parametrize("page", [2**shift for shift in range(12, 19)])
def test_f30_no_limit_is_told_with_each_page_size(parse: Parsers, page: int) -> None:
    """LONG_MAX rounded down to a page is no limit; a byte less than the largest page makes it is one."""
    assert NO_LIMIT == parse.limit(b"%d\n" % ((2**63 - 1) // page * page))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"max\n", NO_LIMIT),
        (b"9223372036854775807\n", NO_LIMIT),
        (b"18446744073709551615\n", NO_LIMIT),
        (b"9223372036854513663\n", 9223372036854513663),
        (b"0\n", 0),
        (b"max", "EBADMSG"),
    ],
)
def test_f30_a_limit_or_none(parse: Parsers, text: bytes, expected: int | str) -> None:
    """ "max" and the largest numbers are no limit; 0 is a limit."""
    assert expected == parse.limit(text)


def test_f38_pressure_can_be_polled(parse: Parsers) -> None:
    """Where a trigger is refused, the file tells the same: averages and totals of some and full."""
    text = (
        b"some avg10=99.99 avg60=0.00 avg300=100.00 total=18446744073709551615\n"
        b"full avg10=0.05 avg60=0.00 avg300=0.00 total=0\n"
    )

    assert Pressure(9999, 2**64 - 1, 5, 0) == parse.pressure(text)


# ------------------------------------------------------------------------- captures ---


def captures(*patterns: str) -> list[Any]:
    """The captured files of those names as parameters; one that is skipped where there are none."""
    if not CAPTURES.is_dir():
        reason = "needs captures of real kernels, in shared/proc beside the checkout"
        return [pytest.param(None, marks=pytest.mark.skip(reason=reason))]
    paths = sorted({path for pattern in patterns for path in CAPTURES.glob(pattern) if path.is_file()})
    paths = [path for path in paths if not path.is_relative_to(CAPTURES / "hostile")]
    assert paths, f"no captures called {patterns}"
    return [pytest.param(path, id=str(path.relative_to(CAPTURES))) for path in paths]


def machine(path: Path) -> str:
    return path.relative_to(CAPTURES).parts[0]


@pytest.mark.parametrize("path", captures("*/proc/meminfo"))
def test_captured_meminfo(parse: Parsers, path: Path) -> None:
    """Each machine's /proc/meminfo gives the numbers that split() and int() find in it."""
    text = path.read_bytes()
    kib = {
        words[0][:-1]: int(words[1])
        for line in text.replace(b":", b": ").decode().splitlines()
        if (words := line.split())
    }
    available = kib.get("MemAvailable")
    expected: Meminfo | str
    if available is None and not text.endswith(b"\n"):
        expected = "EBADMSG"
    elif available is None and "Shmem" not in kib:
        expected = "ENODATA"
    else:
        estimate = (
            kib["MemFree"] + kib["Cached"] + kib.get("SReclaimable", 0) - kib["Shmem"] if available is None else 0
        )
        expected = Meminfo(
            kib["MemTotal"] * KB,
            kib["MemFree"] * KB,
            (estimate if available is None else available) * KB,
            kib["SwapTotal"] * KB,
            kib["SwapFree"] * KB,
            None,
            available is None,
        )
        if kib["SwapFree"] > kib["SwapTotal"]:
            expected = expected._replace(swap_total=None, swap_free=None, swap_error="ERANGE")

    assert expected == parse.meminfo(text)


PECULIAR: dict[str, Meminfo | str] = {
    "gvisor-modelled": Meminfo(2097152 * KB, 2058532 * KB, 2058532 * KB, 0, 0),
    "gvisor-modelled-no-memavailable": Meminfo(
        2097152 * KB, 2058532 * KB, (2058532 + 29188) * KB, 0, 0, None, estimated=True
    ),
    "linux-2.6-i386-nohugepage": "ENODATA",
    "linux-2.6-ia64-1.5tb": "ENODATA",
    "linux-i386-absurd-total": Meminfo(
        400016779264 * KB,
        105040 * KB,
        (105040 + 290968 + 114220 - 16) * KB,
        979960 * KB,
        948888 * KB,
        None,
        estimated=True,
    ),
    "linux-meminfo-zswap": "EBADMSG",
    "wsl1-4.4.0-19041": Meminfo(
        16714084 * KB,
        8845844 * KB,
        (8845844 + 188576 + 6744 - 17720) * KB,
        50331648 * KB,
        49148596 * KB,
        None,
        estimated=True,
    ),
    "wsl1-4.4.0-19041-swapfree": Meminfo(
        16714084 * KB,
        8845844 * KB,
        (8845844 + 188576 + 6744 - 17720) * KB,
        None,
        None,
        "ERANGE",
        estimated=True,
    ),
}


@pytest.mark.skipif(not CAPTURES.is_dir(), reason="needs captures of real kernels, in shared/proc beside the checkout")
@pytest.mark.parametrize("name", PECULIAR)
def test_peculiar_machines(parse: Parsers, name: str) -> None:
    """Machines that are known to be odd, with their numbers written out."""
    assert PECULIAR[name] == parse.meminfo((CAPTURES / name / "proc/meminfo").read_bytes())


@pytest.mark.parametrize("path", captures("*/proc/*/statm"))
def test_captured_statm(parse: Parsers, path: Path) -> None:
    """Pages are counted in the machine's own size; seven zeros are a zombie or a kernel thread."""
    page = 65536 if machine(path) == "linux-6.1-ppc64le-64k" else 4096
    pages = [int(word) for word in path.read_text().split()]
    _, rss, shared, *_ = pages
    expected: Statm | str = Statm(rss * page, shared * page if shared <= rss else None)
    if not any(pages):
        expected = "ESRCH"

    assert expected == parse.statm(path.read_bytes(), page)


@pytest.mark.parametrize("path", captures("*/proc/*/stat"))
def test_captured_stat(parse: Parsers, path: Path) -> None:
    """Whatever the comm holds, the fields are those behind the last ')'."""
    text = path.read_bytes()
    fields = text[text.rindex(b")") + 2 :].split()
    expected = Stat(int(text.split(b" ", 1)[0]), int(fields[1]), int(fields[19]), fields[0].decode())

    assert expected == parse.stat(text)


@pytest.mark.parametrize("path", captures("**/memory.stat"))
def test_captured_memory_stat(parse: Parsers, path: Path) -> None:
    """The file lists less dirty and writeback, of the hierarchy; old v1 tells only the inactive list."""
    text = path.read_bytes()
    figures = {key: int(value) for key, value in (line.split() for line in text.splitlines())}
    version = 1 if b"total_cache" in figures else 2
    own, hierarchy = (b"", b"total_") if version == 1 else (b"file_", b"")
    prefix = hierarchy or own
    bytes_ = figures[hierarchy + b"inactive_file"]
    if prefix + b"dirty" in figures:
        bytes_ += figures[hierarchy + b"active_file"]
        bytes_ -= figures[prefix + b"dirty"] + figures[prefix + b"writeback"]

    assert max(bytes_, 0) == parse.reclaimable(text, version)
    assert list(figures.values()) == [parse.key(text, key) for key in figures]


LIMITS = ("**/memory.max", "**/memory.high", "**/memory.limit_in_bytes", "**/memory.memsw.limit_in_bytes")


@pytest.mark.parametrize("path", captures(*LIMITS))
def test_captured_limits(parse: Parsers, path: Path) -> None:
    """A limit is a number, or no limit: "max", or more than any machine has."""
    word = path.read_text().strip()
    expected = NO_LIMIT if word == "max" or int(word) > 2**62 else int(word)

    assert expected == parse.limit(path.read_bytes())


@pytest.mark.parametrize("path", captures("**/memory.current", "**/memory.usage_in_bytes", "**/oom_score_adj"))
def test_captured_numbers(parse: Parsers, path: Path) -> None:
    """A file of one number is that number."""
    text = path.read_bytes()

    assert int(text) == parse.i64(text)
    assert (int(text) if int(text) >= 0 else "EBADMSG") == parse.u64(text)


@pytest.mark.parametrize("path", captures("**/memory.events", "**/memory.oom_control"))
def test_captured_events(parse: Parsers, path: Path) -> None:
    """Every counter is found by its whole name, and none that is not there."""
    text = path.read_bytes()
    counters = {key: int(value) for key, value in (line.split() for line in text.splitlines())}

    assert counters == {key: parse.key(text, key) for key in counters}
    assert "ENODATA" == parse.key(text, b"oom_kil")


@pytest.mark.parametrize("path", captures("*/proc/pressure/*", "**/memory.pressure"))
def test_captured_pressure(parse: Parsers, path: Path) -> None:
    """Both lines, or `some` alone."""
    text = path.read_bytes()
    lines = {
        words[0]: dict(word.split("=") for word in words[1:])
        for words in (line.split() for line in text.decode().splitlines())
    }
    figures = [
        number
        for kind in ("some", "full")
        if kind in lines
        for number in (round(float(lines[kind]["avg10"]) * 100), int(lines[kind]["total"]))
    ]

    assert Pressure(*figures) == parse.pressure(text)


@pytest.mark.parametrize("path", captures("*/proc/*/cgroup", "mountinfo-automaxprocs/proc/*/cgroup*"))
def test_captured_cgroup(parse: Parsers, path: Path) -> None:
    """The path of the memory hierarchy, or else the unified one's; an invented line is refused."""
    text = path.read_bytes()
    found: dict[int, bytes] = {}
    for line in text.split(b"\n"):
        number, controllers, where = (*line.split(b":", 2), b"", b"")[:3]
        if b"memory" in controllers.split(b","):
            found[1] = where
        elif number == b"0":
            found[2] = where
    expected: Membership | str = "ENODATA"
    if found:
        version = min(found)
        expected = Membership(version, found[version], found[version].startswith(b"/.."))
    whole = text.endswith(b"\n")
    if re.search(rb"invalid-line|using.colons", text) or (text and not whole and 1 not in found):
        expected = "EBADMSG"

    assert expected == parse.membership(text)


@pytest.mark.parametrize("path", captures("*/proc/*/mountinfo*", "**/before-remount/**/mountinfo"))
def test_captured_mountinfo(parse: Parsers, path: Path) -> None:
    """The mounts of the memory controller and of cgroup2, and no other line is taken for one."""
    expected: list[Mount] = []
    for line in path.read_bytes().splitlines(keepends=True):
        front, _, back = line.partition(b" - ")
        fields = [re.sub(rb"\\(\d{3})", lambda m: bytes([int(m[1], 8)]), f) for f in front.split(b" ")]
        kind, *_, options = back.split()
        if line.endswith(b"\n") and kind == b"cgroup2":
            expected.append(Mount(2, fields[3], fields[4]))
        elif line.endswith(b"\n") and kind == b"cgroup" and b"memory" in options.split(b","):
            expected.append(Mount(1, fields[3], fields[4]))
    answers = memory_mounts(parse.mount, path.read_bytes())

    assert expected == [answer for answer in answers if answer != "EBADMSG"]


@pytest.mark.parametrize("path", captures("**/cgroup.controllers"))
def test_captured_controllers(parse: Parsers, path: Path) -> None:
    """A group without controllers has an empty file, which is no error."""
    text = path.read_bytes()

    assert (b"memory" in text.split()) == parse.word(text, b"memory")


@pytest.mark.parametrize("path", captures("*/proc/*/smaps_rollup"))
def test_captured_smaps_rollup(parse: Parsers, path: Path) -> None:
    """PSS is the line "Pss", and neither Pss_Dirty nor SwapPss."""
    text = path.read_text()
    pss = next(int(line.split()[1]) for line in text.splitlines() if line.split()[0] == "Pss:")

    assert pss * KB == parse.kb(path.read_bytes(), b"Pss")


def test_this_machine(parse: Parsers) -> None:
    """The kernel that runs the test prints what the parsers take."""
    meminfo = parse.meminfo(Path("/proc/meminfo").read_bytes())
    statm = parse.statm(Path("/proc/self/statm").read_bytes())

    assert isinstance(meminfo, Meminfo)
    assert 0 < meminfo.available <= meminfo.total
    assert isinstance(statm, Statm)
    assert isinstance(parse.stat(Path("/proc/self/stat").read_bytes()), Stat)


# --------------------------------------------------------------- the C tests and the fuzzers ---

C_TESTS = cbuild.REPO / "tests" / "csrc"
FUZZ = cbuild.REPO / "tests" / "fuzz"
SANITIZE = ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


def run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert 0 == done.returncode, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_c_tests_hold_without_reading_a_byte_too_many(tmp_path: Path) -> None:
    """tests/csrc/test_parse.c, whose texts lie in buffers of exactly their size, under the sanitizers."""
    run(cbuild.build([C_TESTS / "test_parse.c", *PARSERS], tmp_path / "test", flags=SANITIZE))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("gcov") is None, reason="gcov comes with gcc, but is not here")
def test_the_c_tests_take_every_branch(tmp_path: Path) -> None:
    """Lines and branches of the parsers and span.h that tests/csrc/test_parse.c never takes: none."""
    sources = [C_TESTS / "test_parse.c", *PARSERS]
    run(cbuild.build(sources, tmp_path / "test", flags=["-O0", "--coverage"]))
    report = run("gcov", "--json-format", "--stdout", "--branch-probabilities", *tmp_path.glob("*parse*.gcda"))
    files = [file for line in report.splitlines() for file in json.loads(line)["files"]]
    ours = [file for file in files if Path(file["file"]).name in (*PARSERS, "span.h")]
    lines = [(Path(file["file"]).name, line) for file in ours for line in file["lines"]]
    # Both parsers have span.h: what neither takes is missed.
    taken: dict[str, list[int]] = {}
    for name, line in lines:
        counts = [line["count"], *(branch["count"] for branch in line["branches"])]
        before = taken.get(f"{name}:{line['line_number']}", [0] * len(counts))
        taken[f"{name}:{line['line_number']}"] = [sum(pair) for pair in zip(before, counts, strict=True)]
    missed = {place for place, counts in taken.items() if not all(counts)}

    assert set() == missed
    assert len(taken) > 400


@pytest.mark.slow
@pytest.mark.skipif(cbuild.clang() is None, reason="libFuzzer is part of clang")
@pytest.mark.parametrize("target", ["fuzz_meminfo", "fuzz_process", "fuzz_cgroup", "fuzz_pressure"])
def test_f06_the_fuzz_targets_hold_over_their_corpus(tmp_path: Path, target: str) -> None:
    """Each claim of a fuzz target holds for all that its corpus has; the target's head says how to go on."""
    flags = (*SANITIZE, "-fsanitize=fuzzer", "-I", str(FUZZ))
    compiler = cbuild.clang() or ""
    program = cbuild.build([FUZZ / f"{target}.c", *PARSERS], tmp_path / target, compiler=compiler, flags=flags)
    corpus = list((FUZZ / "corpus" / target).iterdir())

    assert corpus
    run(program, *corpus)
