"""Boot a kernel under qemu with one static program as its /init, and hand back what that said."""

import importlib.util
import json
import os
import re
import shutil
import stat
import struct
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import memwatch

QEMU = shutil.which("qemu-system-x86_64")
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "memwatch"


def kernel() -> Path | None:
    """The vmlinuz MEMWATCH_KERNEL names, else the one that .ci/run left in the user's cache folder."""
    if named := os.environ.get("MEMWATCH_KERNEL"):
        return Path(named)
    return max(CACHE.glob("vmlinuz-*-amd64"), default=None)


def missing() -> str:
    """What a boot would need and this machine does not have; "" when it can boot."""
    if kernel() is None:
        return "no kernel to boot: set MEMWATCH_KERNEL to Debian's cloud vmlinuz (.ci/run fetches one)"
    # Who names a kernel means it: then a qemu that is not there is a failure.
    if QEMU is None and not os.environ.get("MEMWATCH_KERNEL"):
        return "qemu-system-x86_64 is not installed"
    return ""


class _Entry(NamedTuple):
    name: str
    mode: int
    content: bytes = b""
    device: tuple[int, int] = (0, 0)
    mtime: int = 0

    def cpio(self, number: int) -> bytes:
        # "newc": a magic and 13 hexadecimal fields; name and content are each filled up to 4 bytes.
        name = self.name.encode() + b"\0"
        fields = (number, self.mode, 0, 0, 1, self.mtime, len(self.content), 0, 0, *self.device, len(name), 0)
        head = b"070701" + b"".join(b"%08X" % field for field in fields) + name
        return b"".join(part + b"\0" * (-len(part) % 4) for part in (head, self.content))


def initramfs(init: Path, files: Mapping[str, Path]) -> bytes:
    """A cpio archive of /init, of the console it talks on, and of *files*: the path in the guest, the file here."""
    inside = {PurePosixPath(name.lstrip("/")): path for name, path in {**files, "init": init}.items()}
    folders = {PurePosixPath("dev"), *(folder for name in inside for folder in name.parents)} - {PurePosixPath(".")}
    # Sorted, a folder comes before what is in it.
    entries = [_Entry(str(folder), stat.S_IFDIR | 0o755) for folder in sorted(folders)]
    entries.append(_Entry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1)))
    for name, path in inside.items():
        # Compiled Python knows its source by the time that was changed.
        changed = int(path.stat().st_mtime)
        entries.append(_Entry(str(name), stat.S_IFREG | 0o755, path.read_bytes(), mtime=changed))
    entries.append(_Entry("TRAILER!!!", 0))
    return b"".join(entry.cpio(number) for number, entry in enumerate(entries, 1))


# What is large and no worker imports: tests, programs, and what wraps a library of the host's.
_LEFT_OUT = re.compile(
    r"test|tests|idlelib|tkinter|turtledemo|lib2to3|ensurepip|pydoc_data|distutils|site-packages|dist-packages|config-.*"
    r"|(_test|_ctypes_test|_xxtest|xxlimited|_tkinter|_curses|readline|_dbm|_gdbm|_sqlite3|_ssl|_hashlib|_codecs_|nis).*\.so"
)


def _library() -> Iterator[Path]:
    """The standard library's sources, what they are compiled to if that is there, and its extension modules."""
    for folder, folders, names in os.walk(sysconfig.get_path("stdlib")):
        folders[:] = [name for name in folders if not _LEFT_OUT.fullmatch(name)]
        for name in names:
            kept = name.endswith((".py", f".{sys.implementation.cache_tag}.pyc", ".so"))
            if kept and not _LEFT_OUT.fullmatch(name):
                yield Path(folder, name)


def _linked(binaries: Sequence[Path]) -> set[Path]:
    """The shared libraries that *binaries* need, as this machine's loader finds them."""
    said = subprocess.run(["ldd", *binaries], capture_output=True, text=True, check=True).stdout
    return {Path(path) for path in re.findall(r"^\s+(?:\S+ => )?(/\S+) \(0x", said, re.MULTILINE)}


def _stripped(path: Path, folder: Path) -> Path:
    """*path* without what only a debugger reads, which may be most of it; it itself where that cannot be taken off."""
    if path.suffix == ".py" or path.stat().st_size < 256 << 10 or not shutil.which("strip"):
        return path
    less = folder / path.name
    done = subprocess.run(["strip", "--strip-debug", "-o", less, path], capture_output=True, check=False)
    return path if done.returncode else less


def python(folder: Path) -> tuple[str, dict[str, str], dict[str, Path]]:
    """
    The interpreter that runs the tests, for a guest: its path there, the environment it needs, and the files.

    It lies where it lies here, with the standard library; memwatch and what it imports are in /site. *folder* takes
    what had to be made for it.
    """
    executable = Path(sys.executable).resolve()
    backend = importlib.util.find_spec("_cffi_backend")
    if backend is None or backend.origin is None:
        raise FileNotFoundError("_cffi_backend is not installed")
    package = Path(memwatch.__file__).parent
    files = {str(path): path for path in (executable, *_library())}
    files |= {f"/site/memwatch/{path.name}": path for path in package.iterdir() if path.suffix in {".py", ".so"}}
    files[f"/site/{Path(backend.origin).name}"] = Path(backend.origin)
    linked = _linked([executable, *(path for path in files.values() if path.suffix == ".so")])
    environment = {
        "PYTHONHOME": sys.base_prefix,
        "PYTHONPATH": "/site",
        "PYTHONDONTWRITEBYTECODE": "1",
        "LD_LIBRARY_PATH": ":".join(sorted({str(path.parent) for path in linked})),
    }
    files |= {str(path): path for path in linked}
    return str(executable), environment, {name: _stripped(path, folder) for name, path in files.items()}


def swap_header(size: int) -> bytes:
    """The first page of a swap area of *size* bytes, as mkswap(8) writes it."""
    page = bytearray(4096)
    struct.pack_into("<III", page, 1024, 1, size // 4096 - 1, 0)  # version, last page, how many are bad
    page[-10:] = b"SWAPSPACE2"
    return bytes(page)


def boot(
    vmlinuz: Path,
    init: Path,
    folder: Path,
    *,
    memory_mib: int,
    disk_mib: int,
    timeout: float,
    swap: bool = False,
    files: Mapping[str, Path] | None = None,
    arguments: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
    """
    Run *init* as process 1 until it powers off, and return the JSON objects it printed, in order.

    Emulated: /dev/kvm may be there and hang. The disk is NVMe, whose driver is built into Debian's cloud kernel.
    All that was printed is in *folder*/console.

    Args:
        disk_mib: 0 is no disk.
        swap: The disk is a swap area; whether it is used is for *init* to say.
        files: What is in the guest besides /init: paths there, and the files here.
        arguments: Of *init*; they and the environment come to it by the kernel's command line.
    """
    (folder / "initramfs").write_bytes(initramfs(init, files or {}))
    # panic=-1: a panic ends qemu at once. loglevel=1: the kernel's own words would stand among ours.
    words = ["console=ttyS0", "psi=1", "panic=-1", "loglevel=1", "mitigations=off"]
    words += [f"{key}={value}" for key, value in (environment or {}).items()]
    # fmt: off
    command = [
        QEMU or "qemu-system-x86_64", "-accel", "tcg", "-cpu", "max,-cx16,-la57", "-m", f"{memory_mib}",
        "-nographic", "-nodefaults", "-serial", "stdio", "-net", "none", "-no-reboot",
        "-kernel", str(vmlinuz), "-initrd", str(folder / "initramfs"), "-append", " ".join([*words, "--", *arguments]),
    ]
    # fmt: on
    if disk_mib:
        with (folder / "disk").open("wb") as disk:
            disk.truncate(disk_mib << 20)
            if swap:
                disk.write(swap_header(disk_mib << 20))
        command += ["-drive", f"file={folder / 'disk'},if=none,id=disk,format=raw,cache=unsafe"]
        command += ["-device", "nvme,drive=disk,serial=memwatch"]
    with (folder / "console").open("wb") as console:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=console, stderr=console, timeout=timeout, check=False
        )
    said = (folder / "console").read_text(errors="replace")
    facts = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    if done.returncode or not facts or facts[-1]["fact"] != "done":
        raise AssertionError(f"the guest did not come to its end (qemu: {done.returncode})\n{said}")
    return facts
