"""Compile the project's C for tests: as strict as CI, into programs or libraries that ABI-mode cffi opens."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
CSRC = REPO / "csrc"
STRICT = ("-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Werror", "-g", "-pthread")


def clang() -> str | None:
    """The newest clang there is: Debian's carry a number."""
    return next((found for name in ("clang-19", "clang", "clang-14") if (found := shutil.which(name))), None)


def build(
    sources: Sequence[str | Path],
    out: Path,
    *,
    compiler: str = "gcc",
    flags: Sequence[str] = ("-O1",),
) -> Path:
    """Compile *sources* (names below csrc, or paths) strictly into *out*; a failure shows the compiler's words."""
    # .ci/run measures coverage with it; clang's is another format.
    extra = os.environ.get("MEMWATCH_CFLAGS", "").split() if Path(compiler).name == "gcc" else []
    paths = [str(CSRC / source) for source in sources]  # an absolute path stays as it is
    command = [compiler, *STRICT, "-I", str(CSRC), *flags, *extra, "-o", str(out), *paths]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise AssertionError(f"{' '.join(command)}\n{done.stderr}")
    return out


def library(sources: Sequence[str | Path], out: Path, *, flags: Sequence[str] = ("-O1",)) -> Path:
    """The same as a shared library, for cffi's dlopen()."""
    return build(sources, out, flags=(*flags, "-shared", "-fPIC"))
