"""Boot a kernel under qemu with one static program as its /init, and hand back what that said."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

QEMU = shutil.which("qemu-system-x86_64")
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "memwatch"


def kernel() -> Path | None:
    """The vmlinuz MEMWATCH_KERNEL names, else the one that .ci/run left in the user's cache folder."""
    if named := os.environ.get("MEMWATCH_KERNEL"):
        return Path(named)
    return max(CACHE.glob("vmlinuz-*-amd64"), default=None)


def _entry(number: int, name: str, mode: int, content: bytes = b"", device: tuple[int, int] = (0, 0)) -> bytes:
    # cpio "newc": a magic and 13 hexadecimal fields; name and content are each filled up to 4 bytes.
    named = name.encode() + b"\0"
    fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(named), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + named
    return b"".join(part + b"\0" * (-len(part) % 4) for part in (head, content))


def initramfs(init: Path) -> bytes:
    """A cpio archive of /init and of the console it talks on."""
    entries = [
        ("dev", 0o040755, b"", (0, 0)),
        ("dev/console", 0o020600, b"", (5, 1)),
        ("init", 0o100755, init.read_bytes(), (0, 0)),
        ("TRAILER!!!", 0, b"", (0, 0)),
    ]
    return b"".join(_entry(number, *entry) for number, entry in enumerate(entries, 1))


def boot(
    vmlinuz: Path, init: Path, folder: Path, *, memory_mib: int, disk_mib: int, timeout: float
) -> list[dict[str, Any]]:
    """
    Run *init* as process 1 until it powers off, and return the JSON objects it printed, in order.

    Emulated: /dev/kvm may be there and hang. The disk is NVMe, whose driver is built into Debian's cloud kernel.
    """
    (folder / "initramfs").write_bytes(initramfs(init))
    with (folder / "disk").open("wb") as disk:
        disk.truncate(disk_mib << 20)
    # fmt: off
    command = [
        QEMU or "qemu-system-x86_64", "-accel", "tcg", "-cpu", "max,-cx16,-la57", "-m", f"{memory_mib}",
        "-nographic", "-nodefaults", "-serial", "stdio", "-net", "none", "-no-reboot",
        "-drive", f"file={folder / 'disk'},if=none,id=disk,format=raw,cache=unsafe",
        "-device", "nvme,drive=disk,serial=memwatch",
        "-kernel", str(vmlinuz), "-initrd", str(folder / "initramfs"),
        # panic=-1: a panic ends qemu at once. loglevel=1: the kernel's own words would stand among ours.
        "-append", "console=ttyS0 psi=1 panic=-1 loglevel=1 mitigations=off",
    ]
    # fmt: on
    with (folder / "console").open("wb") as console:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=console, stderr=console, timeout=timeout, check=False
        )
    said = (folder / "console").read_text(errors="replace")
    facts = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    if done.returncode or not facts or facts[-1]["fact"] != "done":
        raise AssertionError(f"the guest did not come to its end (qemu: {done.returncode})\n{said}")
    return facts
