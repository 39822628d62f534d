"""systemd is told how it goes, and takes the README's unit."""

import os
import re
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
from support.cbuild import REPO

from memwatch.notify import Notify


def listener(folder: Path) -> tuple[socket.socket, str]:
    path = str(folder / "notify")
    it = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    it.bind(path)
    it.setblocking(False)
    return it, path


def heard(it: socket.socket) -> list[str]:
    said = []
    try:
        while True:
            said.append(it.recv(4096).decode())
    except BlockingIOError:
        return said


def test_it_says_ready_once_and_status_when_it_changes(tmp_path: Path) -> None:
    """READY=1 comes before the first status, and each status once."""
    it, path = listener(tmp_path)
    notify = Notify({"NOTIFY_SOCKET": path})
    for status in ("1 of 2", "2 of 2", "2 of 2"):
        notify.ready(status)
    notify.stopping()
    notify.close()
    said = heard(it)
    it.close()

    assert ["READY=1", "STATUS=1 of 2", "STATUS=2 of 2", "STOPPING=1"] == said


def test_it_pings_three_times_in_the_time_it_has(tmp_path: Path) -> None:
    """Asked for each 3 s, it is due each second, and not in between."""
    it, path = listener(tmp_path)
    notify = Notify({"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "3000000"})
    for now in (10.0, 10.5, 10.9, 11.0, 11.5, 12.5):
        notify.ping(now)
    due = notify.due
    notify.close()
    said = heard(it)
    it.close()

    assert (["WATCHDOG=1"] * 3, 13.5) == (said, due)


@pytest.mark.parametrize(
    "environ",
    [
        pytest.param({}, id="not-under-systemd"),
        pytest.param({"NOTIFY_SOCKET": "relative"}, id="not-a-path"),
        pytest.param({"NOTIFY_SOCKET": "/nowhere/at/all", "WATCHDOG_USEC": "x"}, id="nobody-there"),
        pytest.param({"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "9", "WATCHDOG_PID": "1"}, id="meant-for-another"),
    ],
)
def test_where_nobody_listens_nothing_fails(environ: dict[str, str]) -> None:
    """Nor is anything due."""
    notify = Notify(environ)
    notify.ready("well")
    notify.ping(1.0)
    notify.stopping()
    notify.close()

    assert float("inf") == notify.due


def test_an_abstract_socket_is_one_too() -> None:
    """systemd in containers names it "@...", which stands for a NUL."""
    name = f"memwatch-test-{os.getpid()}"
    it = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    it.bind("\0" + name)
    it.setblocking(False)
    notify = Notify({"NOTIFY_SOCKET": "@" + name})
    notify.stopping()
    notify.close()
    said = heard(it)
    it.close()

    assert ["STOPPING=1"] == said


def test_systemd_takes_the_unit_of_the_readme(tmp_path: Path) -> None:
    """`systemd-analyze verify` has nothing to say against it, once its command is there."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd-analyze here (Debian: apt install systemd)")
    unit = re.search(r"```ini\n(.*?)```", (REPO / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert unit is not None
    for name in ("memwatch", "python"):
        program = tmp_path / "training/.venv/bin" / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    file = tmp_path / "training.service"
    file.write_text(unit[1].replace("%h", str(tmp_path)))
    said = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(file)], capture_output=True, text=True, check=False
    )

    # What it has to say of the machine's own units does not count.
    assert (0, []) == (said.returncode, [line for line in said.stderr.splitlines() if "training" in line])
