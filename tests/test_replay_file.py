"""Files of a replay buffer: what is loaded is what was saved, whatever happened to the one who saved."""

import gc
import io
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fork import in_child
from support.wait import until

from memwatch import holding, replay, replay_file, replay_store
from memwatch.errors import DoesNotFit
from memwatch.replay import ReplayBuffer

FIELDS: dict[str, Any] = {
    "obs": {"place": ((3,), "float32"), "lamp": "uint8"},
    "action": ((2,), "float64"),
    "reward": "float32",
    "done": "bool",
}


def filled(
    capacity: int, environments: int, steps: int, *, next_of: str | None = "obs", ends: float = 0.3
) -> ReplayBuffer:
    """After so many steps of all environments, whose episodes end now and then."""
    buffer = ReplayBuffer(capacity, FIELDS, next_of=next_of, environments=environments, seed=4)
    add(buffer, steps, ends)
    return buffer


def add(buffer: ReplayBuffer, steps: int, ends: float = 0.3) -> None:
    rng, n = np.random.default_rng(len(buffer)), buffer.environments
    obs = {"place": rng.normal(size=(n, 3)).astype("float32"), "lamp": np.arange(n, dtype="uint8")}
    for _ in range(steps):
        after = {"place": rng.normal(size=(n, 3)).astype("float32"), "lamp": rng.integers(0, 255, n, "uint8")}
        done = rng.random(n) < ends
        row = {"obs": obs, "action": rng.normal(size=(n, 2)), "reward": rng.random(n), "done": done}
        buffer.extend(**row, **({"next_obs": after} if buffer._layout.span else {}))
        obs = {key: value.copy() for key, value in after.items()}
        obs["place"][done] = rng.normal(size=(int(done.sum()), 3))


def whole(buffer: ReplayBuffer) -> dict[str, list[Any]]:
    """All that there is, row by row at its place, and what will be drawn next."""
    found = {name: value.tolist() for name, value in buffer.get(np.arange(len(buffer))).items()}
    return {
        **found,
        "where": [len(buffer), buffer.position, buffer.capacity, buffer.environments, *buffer.fields.items()],
    }


def drawn(buffer: ReplayBuffer) -> dict[str, Any]:
    return {name: value.tolist() for name, value in buffer.sample(7).items()}


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    return tmp_path


# ------------------------------------------------------------------ there and back ---


@settings(max_examples=60, deadline=None)
@given(
    capacity=st.integers(1, 12),
    environments=st.integers(1, 4),
    steps=st.integers(0, 15),
    next_of=st.sampled_from([None, "obs"]),
    stored=st.booleans(),
    chunk=st.sampled_from([1, 24, replay_file.CHUNK]),
)
def test_what_is_loaded_goes_on_as_what_was_saved(  # noqa: PLR0917
    capacity: int, environments: int, steps: int, next_of: str | None, stored: bool, chunk: int
) -> None:
    """Each row at its place, each true next observation, what is drawn; then the same again, a few steps on."""
    buffer = filled(max(capacity, environments), environments, steps, next_of=next_of)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(replay_file, "CHUNK", chunk)
        for _ in range(2):
            buffer.save(f"{folder}/saved")
            other = ReplayBuffer.load(f"{folder}/saved", store=f"{folder}/rows" if stored else None)

            assert whole(buffer) == whole(other)
            if steps:
                assert drawn(buffer) == drawn(other)
            add(buffer, 3)
            add(other, 3)

            assert whole(buffer) == whole(other)
        assert ["saved"] == os.listdir(folder)


def test_blocks_of_the_side_table_are_all_there(disk: Path) -> None:
    """Where each next observation stands by itself, in whatever order the entries became free."""
    buffer = filled(500, 2, 900, ends=0.9)
    assert len(buffer._blocks) > 3
    buffer.save(disk / "saved")

    assert whole(buffer) == whole(ReplayBuffer.load(disk / "saved"))


def test_numpy_reads_it(disk: Path) -> None:
    """Without memwatch: an array for each field, oldest first; next_obs where it is not the obs that comes."""
    buffer = filled(10, 2, 17)
    buffer.save(disk / "saved.npz")
    order = (np.arange(10) + buffer.position) % 10
    expected = buffer.get(order)
    with np.load(disk / "saved.npz", allow_pickle=False) as found:
        for name in ("obs/place", "obs/lamp", "action", "reward", "done"):
            assert np.array_equal(expected[name], found[name])
            assert expected[name].dtype == found[name].dtype
        after = np.roll(found["obs/place"], -2, axis=0)
        after[found["memwatch.next_at"]] = found["next_obs/place"]
        described = json.loads(found["memwatch.json"])

    assert np.array_equal(expected["next_obs/place"], after)
    assert (1, 10, 34) == (described["version"], described["capacity"], described["total"])


def test_only_what_is_there_is_written(disk: Path) -> None:
    buffer = ReplayBuffer(1_000_000, {"obs": ((17,), "float32"), "reward": "float32"}, next_of="obs")
    for _ in range(10):
        buffer.add(obs=np.zeros(17), reward=0, next_obs=np.zeros(17))
    buffer.save(disk / "saved")

    assert (disk / "saved").stat().st_size < 3_000


def test_a_subclass_loads_as_one(disk: Path) -> None:
    class Mine(ReplayBuffer):
        pass

    filled(3, 1, 2).save(disk / "saved")

    assert Mine is type(Mine.load(disk / "saved"))


@pytest.mark.slow
def test_saving_and_loading_stream(disk: Path) -> None:
    """A buffer of 200 MB is saved in 24 MB more; what is loaded takes what it holds, and 24 MB more."""
    script = """
import sys
import numpy as np
from memwatch.replay import ReplayBuffer

def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) * 1024

def forget():
    open("/proc/self/clear_refs", "w").write("5")

buffer = ReplayBuffer(200_000, {"obs": ((1_000,), "uint8"), "reward": "float32"}, next_of="obs")
row = np.zeros((1_000, 1_000), np.uint8)
for _ in range(200):
    buffer.extend(obs=row, next_obs=row, reward=np.zeros(1_000))
buffer.save(sys.argv[1] + ".small")
forget()
before = peak()
buffer.save(sys.argv[1])
saved = peak() - before
del buffer
forget()
before = peak()
ReplayBuffer.load(sys.argv[1])
print(saved, peak() - before - 200_000 * 1_008)
"""
    command = [sys.executable, "-c", script, str(disk / "saved")]
    saved, loaded = map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())

    assert saved < 24 << 20
    assert loaded < 24 << 20


def test_a_symlink_is_followed_and_the_file_replaced(disk: Path) -> None:
    """`latest` stays a link to the file, which is the new one."""
    (disk / "latest").symlink_to("real")
    filled(3, 1, 2).save(disk / "latest")

    assert (disk / "latest").is_symlink()
    assert len(ReplayBuffer.load(disk / "real")) == 2


def test_other_threads_add_meanwhile_and_each_file_is_whole(disk: Path) -> None:
    """A row is in a file with all its fields, and with all rows before it."""
    buffer = ReplayBuffer(1000, {"obs": "int64", "copy": "int64"}, next_of="obs", seed=0)
    stop = threading.Event()

    def work() -> None:
        number = 0
        while not stop.is_set():
            buffer.add(obs=number, copy=number, next_obs=number + 1)
            number += 1

    thread = threading.Thread(target=work)
    thread.start()
    try:
        until(lambda: len(buffer) > 100)
        for _ in range(20):
            buffer.save(disk / "saved")
            found = ReplayBuffer.load(disk / "saved")
            count = len(found)
            first = found.position if count == 1000 else 0
            got = found.get((np.arange(count) + first) % count)

            assert np.array_equal(got["obs"], got["copy"])
            assert np.array_equal(got["obs"] + 1, got["next_obs"])
            assert np.array_equal(np.arange(count), got["obs"] - got["obs"][0])
    finally:
        stop.set()
        thread.join()


# -------------------------------------------------------------- what goes wrong: saving ---

SAVES = """
import sys
import numpy as np
from memwatch.replay import ReplayBuffer

buffer = ReplayBuffer(20_000, {"obs": ((50,), "float32"), "number": "int64"}, next_of="obs")
for number in range(1_000_000):
    array = np.full((20_000, 50), number % 1000, np.float32)
    buffer.extend(obs=array, next_obs=array, number=np.full(20_000, number))
    buffer.save(sys.argv[1])
    print(number, flush=True)
"""


@pytest.mark.slow
def test_whoever_is_killed_while_saving_leaves_a_whole_file(disk: Path) -> None:
    """SIGKILL at any moment, 20 times: the last file or the one before; the next save() removes what lay beside it."""
    chance = random.Random(7)
    caught = 0
    for _ in range(20):
        command = [sys.executable, "-c", SAVES, str(disk / "saved")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "0\n"
            with pytest.raises(subprocess.TimeoutExpired):
                child.wait(chance.uniform(0, 0.05))
            child.kill()
            said = [0, *map(int, child.stdout.read().split())]
        found = ReplayBuffer.load(disk / "saved")
        numbers = set(found.get(np.arange(20_000))["number"].tolist())
        caught += len(os.listdir(disk)) - 1

        assert numbers in ({said[-1]}, {said[-1] + 1})
        assert set(found.get([5])["obs"][0].tolist()) == {numbers.pop() % 1000}
        assert len(os.listdir(disk)) <= 2  # the one before swept its predecessor's
    found.save(disk / "saved")

    assert ["saved"] == os.listdir(disk)
    assert caught > 2  # or nobody was killed while it wrote


def test_a_file_that_is_being_written_is_not_swept(disk: Path) -> None:
    """Two that save to one path: the last to end has its file there."""
    with replay_store.beside(str(disk / "saved")) as (_, name):
        filled(3, 1, 2).save(disk / "saved")

        assert sorted(["saved", Path(name).name]) == sorted(os.listdir(disk))
    assert ["saved"] == os.listdir(disk)


@pytest.fixture
def full(disk: Path) -> Iterator[Path]:
    """A disk of 1 MB."""
    where = disk / "full"
    where.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "memwatch-test", str(where)], capture_output=True, check=False
    )
    if mount.returncode:
        pytest.skip("a small file system to fill cannot be mounted here: that takes root")
    yield where
    gc.collect()
    subprocess.run(["umount", str(where)], check=True)


def test_a_full_disk_keeps_the_file_before_and_nothing_else(full: Path) -> None:
    """The error says what it takes and what is free."""
    filled(3, 1, 2).save(full / "saved")
    large = filled(50_000, 50, 1000)
    with pytest.raises(
        OSError, match=r"No space left on device: to save it takes .* is free there; .*'/.*saved'"
    ) as raised:
        large.save(full / "saved")

    assert isinstance(raised.value, OSError)
    assert ["saved"] == os.listdir(full)
    assert len(ReplayBuffer.load(full / "saved")) == 2
    large.add(
        obs={"place": np.zeros(3), "lamp": 0},
        action=[0, 0],
        reward=0,
        done=False,
        next_obs={"place": np.zeros(3), "lamp": 0},
    )


@pytest.mark.parametrize("path", ["missing/saved", "folder", "pipe"])
def test_where_no_file_can_be_is_said_by_its_name(path: str, disk: Path) -> None:
    (disk / "folder").mkdir()
    os.mkfifo(disk / "pipe")
    with pytest.raises(OSError, match=path):
        filled(3, 1, 2).save(disk / path)

    assert ["folder", "pipe"] == sorted(os.listdir(disk))


class Stop(Exception):
    pass


def test_an_exception_in_the_middle_leaves_nothing_behind(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the brake's: the file before is there, and the buffer goes on."""
    buffer = filled(5, 1, 3)
    buffer.save(disk / "saved")

    def stop(*_: Any) -> None:
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", stop)
        with pytest.raises(Stop):
            buffer.save(disk / "saved")
    add(buffer, 1)

    assert ["saved"] == os.listdir(disk)
    assert (4, 3) == (len(buffer), len(ReplayBuffer.load(disk / "saved")))


# ------------------------------------------------------------- what goes wrong: loading ---


def rewritten(path: Path, name: str, change: Callable[[bytes], bytes | None]) -> None:
    """The same file with another content of one member, and with the sums of that."""
    with zipfile.ZipFile(path) as archive:
        parts = {each: archive.read(each) for each in archive.namelist()}
    changed = change(parts[name])
    parts |= {name: changed} if changed is not None else {}
    with zipfile.ZipFile(path, "w") as archive:
        for each, content in parts.items():
            if each != name or changed is not None:
                archive.writestr(each, content)


def said(**changes: Any) -> Callable[[bytes], bytes]:
    return lambda content: json.dumps({**json.loads(content), **changes}).encode()


def array(value: Any, **how: Any) -> Callable[[bytes], bytes]:
    out = io.BytesIO()
    np.lib.format.write_array(out, value, **how)
    return lambda _: out.getvalue()


JSON = "memwatch.json"
HUGE = 10**12


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        pytest.param(JSON, lambda _: None, "it has no memwatch.json", id="not-ours"),
        pytest.param(JSON, lambda _: b"[1]", "describes no ReplayBuffer", id="another-json"),
        pytest.param(JSON, lambda _: b"{", "", id="no-json"),
        pytest.param(JSON, lambda _: b"[" * 900_000, "", id="deep-json"),
        pytest.param(JSON, lambda _: b" " * 2_000_000, "too long", id="long-json"),
        pytest.param(JSON, said(version=2), "version 2, this memwatch reads 1: load it with a later one", id="later"),
        pytest.param(JSON, said(total=-1), "total is -1", id="negative"),
        pytest.param(JSON, said(total="1"), "total is '1'", id="a-text"),
        pytest.param(JSON, said(capacity=0), "capacity is 0", id="no-capacity"),
        pytest.param(JSON, said(capacity=HUGE), f"capacity is {HUGE}", id="huge-capacity"),
        pytest.param(JSON, said(capacity=None), "", id="null"),
        pytest.param(JSON, said(environments=99), "environments is 99", id="environments"),
        pytest.param(JSON, said(random=[0, 0, 0, 0]), "random is", id="no-chance"),
        pytest.param(JSON, said(random=[2**64, 0, 0, 0]), "random is", id="too-much-chance"),
        pytest.param(JSON, said(apart=0), "should be uint32", id="fewer-nexts"),
        pytest.param(JSON, said(fields=[["obs", [HUGE, HUGE], "<f4"]]), "", id="huge-shape"),
        pytest.param(JSON, said(fields=[["obs", [1], "O"]]), "cannot be stored", id="objects"),
        pytest.param(JSON, said(fields=[["../obs", [1], "<f4"]]), "cannot be called", id="a-path-for-a-name"),
        pytest.param(JSON, said(fields=3), "", id="fields-that-are-none"),
        pytest.param(JSON, said(next_of={"next_x": "x"}), "there is no field 'x'", id="next-of-nothing"),
        pytest.param("reward.npy", lambda _: None, "reward.npy", id="a-field-is-missing"),
        pytest.param("reward.npy", lambda _: b"", "", id="an-empty-field"),
        pytest.param("reward.npy", lambda content: content[:-1], "should have", id="a-short-field"),
        pytest.param("reward.npy", array(np.zeros(4, "f4")), "should be float32", id="another-shape"),
        pytest.param("reward.npy", array(np.zeros(5, "f8")), "should be float32", id="another-type"),
        pytest.param("reward.npy", array(np.zeros(5, ">f4")), "should be float32", id="another-byte-order"),
        pytest.param("reward.npy", array(np.array([{}] * 5), allow_pickle=True), "should be float32", id="pickles"),
        pytest.param("reward.npy", array(np.zeros(5, "f4"), version=(2, 0)), "of a version", id="another-npy"),
        pytest.param("memwatch.next_at.npy", array(np.array([9, 3, 4], "u4")), "", id="out-of-order"),
        pytest.param("memwatch.next_at.npy", array(np.array([0, 1, 9], "u4")), "", id="beyond-the-rows"),
    ],
)
def test_what_no_buffer_can_be_is_refused(
    name: str, change: Callable[[bytes], bytes | None], expected: str, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ValueError with the file's name and the reason, before there is a buffer; nothing is left of it."""
    filled(5, 1, 7).save(disk / "saved")
    rewritten(disk / "saved", name, change)
    monkeypatch.setattr(replay, "AnonymousStore", None)
    with pytest.raises(ValueError, match=f"saved is no file of ReplayBuffer.save.*{expected}"):
        ReplayBuffer.load(disk / "saved", store=disk / "rows")

    assert ["saved"] == os.listdir(disk)


def test_a_buffer_that_does_not_fit_is_refused_before_it_is_made(disk: Path) -> None:
    """A file of some kilobytes can say that it will grow to a hundred gigabytes."""
    filled(5, 1, 3).save(disk / "saved")
    rewritten(disk / "saved", JSON, said(capacity=4_000_000_000))
    with pytest.raises(DoesNotFit, match="would fit"):
        ReplayBuffer.load(disk / "saved")


@pytest.mark.slow
def test_a_damaged_byte_is_told_or_means_nothing(disk: Path) -> None:
    """Each byte of a file, one after the other: a ValueError, or the very rows."""
    buffer = filled(4, 1, 6)
    buffer.save(disk / "saved")
    expected, content = whole(buffer), (disk / "saved").read_bytes()
    told = 0
    for at in range(len(content)):
        damaged = bytearray(content)
        damaged[at] ^= 1 << at % 8
        (disk / "damaged").write_bytes(damaged)
        try:
            found = ReplayBuffer.load(disk / "damaged")
        except ValueError as error:
            assert "or damaged" in str(error)  # noqa: PT017 - it may as well be loaded
            told += 1
        else:
            assert expected == whole(found)

    assert told > 0.6 * len(content)


@pytest.mark.parametrize("kept", [0, 1, 100, 0.5, -1])
def test_a_file_that_was_cut_short_is_refused(kept: float, disk: Path) -> None:
    filled(5, 1, 7).save(disk / "saved")
    content = (disk / "saved").read_bytes()
    (disk / "saved").write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    with pytest.raises(ValueError, match="or damaged"):
        ReplayBuffer.load(disk / "saved")


@pytest.mark.parametrize("kind", ["folder", "pipe", "socket"])
def test_what_is_no_file_is_refused_and_not_waited_for(kind: str, disk: Path) -> None:
    path = disk / "it"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(os.path.relpath(path))
    with pytest.raises(ValueError, match="is no file"):
        ReplayBuffer.load(path)


def test_what_is_not_there_is_not_found(disk: Path) -> None:
    with pytest.raises(FileNotFoundError):
        ReplayBuffer.load(disk / "missing")


# ----------------------------------------------------------------------- on a disk ---

EXT4 = 0xEF53  # as statfs(2) says it


def test_a_store_has_no_name_and_all_its_room(disk: Path) -> None:
    """What is written to it is on the disk, which has the blocks for it; two with one path do not meet."""
    free = os.statvfs(disk)
    one, other = (ReplayBuffer(1000, {"x": ((1000,), "int64")}, store=disk / "rows") for _ in range(2))
    one.add(x=np.full(1000, 1))
    other.add(x=np.full(1000, 2))

    assert [] == os.listdir(disk)
    assert (1, 2) == (one.sample(1)["x"][0, 0], other.sample(1)["x"][0, 0])
    assert one._store.path == str(disk / "rows")
    assert free.f_bsize


def test_a_store_is_file_memory_with_blocks(disk: Path) -> None:
    """Not a hole, which on a full disk would be a SIGBUS; and memory that the kernel can write back."""
    store = replay_store.FileStore(disk / "rows", 10_000_000)
    maps = [line for line in Path("/proc/self/maps").read_text().splitlines() if f"{disk}/rows." in line]

    assert len(maps) == 1
    assert "rw-s" in maps[0]
    assert maps[0].endswith("(deleted)")
    begin, end = maps[0].split()[0].split("-")
    found = os.stat(f"/proc/self/map_files/{begin}-{end}") if os.access("/proc/self/map_files", os.R_OK) else None
    if found is not None:
        assert found.st_blocks * 512 >= 10_000_000
    assert bytes(store.memory[:100]) == bytes(100)


def test_a_folder_will_do(disk: Path) -> None:
    buffer = ReplayBuffer(10, {"x": "int64"}, store=disk)
    buffer.add(x=3)

    assert [] == os.listdir(disk)
    assert 3 == buffer.sample(1)["x"][0]


@pytest.mark.parametrize("kind", ["file", "symlink", "dangling"])
def test_what_is_there_is_never_touched(kind: str, disk: Path) -> None:
    """Somebody's model, or what save() wrote: refused, with a word on load()."""
    target = disk / ("rows" if kind == "file" else "target")
    if kind != "dangling":
        target.write_bytes(b"a model")
    if kind != "file":
        (disk / "rows").symlink_to("target")
    before = sorted(os.listdir(disk))
    with pytest.raises(FileExistsError, match=r"a store is always a new file.*load.*rows"):
        ReplayBuffer(10, {"x": "int64"}, store=disk / "rows")

    assert before == sorted(os.listdir(disk))
    assert kind == "dangling" or target.read_bytes() == b"a model"


def test_a_disk_without_room_is_told_at_once(full: Path) -> None:
    """What it takes, what is free, and no file."""
    with pytest.raises(
        OSError, match=r"No space left on device: to hold the rows takes 8.0 MB, and 1.0 MB is free there"
    ):
        ReplayBuffer(1000, {"x": ((1000,), "int64")}, store=full / "rows")

    assert [] == os.listdir(full)


def test_more_than_any_disk_has_is_told(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the number; on a tmpfs memory would be asked first."""
    monkeypatch.setattr(replay_store, "_file_system", lambda _: EXT4)
    with pytest.raises(OSError, match="is free there"):
        replay_store.FileStore(disk / "rows", 2**62)
    with pytest.raises(OSError, match="is free there"):
        replay_store.FileStore(disk / "rows", 2**70)

    assert [] == os.listdir(disk)


def test_a_store_in_memory_is_checked_as_memory(full: Path) -> None:
    """A tmpfs is no disk: what does not fit into memory is refused before a byte of it is taken."""
    with pytest.raises(
        DoesNotFit, match=r"full is on a tmpfs, which is memory; a store needs .* available.*: give a store on a disk"
    ):
        ReplayBuffer(10**9, {"x": ((10**6,), "int64")}, store=full / "rows")


def test_on_a_disk_more_than_memory_is_allowed(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What would not fit in memory is not asked there."""

    def refuse(*_: Any) -> None:
        raise DoesNotFit("no room")

    monkeypatch.setattr(replay_store, "check_fit", refuse)
    monkeypatch.setattr(replay_store, "_file_system", lambda _: EXT4)
    with pytest.raises(DoesNotFit):
        ReplayBuffer(10, {"x": "int64"})

    assert 10 == ReplayBuffer(10, {"x": "int64"}, store=disk / "rows").capacity


def test_rows_in_a_file_are_promised_as_they_come(disk: Path) -> None:
    """The kernel can write them back: they leave no less room for other buffers. RSS has them while they are in it."""
    before = holding.promised()
    buffer = ReplayBuffer(100_000, {"x": ((10,), "int64")}, store=disk / "rows")
    empty = [now - then for now, then in zip(holding.promised(), before, strict=True)]
    buffer.extend(x=np.zeros((1000, 10), np.int64))
    later = [now - then for now, then in zip(holding.promised(), before, strict=True)]

    assert [0, 0] == empty
    assert [80_000, 80_000] == later


def test_the_room_is_free_again_once_nobody_has_it(full: Path) -> None:
    """With the buffer, though nobody closed anything."""
    before = os.statvfs(full).f_bavail
    buffer = ReplayBuffer(100, {"x": ((1000,), "int64")}, store=full / "rows")
    taken = before - os.statvfs(full).f_bavail
    del buffer
    gc.collect()

    assert taken * os.statvfs(full).f_frsize >= 800_000
    assert before == os.statvfs(full).f_bavail


def test_whoever_is_killed_leaves_no_store(full: Path) -> None:
    script = f"""
from memwatch.replay import ReplayBuffer
buffer = ReplayBuffer(100, {{"x": ((1000,), "int64")}}, store={str(full / "rows")!r})
print("ready", flush=True)
input()
"""
    before = os.statvfs(full).f_bavail
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        assert os.statvfs(full).f_bavail < before
        child.send_signal(signal.SIGKILL)

    assert [] == os.listdir(full)
    assert before == os.statvfs(full).f_bavail


def test_a_forked_child_adds_to_rows_of_its_own(disk: Path) -> None:
    """What the parent has stays as it was; the child finds both."""
    buffer = ReplayBuffer(3, {"x": "int64"}, store=disk / "rows")
    buffer.extend(x=[1, 2])

    def child() -> bool:
        buffer.extend(x=[3, 4])
        return buffer.get([0, 1, 2])["x"].tolist() == [4, 2, 3]

    assert "True" == in_child(child)
    buffer.add(x=5)
    assert [1, 2, 5] == buffer.get([0, 1, 2])["x"].tolist()


def test_a_store_leaves_no_descriptor(disk: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        ReplayBuffer(3, {"x": "int64"}, store=disk / "rows").add(x=1)
    gc.collect()

    assert before == len(os.listdir("/proc/self/fd"))
