"""The C parsers, opened by cffi as they are: bytes in, a value or the name of an error out."""

import errno
from pathlib import Path
from typing import Any, NamedTuple

from cffi import FFI

from support import cbuild

# What parse.h takes from memwatch.h.
MARKS = {
    "parse.h": ("/* >>> what tests read begins here */", "/* <<< what tests read ends here */"),
    "memwatch.h": ("struct mw_pressure {", "};"),
}

ABSENT = 2**64 - 1
NO_LIMIT = 2**64 - 2

# Answers are laid over this, so that a parser that writes before it fails is seen.
UNTOUCHED = 0xA5


class Meminfo(NamedTuple):
    """In bytes; None where C says MW_ABSENT."""

    total: int
    free: int
    available: int
    swap_total: int | None
    swap_free: int | None
    swap_error: str | None = None
    estimated: bool = False


class Statm(NamedTuple):
    rss: int
    shared: int | None


class Stat(NamedTuple):
    pid: int
    ppid: int
    start_time: int
    state: str


class Pressure(NamedTuple):
    """Hundredths of a percent, and microseconds."""

    some_avg10: int
    some_total_us: int
    full_avg10: int | None = None
    full_total_us: int | None = None


class Membership(NamedTuple):
    version: int
    path: bytes
    outside: bool = False


class Mount(NamedTuple):
    version: int
    root: bytes
    point: bytes


def between(header: str, begin: str, end: str) -> str:
    """The part of *header* from one mark to the next, both with it: one is a comment or belongs to it."""
    text = (cbuild.CSRC / header).read_text(encoding="utf-8")
    start = text.index(begin)
    return text[start : text.index(end, start) + len(end)]


def known(value: int) -> int | None:
    return None if value == ABSENT else value


class Parsers:
    """Each method is the parser of that name: its answer as a value, or its error as "EBADMSG"."""

    def __init__(self, library: Path) -> None:
        self.ffi = FFI()
        self.ffi.cdef(between("memwatch.h", *MARKS["memwatch.h"]) + between("parse.h", *MARKS["parse.h"]))
        self.lib = self.ffi.dlopen(str(library))

    def _call(self, name: str, ctype: str, text: bytes, *args: Any) -> Any:
        out = self.ffi.new(f"{ctype}[1]")
        inside = self.ffi.buffer(out)
        inside[:] = before = bytes([UNTOUCHED]) * len(inside)
        result = getattr(self.lib, f"mw_parse_{name}")(self.ffi.from_buffer(text), len(text), *args, out)
        if result == 0:
            return out[0]
        assert inside[:] == before, f"{name} failed, yet wrote"
        return errno.errorcode[-result]

    def meminfo(self, text: bytes) -> Meminfo | str:
        out = self._call("meminfo", "struct mw_meminfo", text)
        if isinstance(out, str):
            return out
        return Meminfo(
            out.total,
            out.free,
            out.available,
            known(out.swap_total),
            known(out.swap_free),
            errno.errorcode[-out.swap_error] if out.swap_error else None,
            bool(out.estimated),
        )

    def kb(self, text: bytes, key: bytes) -> int | str:
        return self._call("kb", "uint64_t", text, key)

    def statm(self, text: bytes, page_size: int = 4096) -> Statm | str:
        out = self._call("statm", "struct mw_statm", text, page_size)
        return out if isinstance(out, str) else Statm(out.rss, known(out.shared))

    def stat(self, text: bytes) -> Stat | str:
        out = self._call("stat", "struct mw_stat", text)
        return out if isinstance(out, str) else Stat(out.pid, out.ppid, out.start_time, out.state.decode())

    def u64(self, text: bytes) -> int | str:
        return self._call("u64", "uint64_t", text)

    def i64(self, text: bytes) -> int | str:
        return self._call("i64", "int64_t", text)

    def limit(self, text: bytes) -> int | str:
        return self._call("limit", "uint64_t", text)

    def reclaimable(self, text: bytes, version: int) -> int | str:
        return self._call("reclaimable", "uint64_t", text, version)

    def key(self, text: bytes, key: bytes) -> int | str:
        return self._call("key", "uint64_t", text, key)

    def pressure(self, text: bytes) -> Pressure | str:
        out = self._call("pressure", "struct mw_pressure", text)
        if isinstance(out, str):
            return out
        return Pressure(out.some_avg10, out.some_total_us, known(out.full_avg10), known(out.full_total_us))

    def membership(self, text: bytes) -> Membership | str:
        out = self._call("membership", "struct mw_membership", text)
        if isinstance(out, str):
            return out
        return Membership(out.version, text[out.offset : out.offset + out.length], bool(out.outside))

    def mount(self, line: bytes) -> Mount | str:
        out = self._call("mount", "struct mw_mount", line)
        if isinstance(out, str):
            return out
        return Mount(out.version, self.ffi.string(out.root), self.ffi.string(out.point))

    def pagesets(self, *chunks: bytes) -> int | str:
        """Pages, of a text in pieces; each is fed, for the first error must stay."""
        sets, pages = self.ffi.new("struct mw_pagesets *"), self.ffi.new("uint64_t *", UNTOUCHED)
        self.lib.mw_pagesets_init(sets)
        for chunk in chunks:
            self.lib.mw_pagesets_feed(sets, self.ffi.from_buffer(chunk), len(chunk))
        result = self.lib.mw_pagesets_end(sets, pages)
        if result == 0:
            return int(pages[0])
        assert pages[0] == UNTOUCHED, "pagesets failed, yet wrote"
        return errno.errorcode[-result]

    def word(self, text: bytes, word: bytes) -> bool | str:
        out = self._call("word", "uint32_t", text, word)
        return out if isinstance(out, str) else {0: False, 1: True}[out]
