"""
Build memwatch._native: memwatch.h is the cdef, word for word.

Run by setuptools (setup.py names it in cffi_modules); by hand it writes the
extension beside the package: python csrc/ffi_build.py
"""

import sys
import sysconfig
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent
BEGIN, END = "/* >>> what Python reads begins here */", "/* <<< what Python reads ends here */"

# What cffi cannot read in C: types whose size the compiler knows, and macros.
PRELUDE = """
typedef int... pid_t;
#define MW_ABSENT 0xffffffffffffffff
#define MW_NO_LIMIT 0xfffffffffffffffe
"""


def interface(header: str) -> str:
    """The lines of *header* between the two marks."""
    _, begin, rest = header.partition(BEGIN)
    body, end, _ = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"memwatch.h: need the lines {BEGIN!r} and {END!r}")
    return body


def relative(path: Path) -> str:
    # setuptools wants paths below the folder of setup.py, which is the cwd of a build.
    return f"{HERE.name}/{path.name}"


# A free-threaded interpreter has no stable ABI (PEP 703).
FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))

builder = FFI()
builder.cdef(PRELUDE + interface((HERE / "memwatch.h").read_text(encoding="utf-8")))
builder.set_source(
    "memwatch._native",
    '#include "memwatch.h"',
    sources=sorted(relative(path) for path in HERE.glob("*.c")),
    include_dirs=[HERE.name],
    # Else an edit to a private header is "already up-to-date".
    depends=sorted(relative(path) for path in [*HERE.glob("*.h"), HERE / "ffi_build.py"]),
    define_macros=[("_GNU_SOURCE", None)] + ([] if FREE_THREADED else [("MW_LIMITED_API", None)]),
    # -fno-plt: calls of the C library without a detour, 0.04 of the 0.3 us that a sample costs beyond its reads.
    extra_compile_args=["-std=c11", "-O2", "-fno-plt", "-fvisibility=hidden", "-pthread"],
    extra_link_args=["-pthread"],
    py_limited_api=not FREE_THREADED,
)

if __name__ == "__main__":
    builder.compile(tmpdir=str(HERE.parent), verbose="-v" in sys.argv)
