"""
The C as a whole: clean under two compilers, its own programs under three sanitizers, and nothing exported that
is not meant to be.

A program in tests/csrc says in its head what it is linked with ("links: parse.c procfs.c"), and gets a folder of
its own as argument. One that needs more is built by a test of its own, which names it.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from support import cbuild

pytestmark = pytest.mark.slow

PROGRAMS = cbuild.REPO / "tests/csrc"
LINKS = re.compile(r"^(?:/\*| \*)\s*links:((?: \w+\.c)+)", re.M)
SOURCES = sorted(cbuild.CSRC.glob("*.c"))
PYTHON = ("-isystem", sysconfig.get_path("include"))  # for pyglue.c; its headers are not ours to be strict with
SANITIZERS = {
    "plain": ["-O2"],
    "address,undefined": ["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    "thread": ["-O1", "-fsanitize=thread"],
}
# What else may keep something between two calls, and why.
KEEPS = {
    "board_guard.c": "a signal has one disposition a process",
    "board_file.c": "counts the names it has made up",
    "brake_hold.c": "a signal handler has no argument of its own, and a signal one disposition a process",
    "brake_kill.c": "the limit that was drawn in is the process's, and a forked child must find it",
    "pyglue.c": "the interpreter keeps the address of what describes a function",
    "brake_start.c": "one brake a process; a forked child must find it",
}


def linked() -> dict[str, list[str]]:
    """{"test_parse.c": ["parse.c"]}: what each program says it is linked with."""
    found = {path.name: LINKS.search(path.read_text()) for path in sorted(PROGRAMS.glob("test_*.c"))}
    return {name: match[1].split() for name, match in found.items() if match}


@pytest.fixture(params=["gcc", "clang"])
def compiler(request: pytest.FixtureRequest) -> str:
    found = shutil.which("gcc") if request.param == "gcc" else cbuild.clang()
    if found is None:
        pytest.skip(f"{request.param} is not installed")
    return found


def symbols(built: Path, *flags: str) -> set[str]:
    """What `nm` lists of it, by name."""
    listed = subprocess.run(["nm", *flags, built], capture_output=True, text=True, check=True).stdout
    return {line.split()[-1] for line in listed.splitlines() if line.strip()}


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each source as an object, built as the extension is."""
    folder = tmp_path_factory.mktemp("objects")
    flags = ("-O2", "-fPIC", "-fvisibility=hidden", "-c", *PYTHON)
    return {path.name: cbuild.build([path], folder / f"{path.stem}.o", flags=flags) for path in SOURCES}


@pytest.mark.parametrize("source", [path.name for path in SOURCES])
def test_each_source_compiles_without_a_warning(compiler: str, tmp_path: Path, source: str) -> None:
    """With optimisation, which sees more; and every external function was declared before."""
    flags = ("-O2", "-fPIC", "-c", "-Wmissing-prototypes", "-Wstrict-prototypes", "-Wvla", "-Wundef", *PYTHON)

    assert cbuild.build([source], tmp_path / "it.o", compiler=compiler, flags=flags).exists()


@pytest.mark.parametrize("header", [path.name for path in sorted(cbuild.CSRC.glob("*.h"))])
def test_each_header_includes_what_it_needs(tmp_path: Path, header: str) -> None:
    """A file that includes nothing else compiles."""
    alone = tmp_path / "alone.c"
    alone.write_text(f'#include "{header}"\n#include "{header}"\n')

    assert cbuild.build([alone], tmp_path / "alone.o", flags=("-c", "-Wno-unused-function")).exists()


@pytest.mark.parametrize("sanitizer", SANITIZERS)
@pytest.mark.parametrize("program", linked())
def test_the_programs_pass(compiler: str, tmp_path: Path, program: str, sanitizer: str) -> None:
    """Each C test passes as it is, under AddressSanitizer with UBSan, and under ThreadSanitizer."""
    built = cbuild.build(
        [PROGRAMS / program, *linked()[program]], tmp_path / "it", compiler=compiler, flags=SANITIZERS[sanitizer]
    )
    folder = tmp_path / "folder"
    folder.mkdir()
    # By a shell: the most memory that a process ever had begins with that of who started it, and pytest grows.
    command: list[str | Path] = ["/bin/sh", "-c", '"$@"; exit $?', "sh", built, folder]
    if sanitizer == "thread" and (setarch := shutil.which("setarch")):
        # Its shadow wants addresses to be where they were before kernels shuffled them by 32 bits.
        command = [setarch, "-R", *command]
    environment = {**os.environ, "TSAN_OPTIONS": "halt_on_error=1", "UBSAN_OPTIONS": "print_stacktrace=1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)

    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def test_no_program_is_left_out() -> None:
    """Each is linked as its head says, or a test names it."""
    tests = "".join(
        path.read_text() for path in (cbuild.REPO / "tests").glob("test_*.py") if path.name != Path(__file__).name
    )
    unnamed = {path.name for path in PROGRAMS.glob("*.c") if path.name not in tests} - set(linked())

    assert set() == unnamed


def test_external_names_begin_with_mw(objects: dict[str, Path]) -> None:
    """The objects are linked beside others; every external name is ours by its first letters."""
    named = {name for built in objects.values() for name in symbols(built, "-g", "--defined-only", "-f", "posix", "-j")}

    assert {name for name in named if name.startswith("mw_")} == named


def test_what_memwatch_h_declares_is_there(objects: dict[str, Path]) -> None:
    """Every function between the marks that Python reads is defined, once."""
    text = (cbuild.CSRC / "memwatch.h").read_text()
    cdef = text.partition(">>> what Python reads begins here")[2].partition("<<< what Python reads ends here")[0]
    cdef = re.sub(r"/\*.*?\*/", "", cdef, flags=re.S)
    declared = set(re.findall(r"\b(mw_\w+)\(", cdef))
    defined = [name for built in objects.values() for name in symbols(built, "-g", "--defined-only", "-j")]

    assert declared
    assert dict.fromkeys(declared, 1) == {name: defined.count(name) for name in declared}


def test_nothing_is_kept_between_calls(tmp_path: Path) -> None:
    """No source has writable variables of its own, but the few that say why."""
    writable = set()
    for source in SOURCES:
        # Not position-independent: tables of pointers would need to be written to by the loader.
        built = cbuild.build([source], tmp_path / "it.o", flags=("-O2", "-fno-pic", "-c", *PYTHON))
        if re.search(r" [bBdDC] ", subprocess.check_output(["nm", built], text=True)):
            writable.add(source.name)

    assert set(KEEPS) == writable


def test_the_extension_exports_its_entry_and_nothing_else() -> None:
    """No mw_ name is visible to other extensions of the same process."""
    found = importlib.util.find_spec("memwatch._native")

    assert found is not None
    assert found.origin is not None
    exported = symbols(Path(found.origin), "-D", "--defined-only", "-j")
    assert {"PyInit__native"} == exported - {"_init", "_fini"}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The sources that setup.py wants, and nothing built."""
    for name in ("csrc", "memwatch"):
        shutil.copytree(
            cbuild.REPO / name, tmp_path / name, ignore=shutil.ignore_patterns("_native.*so", "*.o", "_native.c")
        )
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(cbuild.REPO / name, tmp_path / name)
    return tmp_path


def built(checkout: Path, *arguments: str) -> int:
    """setup.py's doing; when the extension beside the sources was made."""
    command = [sys.executable, "setup.py", "-q", *arguments]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    (extension,) = (checkout / "memwatch").glob("_native.*so")
    return extension.stat().st_mtime_ns


def test_an_edit_to_a_private_header_rebuilds(checkout: Path) -> None:
    """Built twice, nothing happens the second time; after parse.h changed, it is built anew."""
    first, second = (built(checkout, "build_ext", "--inplace") for _ in range(2))
    header = checkout / "csrc/parse.h"
    os.utime(header, ns=(header.stat().st_atime_ns, second + 10**9))

    assert first == second
    assert built(checkout, "build_ext", "--inplace") > second


def test_a_checkout_that_was_installed_from_can_be_used_from_within(checkout: Path) -> None:
    """`pip install .` builds elsewhere, but here `import memwatch` finds the sources first: their C must be there."""
    built(checkout, "build")
    script = "import memwatch; print(memwatch.sample().rss > 0, memwatch.__file__)"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONSAFEPATH"}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=checkout, env=environment, capture_output=True, text=True, check=False
    )

    assert (f"True {checkout / 'memwatch/__init__.py'}\n", "") == (done.stdout, done.stderr)
