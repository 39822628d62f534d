"""The files of tests/proc/hostile; those too large to be kept are made here."""

from support import cbuild

HOSTILE = cbuild.REPO / "tests" / "proc" / "hostile"


def good(kind: str) -> bytes:
    return (HOSTILE / kind / "01-good").read_bytes()


def monster(kind: str, name: str) -> bytes | None:
    """A file too large to be kept; None for one that is."""
    match kind, name:
        case "meminfo", "18-line-1mib-digits":
            total, free, *rest = good("meminfo").splitlines(keepends=True)
            return b"".join([total, free, b"Junk:    " + b"9" * 2**20 + b" kB\n", *rest])
        case "meminfo", "19-line-64k-key":
            return b"K" * 2**16 + b": 1 kB\n" + good("meminfo")
        case "memory.max", "29-line-64k-digits":
            return b"1" * 2**16 + b"\n"
        case "mountinfo", "35-long-overlay-line":
            layers = b":".join(b"/l/%d" % i for i in range(9000))
            v2 = (HOSTILE / "mountinfo" / "01-good-v2").read_bytes()
            return b"30 1 0:99 / / rw - overlay overlay rw,lowerdir=" + layers + b"\n" + v2
    return None


MONSTERS = [
    ("meminfo", "18-line-1mib-digits"),
    ("meminfo", "19-line-64k-key"),
    ("memory.max", "29-line-64k-digits"),
    ("mountinfo", "35-long-overlay-line"),
]


def names(kind: str) -> list[str]:
    kept = [path.name for path in (HOSTILE / kind).iterdir()]
    return sorted(kept + [name for made, name in MONSTERS if made == kind])


def hostile(kind: str, name: str) -> bytes:
    made = monster(kind, name)
    return (HOSTILE / kind / name).read_bytes() if made is None else made
