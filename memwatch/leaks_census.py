"""What a process holds, by kind, and what has grown between two looks: the part of a leak's report that says *what*."""

import gc
import os
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from .units import format_size

FRAMES = 12  # of each traced allocation: from the C call inside a library back to the user's own line
SHOWN = 5  # of each kind in a report
SMALL = 512  # bytes: larger blocks Python takes from malloc
NODES = 10_000  # of autograd's graphs, walked at most: 50 ms
_KINDS = ("sites", "tensors", "objects", "descriptors", "threads", "children", "mapped", "native")

# A folder of the interpreter or of installed packages: a line there is seldom the guilty one.
_LIBRARIES = (os.path.dirname(os.__file__), *(part for part in sys.path if part.endswith("-packages")))
_OWN = tuple(os.path.join(os.path.dirname(os.path.abspath(__file__)), it) for it in ("leaks.py", "leaks_census.py"))

Frames = tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Growth:
    """
    One thing there is more of than before.

    Attributes:
        kind: "sites" (of allocation), "tensors", "objects", "descriptors", "threads", "children", "mapped" or "native".
        what: A line of source, a type, a shape, what a descriptor points to, a thread's name, a mapped file.
        count: How many more.
        bytes: How much more; None where that is not known.
        where: A place or a hint; may be empty.
    """

    kind: str
    what: str
    count: int
    bytes: int | None
    where: str


class Census(NamedTuple):
    """
    One look; compare() makes use of it. Deep fields are empty where it was not deep.

    Attributes:
        sites: By traceback ("file", line), innermost first: (blocks, bytes, those of them that malloc gave). Only while
            tracemalloc traces.
        objects: By type: how many the collector tracks, and what these refer to.
        tensors: By shape, dtype, device and creator: (how many, bytes).
        graph: By name, nodes of autograd's graphs that are younger than the census it was taken *since*.
        sequence: Autograd's number of the youngest node; None without torch.
        descriptors: What each points to, by number.
        threads: Names by ident; those that Python did not start are "native thread".
        children: By pid: (name, private bytes, or None where they may not be read).
        mapped: By path or "[anonymous]", heaps and stacks left out: (mappings, bytes).
        native: Bytes that malloc has handed out, to Python and to others; None where the C library does not tell.
    """

    sites: Mapping[Frames, tuple[int, int, int]]
    objects: Mapping[str, int]
    tensors: Mapping[str, tuple[int, int]]
    graph: Mapping[str, int]
    sequence: int | None
    descriptors: Mapping[int, str]
    threads: Mapping[int, str]
    children: Mapping[int, tuple[str, int | None]]
    mapped: Mapping[str, tuple[int, int]]
    native: int | None


def take(*, deep: bool = True, mapped: bool = True, since: Census | None = None) -> Census:
    """
    Looks around in this process.

    Garbage is collected first. Deep costs 30 ms in a small process and 0.3 s in one that has torch; else 10 ms, and
    objects, tensors and sites are left out. Sites are known only while tracemalloc traces: start it yourself, with
    FRAMES frames. What the caller has frozen (gc.freeze()) is not among the objects, and costs no time.

    Args:
        deep: Whether to walk over all objects.
        mapped: Whether to read what is mapped: of its cost, 5 ms and 0.1 s.
        since: A census taken before: graphs of tensors are walked as far back as that, and not at all without it.
    """
    gc.collect()
    sites = _sites() if deep else {}
    native = _native()
    descriptors, threads, children, maps = _descriptors(), _threads(), _children(), _mapped() if mapped else {}
    objects, tensors, graph = _objects(None if since is None else since.sequence) if deep else ({}, {}, {})
    sequence = _sequence() if deep else None
    return Census(sites, objects, tensors, graph, sequence, descriptors, threads, children, maps, native)


def _sites() -> dict[Frames, tuple[int, int, int]]:
    tracemalloc = sys.modules.get("tracemalloc")
    if tracemalloc is None or not tracemalloc.is_tracing():
        return {}
    found: dict[Frames, tuple[int, int, int]] = {}
    # Each is (domain, size, frames, ...), innermost frame first: a Snapshot's own statistics are 10 times slower.
    for trace in tracemalloc.take_snapshot().traces._traces:
        frames = tuple(trace[2])
        if frames and frames[0][0] in _OWN:
            continue
        blocks, size, large = found.get(frames, (0, 0, 0))
        found[frames] = blocks + 1, size + trace[1], large + trace[1] * (trace[1] > SMALL)
    return found


def _native() -> int | None:
    try:
        from .holding import heap
    except ImportError:  # there is no native module
        return None
    it = heap()
    return None if it is None else it.native


def _objects(since: int | None) -> tuple[dict[str, int], dict[str, tuple[int, int]], dict[str, int]]:
    """Types, tensors and their graph, in one walk over what the collector tracks, and what that refers to."""
    tracked = gc.get_objects()
    # All of it in C: a comprehension takes three times as long.
    known = gc.get_referents(*tracked)
    known += tracked
    known = list(dict(zip(map(id, known), known, strict=True)).values())
    by_type = Counter(map(type, known))
    tensors, creators = _tensors(known)
    counts: Counter[str] = Counter()
    for each, count in by_type.items():
        # A node is a Python object only for who has looked at it, as this census does.
        if not hasattr(each, "next_functions"):
            counts[_name(each)] += count
    return dict(counts), tensors, {} if since is None else _graph(creators, since)


def _name(each: type) -> str:
    try:
        return each.__qualname__ if each.__module__ == "builtins" else f"{each.__module__}.{each.__qualname__}"
    except Exception:  # somebody's metaclass
        return "a type without a name"


def _tensors(objects: Iterable[object]) -> tuple[dict[str, tuple[int, int]], list[Any]]:
    """By shape and creator; and the nodes of their graphs that they themselves refer to."""
    torch = sys.modules.get("torch")
    base = getattr(torch, "Tensor", None)
    if base is None:
        return {}, []
    found: Counter[tuple[Any, ...]] = Counter()
    sizes: dict[tuple[Any, ...], int] = {}
    creators = []
    for it in objects:
        if base not in type(it).__mro__:  # not isinstance, which may run somebody's __class__
            continue
        tensor: Any = it
        try:
            creator = tensor.grad_fn
            key = (tensor.shape, tensor.dtype, tensor.device, None if creator is None else type(creator))
            sizes[key] = sizes.get(key, 0) + tensor.element_size() * tensor.nelement()
        except Exception:  # a fake or a half-built one
            continue
        found[key] += 1
        if creator is not None:
            creators.append(creator)
    named: dict[str, tuple[int, int]] = {}
    for (shape, dtype, device, creator), count in found.items():
        what = f"{tuple(shape)} {str(dtype).removeprefix('torch.')}"
        what += ("" if device.type == "cpu" else f" on {device}") + (f" by {creator.__name__}" if creator else "")
        named[what] = count, sizes[shape, dtype, device, creator]
    return named, creators


def _sequence() -> int | None:
    """Autograd numbers its nodes, thread by thread: what is made from now on has a higher number."""
    torch = sys.modules.get("torch")
    try:
        node: Any = torch.ones(1, requires_grad=True).mul(1).grad_fn  # type: ignore[union-attr]
        return int(node._sequence_nr())
    except Exception:  # no torch, or one before 2.1
        return None


def _graph(todo: list[Any], since: int) -> dict[str, int]:
    """
    Nodes younger than that which tensors keep alive through their creator, NODES at most.

    Python itself holds the last node only: a loss that was summed up is one tensor, and a graph behind it.
    """
    seen: dict[Any, str] = {}
    while todo and len(seen) < NODES:
        node = todo.pop()
        if node in seen or not 0 <= node._sequence_nr() - since < 1 << 62:  # leaves have the highest number there is
            continue
        seen[node] = type(node).__name__
        todo += [it for it, _ in node.next_functions if it is not None]
    return dict(Counter(seen.values()))


def _descriptors() -> dict[int, str]:
    found = {}
    try:
        for name in os.listdir("/dev/fd"):
            try:
                found[int(name)] = os.readlink(f"/dev/fd/{name}")
            except OSError:  # the listing's own
                continue
    except OSError:
        return {}
    return found


def _threads() -> dict[int, str]:
    import psutil

    found = {it.native_id or 0: it.name for it in threading.enumerate()}
    for it in psutil.Process().threads():
        found.setdefault(it.id, "native thread")
    return found


def _children() -> dict[int, tuple[str, int | None]]:
    import psutil

    found: dict[int, tuple[str, int | None]] = {}
    for child in psutil.Process().children(recursive=True):
        try:
            found[child.pid] = (child.name() + (" (zombie)" if child.status() == "zombie" else ""), private(child))
        except psutil.Error:
            continue
    return found


def private(child: Any) -> int | None:
    """Bytes that only this psutil.Process holds; None where it is gone or may not be read."""
    import psutil

    try:
        return int(child.memory_full_info().uss)
    except psutil.Error:
        return None


def _mapped() -> dict[str, tuple[int, int]]:
    import psutil

    found: dict[str, tuple[int, int]] = {}
    for it in psutil.Process().memory_maps(grouped=False):
        if it.path.startswith(("[heap", "[stack", "[v")):
            continue
        path = it.path.replace("[anon]", "[anonymous]")
        start, _, end = it.addr.partition("-")
        count, size = found.get(path, (0, 0))
        found[path] = count + 1, size + int(end, 16) - int(start, 16)
    return found


def compare(before: Census, after: Census) -> list[Growth]:
    """
    What there is more of, the most telling kind first, and in it the most bytes or the most of a number.

    One-time things are in it too (a cache that filled, a module that was imported): who knows how often something was
    done leaves out what grew less often.
    """
    found = [*_site_growth(before.sites, after.sites)]
    for what, (count, size) in after.tensors.items():
        old = before.tensors.get(what, (0, 0))
        found.append(Growth("tensors", what, count - old[0], size - old[1] if size else None, ""))
    found += [Growth("tensors", f"graph: {what}", count, None, "autograd's") for what, count in after.graph.items()]
    found += [
        Growth("objects", what, count - before.objects.get(what, 0), None, "") for what, count in after.objects.items()
    ]
    opened = Counter(target for fd, target in after.descriptors.items() if before.descriptors.get(fd) != target)
    found += [Growth("descriptors", what, count, None, "") for what, count in _merged(opened).items()]
    started = Counter(name for ident, name in after.threads.items() if ident not in before.threads)
    found += [Growth("threads", what, count, None, "") for what, count in _merged(started).items()]
    found += _child_growth(before.children, after.children)
    for path, (count, size) in after.mapped.items():
        old = before.mapped.get(path, (0, 0))
        found.append(Growth("mapped", path, count - old[0], size - old[1], ""))
    if before.native is not None and after.native is not None:
        size = after.native - before.native
        found.append(Growth("native", "malloc", 0, size, "what no line above accounts for is from C code"))
    grown = [it for it in found if it.count > 0 or (it.bytes or 0) > 0]
    return sorted(grown, key=lambda it: (_KINDS.index(it.kind), -(it.bytes or 0), -it.count, it.what))


def _site_growth(
    before: Mapping[Frames, tuple[int, int, int]],
    after: Mapping[Frames, tuple[int, int, int]],
) -> list[Growth]:
    """By the user's own line: an allocation deep in a library is its caller's doing."""
    found: dict[tuple[str, str], tuple[int, int]] = {}
    for frames, (count, size, _) in after.items():
        old = before.get(frames, (0, 0, 0))
        key = _guilty(frames)
        blocks, total = found.get(key, (0, 0))
        found[key] = blocks + count - old[0], total + size - old[1]
    return [Growth("sites", what, count, size, where) for (what, where), (count, size) in found.items() if size > 0]


def _guilty(frames: Sequence[tuple[str, int]]) -> tuple[str, str]:
    """("file:line  source", "through library.py:12"), of an allocation's frames."""
    import linecache

    own = next((it for it in frames if not it[0].startswith(_LIBRARIES) and it[0] not in _OWN), frames[0])
    name = "/".join(own[0].split(os.sep)[-2:])
    source = linecache.getline(*own).strip()
    where = "" if own == frames[0] else "in " + "/".join(frames[0][0].split(os.sep)[-2:]) + f":{frames[0][1]}"
    return f"{name}:{own[1]}  {source}".rstrip(), where


def _child_growth(
    before: Mapping[int, tuple[str, int | None]], after: Mapping[int, tuple[str, int | None]]
) -> list[Growth]:
    found = []
    for pid, (name, size) in after.items():
        _, old = before.get(pid, (name, 0))
        more = None if size is None or old is None else size - old
        found.append(Growth("children", f"{name} PID {pid}", int(pid not in before), more, "private memory"))
    return found


def _merged(found: Counter[str]) -> Counter[str]:
    """Numbered names of one kind as one: "socket:[123]", "Thread-7 (run)", files of one folder."""
    import re

    merged: Counter[str] = Counter()
    for name, count in found.items():
        merged[re.sub(r"[0-9]+", "N", name) if not os.path.exists(name) else name] += count
    return merged


def as_text(growths: Iterable[Growth], *, calls: int | None = None) -> list[str]:
    """Aligned lines, SHOWN of each kind; with *calls*, counts and bytes are those of one call."""
    rows: list[tuple[str, str, str, str]] = []
    shown: Counter[str] = Counter()
    for it in growths:
        shown[it.kind] += 1
        if shown[it.kind] <= SHOWN:
            what = it.what + (f"  ({it.where})" if it.where else "")
            rows.append((it.kind if shown[it.kind] == 1 else "", _count(it, calls), _bytes(it, calls), what))
    more = {kind: count - SHOWN for kind, count in shown.items() if count > SHOWN}
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
    lines = [f"{row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]}" for row in rows]
    return lines + [f"(and {count} more {kind})" for kind, count in more.items()]


def _count(it: Growth, calls: int | None) -> str:
    if it.count <= 0:
        return ""
    return f"+{it.count}" if calls is None else f"+{it.count / calls:.3g}"


def _bytes(it: Growth, calls: int | None) -> str:
    if it.bytes is None or it.bytes <= 0:
        return ""
    return format_size(it.bytes if calls is None else round(it.bytes / calls))
