"""
The sampler on a real cgroup v2: a Debian kernel boots under qemu, tests/qemu/guest.c takes memory of each
kind and says what the sampler saw; here it is judged. All tests look at one boot.

Figures are in MiB. Workers are in /a/b/c: a has 256 MiB, b no limit, c 128 MiB; d, elsewhere, has 96 MiB.
"""

import errno
import os
from collections.abc import Callable
from typing import Any

import pytest
from support import cbuild, qemu

pytestmark = [pytest.mark.qemu, pytest.mark.slow]

SAMPLER = ["parse.c", "parse_cgroup.c", "procfs.c", "cgroup.c", "cgroup_find.c", "sampler.c"]
MIB = 1 << 20
# The kernel charges a cgroup for 64 pages at a time and adds its figures up late; page tables count too.
TOLERANCE = 4.0

Fact = dict[str, Any]
Facts = Callable[..., list[Fact]]


@pytest.fixture(scope="session")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Facts:
    """facts("kind", step="24 clean"): what the guest said of that, in order."""
    vmlinuz = qemu.kernel()
    if vmlinuz is None:
        pytest.skip("no kernel to boot: set MEMWATCH_KERNEL to Debian's cloud vmlinuz (.ci/run fetches one)")
    if qemu.QEMU is None and not os.environ.get("MEMWATCH_KERNEL"):
        pytest.skip("qemu-system-x86_64 is not installed")
    folder = tmp_path_factory.mktemp("qemu")
    init = cbuild.build([cbuild.REPO / "tests/qemu/guest.c", *SAMPLER], folder / "init", flags=("-O2", "-static"))
    said = qemu.boot(vmlinuz, init, folder, memory_mib=640, disk_mib=128, timeout=120)

    def select(fact: str, **fields: object) -> list[Fact]:
        wanted = {"fact": fact, **fields}.items()
        found = [one for one in said if wanted <= {key: value for key, value in one.items() if key != "looks"}.items()]
        assert found, f"the guest said nothing of {wanted}"
        return found

    return select


def one(facts: Facts, fact: str, **fields: object) -> Fact:
    (only,) = facts(fact, **fields)
    return only


def close(mib: float, tolerance: float = TOLERANCE) -> object:
    """Equal to that many MiB in bytes, give or take 5 % or *tolerance* MiB."""
    return pytest.approx(mib * MIB, rel=0.05, abs=tolerance * MIB)


def test_f29_f30_f31_groups_are_found_from_our_own_to_the_root(facts: Facts) -> None:
    """Each level is a group, nearest first, by the folder's own device and inode; b has no limit ("max")."""
    groups = facts("group")

    expected = [
        (1, "/sys/fs/cgroup/a/b/c", 2, "some", 128 * MIB, 1),
        (2, "/sys/fs/cgroup/a/b", 2, "none", None, 1),
        (3, "/sys/fs/cgroup/a", 2, "some", 256 * MIB, 1),
    ]
    keys = ("number", "path", "version", "limit", "bytes", "same_folder")
    actual = [tuple(group[key] for key in keys) for group in groups[:3]]
    assert expected == actual
    assert one(facts, "open")["cgroup_error"] == 0


@pytest.mark.parametrize(
    ("fact", "binds", "limit", "headroom"),
    [
        pytest.param("nested", 1, 128, 128, id="the-nearest-limit-is-the-lowest"),
        pytest.param("ancestor lowered", 3, 100, 100, id="an-ancestor-binds-once-it-is-the-lowest"),
        pytest.param("ancestor raised", 1, 128, 128, id="a-limit-raised-is-seen"),
        pytest.param("own lowered", 1, 64, 64, id="a-limit-lowered-is-seen"),
        pytest.param("own taken away", 3, 256, 256, id="max-binds-nobody"),
        pytest.param("high binds", 1, 48, 48, id="memory.high-below-memory.max-is-the-limit"),
        pytest.param("both", 3, 256, 56, id="what-a-sibling-takes-counts-at-the-ancestor"),
        pytest.param("moved, refreshed", 1, 96, 96, id="the-new-cgroup-binds-after-a-move"),
        pytest.param("removed, refreshed", 1, 128, 128, id="and-after-the-removal-of-the-old-one"),
    ],
)
def test_f31_the_limit_that_binds(facts: Facts, fact: str, binds: int, limit: int, headroom: int) -> None:
    """Headroom is the least over all levels, and the sample says whose limit that is."""
    sample = one(facts, fact)

    assert (binds, limit * MIB) == (sample["binds"], sample["limit"])
    assert close(headroom) == sample["headroom"]


@pytest.mark.parametrize("fact", ["ancestor lowered", "ancestor raised", "own lowered", "own taken away", "high binds"])
def test_a_limit_that_changes_is_seen_within_a_tenth_of_a_second(facts: Facts, fact: str) -> None:
    """Limits are read anew every 100 ms; the guest looks each 10 ms, on an emulated processor."""
    assert one(facts, fact)["after_ns"] < 250e6


def test_a_sample_and_headroom_alone_agree(facts: Facts) -> None:
    """mw_headroom() is the headroom of mw_sample()."""
    sample = one(facts, "both")

    assert close(sample["headroom"] / MIB, tolerance=1) == sample["alone"]


@pytest.mark.parametrize(
    ("step", "before", "taken"),
    [
        pytest.param("16 anonymous", "nothing", 16, id="anonymous"),
        pytest.param("16 anonymous more", "16 anonymous", 16, id="anonymous-again"),
        pytest.param("24 clean", "16 anonymous more", 0, id="f21-clean-page-cache-costs-nothing"),
        pytest.param("16 tmpfs", "24 clean", 16, id="f20-tmpfs-is-no-cache"),
        pytest.param("tmpfs given back", "16 tmpfs", -16, id="f20-and-comes-back"),
        pytest.param("12 dirty", "tmpfs given back", 12, id="f22-dirty-pages-cannot-be-dropped"),
        pytest.param("8 locked", "12 dirty", 8, id="mlocked-pages-of-the-cache-neither"),
    ],
)
def test_f20_f21_f22_headroom_falls_by_what_cannot_be_taken_back(
    facts: Facts, step: str, before: str, taken: int
) -> None:
    """Headroom falls by memory the kernel cannot drop, and only by that."""
    now, then = one(facts, "kind", step=step), one(facts, "kind", step=before)

    assert close(taken, tolerance=2) == then["headroom"] - now["headroom"]
    assert then["dropped"] == now["dropped"] == 0


def test_f22_the_guest_did_have_dirty_and_locked_pages(facts: Facts) -> None:
    """The kernel's own counters say that the steps above were what their names say."""
    dirty, locked = one(facts, "kind", step="12 dirty"), one(facts, "kind", step="8 locked")

    assert close(12, tolerance=2) == dirty["file_dirty"]
    assert close(8, tolerance=2) == locked["unevictable"]
    assert close(16, tolerance=1) == one(facts, "kind", step="16 tmpfs")["shmem"]


def test_rss_is_the_anonymous_memory_touched(facts: Facts) -> None:
    """RSS grew by the 32 MiB that were touched; page cache and tmpfs, only written, are in nobody's RSS."""
    steps = [one(facts, "kind", step=step)["rss"] for step in ("nothing", "16 anonymous more", "16 tmpfs")]

    assert close(32, tolerance=1) == steps[1] - steps[0]
    assert close(0, tolerance=1) == steps[2] - steps[1]


@pytest.mark.parametrize("name", ["anonymous", "clean cache first", "tmpfs first"])
def test_headroom_is_what_can_be_taken_before_the_kernel_kills(facts: Facts, name: str) -> None:
    """At each of some hundred looks, headroom was what could then be taken until the kernel killed."""
    run = one(facts, "until killed", name=name)

    assert (run["kills"], run["status"]) == (1, 256 + 9)
    assert len(run["looks"]) > 90
    wrong = [(headroom, taken) for headroom, taken in run["looks"] if close(taken / MIB) != headroom]
    assert [] == wrong
    headroom, taken = run["looks"][-1]
    assert headroom < 2 * MIB + TOLERANCE * MIB, "the last look before the kill saw it coming"
    assert taken < 2 * MIB, "the guest takes one MiB at a time"


def test_f22_dirty_cache_makes_headroom_cautious_never_bold(facts: Facts) -> None:
    """With dirty pages more can be taken than headroom says (the kernel writes them out), never less."""
    run = one(facts, "until killed", name="dirty cache first")

    assert (run["kills"], run["status"]) == (1, 256 + 9)
    bold = [(headroom, taken) for headroom, taken in run["looks"] if headroom > taken + TOLERANCE * MIB]
    assert [] == bold
    headroom, taken = run["looks"][0]
    assert close(24, tolerance=6) == taken - headroom


def test_a_worker_sees_itself_as_the_watchdog_sees_it(facts: Facts) -> None:
    """A handle on pid 0 inside and one on its pid outside give the same headroom."""
    inside, outside = one(facts, "inside"), one(facts, "outside")

    assert (0, 0, 1, 128 * MIB) == tuple(inside[key] for key in ("error", "cgroup_error", "binds", "limit"))
    assert close(outside["headroom"] / MIB, tolerance=1) == inside["headroom"]


def test_f32_in_a_cgroup_namespace_the_visible_limit_binds(facts: Facts) -> None:
    """Hidden ancestors take no part; the namespace's own root has a limit and counts, as group 1."""
    inside = one(facts, "namespace")

    assert (0, 0, 1, 1) == tuple(inside[key] for key in ("error", "cgroup_error", "binds", "groups"))
    assert 128 * MIB == inside["limit"]
    assert close(96) == inside["headroom"]


def test_f32_a_mount_from_outside_the_namespace_is_not_taken_for_ours(facts: Facts) -> None:
    """Before cgroup2 is mounted anew, its paths lead elsewhere: no cgroup takes part, and -EXDEV says so."""
    inside = one(facts, "namespace, old mount")

    assert (0, -errno.EXDEV, 0, 0) == tuple(inside[key] for key in ("error", "cgroup_error", "binds", "groups"))


def test_f33_a_move_is_noticed_within_a_second(facts: Facts) -> None:
    """Moved to another cgroup: -ESTALE, once, and a refresh finds the new one."""
    moved = one(facts, "moved")

    assert -errno.ESTALE == moved["answer"]
    assert moved["after_ns"] < 1.5e9
    assert one(facts, "moved, said once")["answer"] == 0
    assert one(facts, "moved, refresh")["answer"] == 0


def test_f34_a_removed_cgroup_is_noticed_within_a_second(facts: Facts) -> None:
    """The old cgroup's files answer ENODEV: -ESTALE, and a refresh finds where the process is now."""
    removed = one(facts, "removed")

    assert -errno.ESTALE == removed["answer"]
    assert removed["after_ns"] < 1.5e9
    assert one(facts, "removed, refresh")["answer"] == 0


def test_f16_a_reaped_process_is_gone(facts: Facts) -> None:
    """-ESRCH, at once."""
    gone = one(facts, "gone")

    assert -errno.ESRCH == gone["answer"]
    assert gone["after_ns"] < 0.5e9


def test_pressure_is_told_by_a_kernel_that_has_it(facts: Facts) -> None:
    """Cgroups at their limits have stalled somebody: PSI has counted that, and `full` is never above `some`."""
    pressure = one(facts, "pressure")

    assert pressure["error"] == 0
    assert 0 < pressure["full_total_us"] <= pressure["some_total_us"]
