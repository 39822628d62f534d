"""
The brake on a whole machine: a Debian kernel boots under qemu with 1 GB, cgroup v2 and no limit anywhere, with swap
and without. tests/qemu/watch.c runs the worker of support/fillers.py in it, on the interpreter that runs the
tests, and says how it ended. Judged by outcome alone: emulation is slow.
"""

from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support import cbuild, fillers, qemu

from memwatch.sampler import PURE

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.slow,
    pytest.mark.skipif(bool(qemu.missing()), reason=qemu.missing() or "a kernel can be booted"),
    pytest.mark.skipif(PURE, reason="the brake is the native thread's alone (MEMWATCH_PURE is set)"),
]

MEMORY_MIB = 1024
SWAP_MIB = 256
FILL = fillers.bytearrays.__name__

swap = pytest.mark.parametrize("swap_mib", [pytest.param(0, id="no-swap"), pytest.param(SWAP_MIB, id="swap")])


class Outcome(NamedTuple):
    machine: dict[str, Any]
    ended: dict[str, Any]
    said: list[str]


def run(folder: Path, swap_mib: int, *how: str) -> Outcome:
    """One boot, one worker."""
    vmlinuz = qemu.kernel()
    assert vmlinuz is not None
    executable, environment, files = qemu.python(folder)
    init = cbuild.build([cbuild.REPO / "tests/qemu/watch.c"], folder / "init", flags=("-O2", "-static"))
    script = "/site/fillers.py"
    facts = qemu.boot(
        vmlinuz,
        init,
        folder,
        memory_mib=MEMORY_MIB,
        disk_mib=swap_mib,
        swap=bool(swap_mib),
        timeout=180,
        files={**files, script: Path(fillers.__file__)},
        arguments=[executable, script, FILL, *how],
        environment=environment,
    )
    machine, ended, _done = facts
    return Outcome(machine, ended, (folder / "console").read_text(errors="replace").splitlines())


@swap
def test_without_memwatch_the_machine_kills_or_stalls(tmp_path: Path, swap_mib: int) -> None:
    """The kernel ends the worker, or nothing moves any more; the trial never ends by itself."""
    machine, ended, _said = run(tmp_path, swap_mib)

    assert pytest.approx(swap_mib << 20, abs=4096) == machine["swap"]
    assert ended["stalled"] or (1, 9) == (ended["kills"], ended["signal"]), ended


@swap
def test_with_memwatch_the_trial_ends_and_the_worker_goes_on(tmp_path: Path, swap_mib: int) -> None:
    """Neither: the trial ends with EmergencyBrake (10 % are left), a second one runs, and the worker exits 0."""
    machine, ended, said = run(tmp_path, swap_mib, "--guarded")

    assert pytest.approx(swap_mib << 20, abs=4096) == machine["swap"]
    outcome = {key: ended[key] for key in ("code", "signal", "stalled", "kills")}
    assert {"code": 0, "signal": 0, "stalled": 0, "kills": 0} == outcome, "\n".join(said)
    words = [f"EmergencyBrake in {FILL}", "a second trial ran"]
    assert words == [line for line in said if line in words]
    assert any("EMERGENCY BRAKE" in line for line in said)
