"""A watchdog's own file: what is written is read, what the dead left goes, and what is no such file is passed over."""

import json
import os
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.fork import in_child
from support.scene import Scene, row, standing

from memwatch import standing as room
from memwatch.identity import Identity
from memwatch.standing import Growth


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with Scene(tmp_path / "board") as made:
        yield made


def read(scene: Scene) -> list[int]:
    return [it["pid"] for it in room.read_all(str(scene.folder))]


def mine() -> dict[str, object]:
    return standing(os.getpid(), [row(1, os.getpid())])


def test_what_is_written_is_read_until_it_is_removed(scene: Scene) -> None:
    """The last one written counts; twice removed is fine."""
    folder = str(scene.folder)
    room.write(folder, mine() | {"looks": 1})
    room.write(folder, mine() | {"looks": 2})

    assert [2] == [it["looks"] for it in room.read_all(folder)]
    assert 0o600 == (scene.folder / f"watchdog-{os.getpid()}.json").stat().st_mode & 0o777
    room.remove(folder)
    room.remove(folder)
    assert ["board"] == os.listdir(folder)


def test_no_folder_is_no_watchdog(tmp_path: Path) -> None:
    """Where nothing ever ran there is nothing to read."""
    assert [] == list(room.read_all(str(tmp_path / "none")))


def test_f86_what_the_dead_left_is_removed(scene: Scene) -> None:
    """Also where the pid is another process's by now; a file that was being written goes along."""
    alive, dead = scene.watchdog([]), scene.watchdog([])
    (scene.folder / f"watchdog-{dead}.json.new").write_text("{")
    scene.kill(dead)
    reused = scene.process()
    other = Identity.mine()._replace(pid=reused, start_time=1)
    scene.write(reused, json.dumps(standing(alive, []) | {"identity": str(other), "pid": reused}))

    assert [alive] == read(scene)
    assert ["board", f"watchdog-{alive}.json"] == sorted(os.listdir(scene.folder))


def test_f93_a_full_disk_leaves_the_one_before(scene: Scene) -> None:
    """Half of a file never takes its place, and no half is left lying about."""
    folder = str(scene.folder)

    def with_little_room() -> str:
        room.write(folder, standing(os.getpid(), []) | {"looks": 1})
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))
        try:
            room.write(folder, standing(os.getpid(), []) | {"looks": 2})
        except OSError:
            return str([it["looks"] for it in room.read_all(folder)] + sorted(os.listdir(folder))[2:])
        return "written"

    assert "[1]" == in_child(with_little_room)


def _link(path: Path) -> None:
    target = path.with_name("target")
    path.rename(target)
    path.symlink_to(target)


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda path: path.write_bytes(b""), id="empty"),
        pytest.param(lambda path: path.write_bytes(path.read_bytes()[:-9]), id="cut"),
        pytest.param(lambda path: path.write_bytes(b"\xff\xfe\0" * 99), id="noise"),
        pytest.param(lambda path: path.write_text("[" * 100_000), id="deep"),
        pytest.param(lambda path: path.write_text("[]"), id="a-list"),
        pytest.param(lambda path: path.write_text("{}"), id="no-workers"),
        pytest.param(lambda path: path.write_text('{"workers": []}'), id="no-identity"),
        pytest.param(lambda path: path.write_text('{"workers": [], "identity": "a/b/1/2/3/4"}'), id="six-fields"),
        pytest.param(lambda path: path.write_text('{"workers": [], "n": ' + "9" * 9999 + "}"), id="digits"),
        pytest.param(lambda path: path.write_bytes(path.read_bytes() + b" " * room.LARGEST), id="too-large"),
        pytest.param(_link, id="symlink"),
        pytest.param(_fifo, id="fifo"),
        pytest.param(_folder, id="folder"),
        pytest.param(
            lambda path: os.chown(path, 65534, -1),
            id="of-another-user",
            marks=pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away"),
        ),
    ],
)
def test_f97_f103_what_is_no_standing_is_passed_over(scene: Scene, spoil: Callable[[Path], object]) -> None:
    """It neither raises nor blocks, and the others are read."""
    bad, good = scene.watchdog([]), scene.watchdog([])
    spoil(scene.folder / f"watchdog-{bad}.json")
    began = time.monotonic()

    assert [good] == read(scene)
    assert time.monotonic() - began < 5


def test_another_machines_watchdog_is_left_alone(scene: Scene) -> None:
    """A container that shares the folder is not seen from here, and nothing of it is removed."""
    pid = scene.process()
    there = Identity.mine()._replace(machine="another")
    path = scene.write(pid, json.dumps(standing(pid, []) | {"identity": str(there)}))

    assert [] == read(scene)
    assert path.exists()


GROWTH = Growth("leak", 516_667.0, 0.97, "max_rss", 8 * 10**9, 2520.0, 6 * 10**9, 0, 0)


def test_growth_is_read_as_it_was_written() -> None:
    """Through JSON; what is not known is null there, and stays unknown."""
    for known in (GROWTH, Growth()):
        assert known == Growth.read(json.loads(json.dumps(known.fields())))


@pytest.mark.parametrize(
    "value", [None, 7, [], "leak", {}, {"kind": 3, "rate_bytes_per_second": "fast", "seconds": -1}]
)
def test_growth_that_makes_no_sense_is_none(value: object) -> None:
    """As of a watchdog of another version."""
    assert Growth() == Growth.read(value)


@pytest.mark.parametrize("worst", [float("nan"), float("inf"), -1.0, 10**400, True])
def test_growth_holds_no_figure_that_is_none(worst: object) -> None:
    """Nobody divides by it, or prints 400 digits."""
    names = [name for name, value in GROWTH.fields().items() if not isinstance(value, str)]

    assert Growth() == Growth.read(dict.fromkeys(names, worst))
    assert "\\x1b" == Growth.read({"kind": "\x1b"}).kind
