"""
The parsers of csrc/parse.c against a reference, over texts that Hypothesis makes.

The reference is the same rules once more, in regular expressions, so that a slip in either shows as a
difference. Both must take the same value, or both must take none; which error it is, test_parse.py says.
"""

import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import cbuild
from support.hostile import hostile, names
from support.native import ABSENT, NO_LIMIT, Membership, Meminfo, Mount, Parsers, Pressure, Stat, Statm

KB = 1024


@pytest.fixture(scope="session")
def parse(tmp_path_factory: pytest.TempPathFactory) -> Parsers:
    return Parsers(cbuild.library(["parse.c", "parse_cgroup.c"], tmp_path_factory.mktemp("parse") / "parse.so"))


class Refused(Exception):
    """The reference takes no number from this text."""


def need(condition: object) -> None:
    if not condition:
        raise Refused


def fits(digits: bytes, limit: int = 2**64) -> int:
    need(re.fullmatch(rb"0*[0-9]{1,20}", digits) and int(digits[-20:]) < limit)
    return int(digits[-20:])


def whole_lines(text: bytes) -> list[bytes]:
    return text.split(b"\n")[:-1]


def absent_for_sure(text: bytes) -> bool:
    return text.endswith(b"\n")


def ref_meminfo(text: bytes) -> Meminfo:
    need(len(text) <= 2**16 and not text.endswith(b"\0"))
    found: dict[bytes, bytes] = {}
    for line in whole_lines(text):
        key, colon, value = line.partition(b":")
        if colon:
            found.setdefault(key, value)

    def kib(key: bytes) -> int:
        match = re.fullmatch(rb" *([0-9]+) kB", found.get(key, b""))
        need(match)
        return fits(match[1], 2**54)

    total, free = kib(b"MemTotal"), kib(b"MemFree")
    estimated = b"MemAvailable" not in found
    if estimated:
        need(absent_for_sure(text))
        more = kib(b"SReclaimable") if b"SReclaimable" in found else 0
        available = max(free + kib(b"Cached") + more - kib(b"Shmem"), 0)
    else:
        available = kib(b"MemAvailable")
    need(0 < total and free <= total and available <= total)
    swap: tuple[int | None, int | None] = (None, None)
    try:
        swap = (kib(b"SwapTotal") * KB, kib(b"SwapFree") * KB)
        need(swap[1] <= swap[0])
    except Refused:
        swap = (None, None)
    return Meminfo(total * KB, free * KB, available * KB, *swap, None, estimated)


def ref_kb(text: bytes) -> int:
    for line in whole_lines(text):
        if line.startswith(b"Pss:"):
            match = re.fullmatch(rb"Pss: *([0-9]+) kB", line)
            need(match)
            return fits(match[1], 2**54) * KB
    raise Refused


def ref_statm(text: bytes) -> Statm:
    need(re.fullmatch(rb"[0-9]+( [0-9]+){6}\n", text))
    _, rss, shared, *_ = pages = [fits(word) for word in text.split()]
    need(any(pages) and rss * 4096 < 2**64)
    return Statm(rss * 4096, shared * 4096 if shared <= rss else None)


def ref_stat(text: bytes) -> Stat:
    head, _, tail = text.rpartition(b")")
    front = re.match(rb"([0-9]+) \(", head)
    back = re.match(rb" ([A-Za-z]) ([0-9]+)((?: -?[0-9]+){17}) ([0-9]+) ", tail)
    need(front and back)
    for word in back[3].split():
        fits(word.lstrip(b"-"))
    return Stat(fits(front[1], 2**31), fits(back[2], 2**31), fits(back[4]), back[1].decode())


def ref_u64(text: bytes) -> int:
    need(text.endswith(b"\n"))
    return fits(text[:-1])


def ref_i64(text: bytes) -> int:
    if text.startswith(b"-"):
        need(ref_u64(text[1:]) <= 2**63)
    else:
        need(ref_u64(text) < 2**63)
    return int(text)


def ref_limit(text: bytes) -> int:
    if text == b"max\n":
        return NO_LIMIT
    value = ref_u64(text)
    return NO_LIMIT if value >= 2**63 - 2**18 else value


def figure(text: bytes, key: bytes) -> int | None:
    """The value of a "key 123" line, None where there surely is no such line."""
    for line in whole_lines(text):
        if re.match(re.escape(key) + rb"([\0- ]|$)", line):
            match = re.fullmatch(re.escape(key) + rb" ([0-9]+)", line)
            need(match)
            return fits(match[1])
    need(absent_for_sure(text) or not text)
    return None


def ref_key(text: bytes) -> int:
    value = figure(text, b"oom_kill")
    need(value is not None)
    return value


def ref_reclaimable(text: bytes, version: int) -> int:
    keys = [b"inactive_file", b"active_file", b"file_dirty", b"file_writeback"]
    if version == 1:
        keys = [b"total_inactive_file", b"total_active_file", b"total_dirty", b"total_writeback"]

    def told(key: bytes) -> bool:
        try:
            return figure(text, key) is not None
        except Refused:
            return True

    inactive = figure(text, keys[0])
    need(inactive is not None)
    if not (told(keys[2]) and told(keys[3])):
        return inactive
    active, dirty, writeback = (figure(text, key) for key in keys[1:])
    need(active is not None and inactive + active < 2**64)
    return max(inactive + active - dirty - writeback, 0)


def ref_pressure(text: bytes) -> Pressure:
    average = rb"[0-9]+\.[0-9][0-9]"
    line = rb" avg10=(%b) avg60=(%b) avg300=(%b) total=([0-9]+)\n" % (average, average, average)
    match = re.fullmatch(b"some" + line + b"(?:full" + line + b")?", text)
    need(match)
    figures = []
    for ten, sixty, three_hundred, total in (match.groups()[:4], match.groups()[4:]):
        if ten is not None:
            for share in (ten, sixty, three_hundred):
                fits(share.replace(b".", b""), 10001)
            figures += [int(ten.replace(b".", b"")), fits(total)]
    # The one total that C cannot tell from an absent one; it takes 584,542 years.
    return Pressure(*(None if i == 3 and n == ABSENT else n for i, n in enumerate(figures)))


def ref_membership(text: bytes) -> Membership:
    paths: dict[int, list[bytes]] = {1: [], 2: []}
    for line in whole_lines(text):
        need(line.count(b":") >= 2)
        number, controllers, path = line.split(b":", 2)
        if fits(number) == 0:
            need(controllers == b"")
            paths[2].append(path)
        elif b"memory" in controllers.split(b","):
            paths[1].append(path)
    need(len(paths[1]) <= 1 and len(paths[2]) <= 1)
    need(paths[1] or (paths[2] and absent_for_sure(text)))
    version = 1 if paths[1] else 2
    [path] = paths[version]
    need(path == b"/" or re.fullmatch(rb"(/\.\.)*(/(?!\.{0,2}(/|$))[^/\0]+)*", path, re.DOTALL))
    need(0 < len(path) <= 4095)
    return Membership(version, path, path.startswith(b"/../") or path == b"/..")


def ref_mount(line: bytes) -> Mount | None:
    need(line.find(b"\n") == len(line) - 1 and b"\0" not in line and not line.endswith(b"\r\n"))
    fields = line[:-1].split(b" ")
    need(len(fields) >= 6 and b"-" in fields[6:])
    separator = fields.index(b"-", 6)
    before, after = fields[:separator], fields[separator + 1 :]
    need(all(before) and len(after) >= 3 and after[0] and b" ".join(after[2:]))
    device = re.fullmatch(rb"([0-9]+):([0-9]+)", before[2])
    need(device)
    for number in (*before[:2], *device.groups()):
        fits(number)
    options = b" ".join(after[2:]).split(b",")
    if after[0] != b"cgroup2" and (after[0] != b"cgroup" or b"memory" not in options):
        return None
    paths = []
    for path in before[3:5]:
        need(path.startswith(b"/") and re.fullmatch(rb"([^\\]|\\[0-3][0-7][0-7])+", path, re.DOTALL))
        decoded = re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), path)
        need(b"\0" not in decoded and len(decoded) <= 4095)
        paths.append(decoded)
    return Mount(2 if after[0] == b"cgroup2" else 1, *paths)


def ref_word(text: bytes) -> bool:
    need(text == b"" or text.find(b"\n") == len(text) - 1)
    return b"memory" in text[:-1].split(b" ")


def accepted(answer: Any) -> Any:
    """The C parser's answer without the kind of its error: None for all of them."""
    if isinstance(answer, Meminfo):
        return answer._replace(swap_error=None)
    return None if isinstance(answer, str) else answer


PAIRS: dict[str, tuple[Callable[[Parsers, bytes], Any], Callable[[bytes], Any]]] = {
    "meminfo": (Parsers.meminfo, ref_meminfo),
    "kb": (lambda parse, text: parse.kb(text, b"Pss"), ref_kb),
    "statm": (Parsers.statm, ref_statm),
    "stat": (Parsers.stat, ref_stat),
    "u64": (Parsers.u64, ref_u64),
    "i64": (Parsers.i64, ref_i64),
    "limit": (Parsers.limit, ref_limit),
    "key": (lambda parse, text: parse.key(text, b"oom_kill"), ref_key),
    "reclaimable-v1": (
        lambda parse, text: parse.reclaimable(text, 1),
        lambda text: ref_reclaimable(text, 1),
    ),
    "reclaimable-v2": (
        lambda parse, text: parse.reclaimable(text, 2),
        lambda text: ref_reclaimable(text, 2),
    ),
    "pressure": (Parsers.pressure, ref_pressure),
    "membership": (Parsers.membership, ref_membership),
    "mount": (Parsers.mount, ref_mount),
    "word": (lambda parse, text: parse.word(text, b"memory"), ref_word),
}


def check_pair(parse: Parsers, name: str, text: bytes) -> None:
    parser, reference = PAIRS[name]
    try:
        expected = reference(text)
    except Refused:
        expected = None

    assert expected == accepted(parser(parse, text))


KINDS = {
    "meminfo": ["meminfo"],
    "statm": ["statm"],
    "stat": ["stat"],
    "memory.max": ["u64", "i64", "limit"],
    "memory.stat": ["key", "reclaimable-v1", "reclaimable-v2"],
    "memory.events": ["key"],
    "pressure": ["pressure"],
    "cgroup": ["membership"],
    "cgroup.controllers": ["word"],
    "mountinfo": ["mount"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_reference_agrees_on_hostile_files(parse: Parsers, kind: str) -> None:
    """Reference and parser take the same number from each hostile file, or both take none."""
    for name in names(kind):
        text = hostile(kind, name)
        for pair in KINDS[kind]:
            for piece in text.splitlines(keepends=True) if pair == "mount" else [text]:
                check_pair(parse, pair, piece)


# ------------------------------------------------------------------- generated texts ---

quick = settings(max_examples=60, deadline=None, database=None)
thorough = settings(max_examples=120, deadline=None, database=None)

digits = st.one_of(
    st.integers(0, 2**64 - 1),
    st.sampled_from([0, 1, 2**31, 2**32, 2**54 - 1, 2**54, 2**63 - 2**18, 2**63, 2**64 - 1, 2**64, 10**30]),
).map(b"%d".__mod__)
few = st.integers(0, 9).map(b"%d".__mod__)
name_bytes = st.binary(min_size=1, max_size=8).filter(lambda s: not set(s) & set(b"\n/\0"))
paths = st.lists(name_bytes, max_size=5).map(lambda names: b"/" + b"/".join(names))


def joined(*parts: st.SearchStrategy[bytes] | bytes) -> st.SearchStrategy[bytes]:
    return st.tuples(*(st.just(part) if isinstance(part, bytes) else part for part in parts)).map(b"".join)


def lines_of(*lines: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return st.lists(st.one_of(*lines), max_size=14).map(b"".join)


MEM_KEYS = [b"MemTotal", b"MemFree", b"MemAvailable", b"Cached", b"Shmem", b"SReclaimable", b"SwapTotal", b"SwapFree"]
STAT_KEYS = [b"inactive_file", b"active_file", b"file_dirty", b"file_writeback", b"dirty", b"writeback"]

blanks = st.integers(0, 3).map(b" ".__mul__)
mem_line = joined(st.sampled_from([*MEM_KEYS, b"Pss", b"SwapCached", b"Buffers"]), b":", blanks, digits | few, b" kB\n")
# All keys, in any order; the numbers such that sense is not rare.
mem_text = st.tuples(
    st.permutations(MEM_KEYS), st.lists(st.integers(0, 999), min_size=8, max_size=8), st.integers(4, 8)
).map(
    lambda drawn: b"".join(
        b"%b: %d kB\n" % (key, n + 5000 * (key in (b"MemTotal", b"SwapTotal")))
        for key, n in zip(drawn[0][: drawn[2]], drawn[1], strict=False)
    )
)
stat_line = joined(
    st.sampled_from([b"", b"total_", b"file_"]),
    st.sampled_from([*STAT_KEYS, b"oom_kill", b"oom"]),
    b" ",
    digits | few,
    b"\n",
)
signed = joined(st.sampled_from([b" ", b" -"]), few)
comm = st.binary(max_size=10)
average = joined(st.integers(0, 101).map(b"%d".__mod__), b".", few, few)
stall = joined(b" avg10=", average, b" avg60=", average, b" avg300=", average, b" total=", digits, b"\n")
controllers = st.lists(
    st.sampled_from([b"cpu", b"memory", b"pids", b"name=memory", b"memoryx"]), min_size=1, max_size=3
)
escaped = st.lists(st.sampled_from([b"a", b"\\040", b"\\134", b"\\377", b"/", b"-", b"\xff"]), max_size=6).map(
    lambda parts: b"/" + b"".join(parts)
)

FORMED: dict[str, st.SearchStrategy[bytes]] = {
    "meminfo": st.one_of(mem_text, lines_of(mem_line)),
    "kb": lines_of(mem_line),
    "statm": joined(few, *[joined(b" ", few | digits) for _ in range(6)], b"\n"),
    "stat": joined(
        few, b" (", comm, b") ", st.sampled_from([b"S", b"Z"]), b" ", few, *[signed] * 17, b" ", digits, b" 0\n"
    ),
    "u64": joined(digits, b"\n"),
    "i64": joined(st.sampled_from([b"", b"-"]), digits, b"\n"),
    "limit": st.one_of(st.just(b"max\n"), joined(digits, b"\n")),
    "key": lines_of(stat_line),
    "reclaimable-v1": lines_of(stat_line),
    "reclaimable-v2": lines_of(stat_line),
    "pressure": st.one_of(joined(b"some", stall), joined(b"some", stall, b"full", stall)),
    "membership": lines_of(
        joined(b"0::", paths, b"\n"), joined(few, b":", controllers.map(b",".join), b":", paths, b"\n")
    ),
    "mount": joined(
        *(few, b" ", few, b" ", few, b":", few, b" ", escaped, b" ", escaped, b" rw"),
        st.sampled_from([b"", b" shared:1", b" master:2 -x"]),
        b" - ",
        st.sampled_from([b"cgroup", b"cgroup2", b"tmpfs"]),
        st.sampled_from([b" x ", b"  "]),
        controllers.map(b",".join),
        b"\n",
    ),
    "word": joined(controllers.map(b" ".join), b"\n"),
}


@st.composite
def damaged(draw: st.DrawFn, texts: st.SearchStrategy[bytes]) -> bytes:
    """A text that was cut, or lost or won a few bytes."""
    text = draw(texts)
    for _ in range(draw(st.integers(1, 3))):
        i, j = sorted((draw(st.integers(0, len(text))), draw(st.integers(0, len(text)))))
        deed = draw(st.sampled_from(["cut", "drop", "put", "double"]))
        if deed == "cut":
            text = text[:j]
        elif deed == "drop":
            text = text[:i] + text[min(j, i + 3) :]
        elif deed == "put":
            text = text[:i] + draw(st.sampled_from(SPLINTERS)) + text[i:]
        else:
            text = text[:j] + text[i:]
    return text


SPLINTERS = [
    *(b"\0", b"\n", b" ", b"\t", b"\r", b":", b"-", b"+", b".", b"/", b"\\", b"(", b")", b",", b"_", b"k", b"0", b"9"),
    *(b"\xd9\xa3", b"..", b"/..", b" kB\n", b"0::/\n", b"memory", b"total_", b"file_", b"max\n", b" - "),
]


@pytest.mark.slow
@pytest.mark.parametrize("name", PAIRS)
def test_f06_any_bytes_give_the_reference_s_answer(parse: Parsers, name: str) -> None:
    """Bytes at random crash nothing, and give a value only where the reference gives the same."""

    @thorough
    @given(st.one_of(st.binary(max_size=300), st.lists(st.sampled_from(SPLINTERS), max_size=30).map(b"".join)))
    def holds(text: bytes) -> None:
        check_pair(parse, name, text)

    holds()


@pytest.mark.slow
@pytest.mark.parametrize("name", PAIRS)
def test_well_formed_text_gives_the_reference_s_answer(parse: Parsers, name: str) -> None:
    """Text as a kernel might print it, with numbers of every size, is read as the reference reads it."""

    @thorough
    @given(FORMED[name])
    def holds(text: bytes) -> None:
        check_pair(parse, name, text)

    holds()


@pytest.mark.slow
@pytest.mark.parametrize("name", PAIRS)
def test_f05_damaged_text_gives_an_error_or_the_reference_s_answer(parse: Parsers, name: str) -> None:
    """Cut, garbled or doubled, a text gives no number that strict reading would not."""

    @thorough
    @given(damaged(FORMED[name]))
    def holds(text: bytes) -> None:
        check_pair(parse, name, text)

    holds()


def round_trip(printed: st.SearchStrategy[tuple[Any, bytes]], read: Callable[[bytes], Any]) -> None:
    @quick
    @given(printed)
    def holds(case: tuple[Any, bytes]) -> None:
        value, text = case

        assert value == read(text)

    holds()


kib_numbers = st.integers(0, 2**54 - 1)


def print_meminfo(values: list[int]) -> tuple[Meminfo, bytes]:
    free, available, total = sorted(values[:3])
    swap_free, swap_total = sorted(values[3:])
    text = b"".join(
        b"%-15s %8d kB\n" % (key + b":", value)
        for key, value in [
            (b"MemTotal", total + 1),
            (b"MemFree", free),
            (b"MemAvailable", available),
            (b"SwapTotal", swap_total),
            (b"SwapFree", swap_free),
        ]
    )
    return Meminfo((total + 1) * KB, free * KB, available * KB, swap_total * KB, swap_free * KB), text


@pytest.mark.slow
def test_meminfo_round_trips(parse: Parsers) -> None:
    """What is printed as the kernel prints it comes back, up to the largest number that fits."""
    round_trip(st.lists(st.integers(0, 2**54 - 2), min_size=5, max_size=5).map(print_meminfo), parse.meminfo)


@pytest.mark.slow
def test_process_round_trips(parse: Parsers) -> None:
    """statm and stat come back, whatever the comm is."""
    pages = st.lists(st.integers(1, 2**52 - 1), min_size=7, max_size=7)
    ids = st.integers(0, 2**31 - 1)
    stats = st.builds(Stat, ids, ids, st.integers(0, 2**64 - 1), st.sampled_from("RSDZTtXI"))
    round_trip(
        pages.map(
            lambda p: (Statm(p[1] * 4096, p[2] * 4096 if p[2] <= p[1] else None), b"%d %d %d %d %d %d %d\n" % tuple(p))
        ),
        parse.statm,
    )
    round_trip(
        st.tuples(stats, st.binary(max_size=64)).map(
            lambda drawn: (
                drawn[0],
                b"%d (%b) %b %d" % (drawn[0].pid, drawn[1], drawn[0].state.encode(), drawn[0].ppid)
                + b" -1" * 17
                + b" %d 4096 1\n" % drawn[0].start_time,
            )
        ),
        parse.stat,
    )


@pytest.mark.slow
def test_numbers_round_trip(parse: Parsers) -> None:
    """Every number that fits comes back, in each file of one number and in a "key 123" line."""
    unsigned, signed_numbers = st.integers(0, 2**64 - 1), st.integers(-(2**63), 2**63 - 1)
    round_trip(unsigned.map(lambda n: (n, b"%d\n" % n)), parse.u64)
    round_trip(signed_numbers.map(lambda n: (n, b"%d\n" % n)), parse.i64)
    round_trip(st.integers(0, 2**63 - 2**18 - 1).map(lambda n: (n, b"%d\n" % n)), parse.limit)
    round_trip(unsigned.map(lambda n: (n, b"oom 7\noom_kill %d\n" % n)), lambda text: parse.key(text, b"oom_kill"))


@pytest.mark.slow
def test_pressure_round_trips(parse: Parsers) -> None:
    """Hundredths stay exact: there is no float on the way."""
    shares, totals = st.integers(0, 10000), st.integers(0, 2**64 - 2)
    line = b"%b avg10=%d.%02d avg60=0.00 avg300=0.00 total=%d\n"
    round_trip(
        st.builds(Pressure, shares, totals, shares, totals).map(
            lambda p: (
                p,
                line % (b"some", *divmod(p.some_avg10, 100), p.some_total_us)
                + line % (b"full", *divmod(p.full_avg10, 100), p.full_total_us),
            )
        ),
        parse.pressure,
    )


@pytest.mark.slow
def test_paths_round_trip(parse: Parsers) -> None:
    """Any bytes that can be a name come back: as they are from cgroup, unescaped from mountinfo."""
    names = name_bytes.filter(lambda name: name not in (b".", b".."))
    absolute = st.lists(names, min_size=1, max_size=5).map(lambda parts: b"/" + b"/".join(parts))
    round_trip(
        absolute.map(lambda path: (Membership(1, path), b"7:cpu:/x\n4:pids,memory:%b\n0::/y\n" % path)),
        parse.membership,
    )

    def escape(path: bytes) -> bytes:
        return re.sub(rb"[ \t\n\\]", lambda match: b"\\%03o" % match[0][0], path)

    round_trip(
        st.tuples(absolute, absolute).map(
            lambda p: (Mount(2, *p), b"1 2 3:4 %b %b rw - cgroup2 x rw\n" % (escape(p[0]), escape(p[1])))
        ),
        parse.mount,
    )
