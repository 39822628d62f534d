"""The house of DESIGN.md, read from the code: imports go down only, and knowledge has one place."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.cbuild import CSRC, REPO

PACKAGE = REPO / "memwatch"

FLOORS = {
    0: {"model", "units", "errors"},
    1: {"trip", "policy", "lifecycle", "restart", "crew", "findings", "trend"},
    2: {
        *{"sampler", "pure", "board", "slot", "slot_values", "identity", "spawn", "standing", "holding"},
        *{"events", "sinks", "notify", "config", "configfile", "inject"},
    },
    3: {
        *{"brake", "trials", "running", "posting", "clerk", "raising", "giveback"},
        *{"watchdog", "worker", "telling", "waiting", "plan"},
    },
    4: {
        *{"integrations", "_inject", "testing", "doctor"},
        *{"replay", "replay_fields", "replay_file", "replay_store"},
        *{"leaks", "leaks_census", "leaks_inside", "leaks_judge", "leaks_run", "pytest_plugin"},
        *{"measuring", "measuring_brake", "measuring_cost", "measuring_workers"},
        *{"measuring_watchdog", "measuring_beside", "measuring_replay", "measuring_trend"},
    },
    5: {
        *{"cli", "cli_config", "cli_run", "cli_leaks", "leaks_plot", "status", "top", "showing", "reaping"},
        *{"bench", "bench_brake", "bench_common", "bench_workers", "bench_watchdog", "bench_replay"},
        "bench_trend",
    },
}
FLOOR = {room: floor for floor, rooms in FLOORS.items() for room in rooms}

# What the core may not do: it is told the time, and others act.
IMPURE = {"os", "time", "signal", "threading", "logging", "_native", "subprocess", "socket"}
# measuring times the C itself, and what a user would write without memwatch.
NATIVE = {"sampler", "board", "slot", "identity", "brake", "trials", "running", "posting", "clerk", "giveback"}
NATIVE |= {
    "spawn",
    "slot_values",
    "holding",
    "replay",
    "leaks",
    "measuring",
    "measuring_brake",
    "measuring_cost",
    "measuring_workers",
    "measuring_watchdog",
}
LIGHT_ON_FLOOR = {"cffi", "_cffi_backend", "memwatch"}

SOURCES = sorted(path for path in PACKAGE.glob("**/*.py") if path.name != "__init__.py")


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> list[tuple[str, bool]]:
    """Names that a file imports, our own as ".room", and whether at its top."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    top = {id(node) for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)}
    for inner in ast.walk(tree):
        if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            top -= {id(node) for node in ast.walk(inner)}
    found = []
    for node in ast.walk(tree):
        at_top = id(node) in top
        if isinstance(node, ast.Import):
            found += [(alias.name, at_top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:
            names = [node.module] if node.module else [alias.name for alias in node.names]
            # What a package has of its own is no other room.
            inner = path.relative_to(PACKAGE).parts[: -node.level]
            found += [("." + ".".join([*inner, name]), at_top) for name in names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.append((node.module, at_top))
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_go_down_only(path: Path) -> None:
    """A room imports from its own floor or below; who touches the native module is named."""
    assert room(path) in FLOOR, "a room that DESIGN.md and this table do not know"
    for name, _ in imports(path):
        if not name.startswith("."):
            continue
        target = name[1:].split(".")[0]
        if target == "_native":
            assert room(path) in NATIVE
        else:
            assert FLOOR[target] <= FLOOR[room(path)], f"{room(path)} imports {target} from above"


def test_the_core_is_pure() -> None:
    """No clock, no signals, no files: what it needs it is told."""
    for path in SOURCES:
        if FLOOR.get(room(path)) == 1 and room(path) != "findings":
            assert not {name.lstrip(".").split(".")[0] for name, _ in imports(path)} & IMPURE, path.name


def test_findings_judge_without_looking() -> None:
    """findings.py takes names of errors from os, and asks the system nothing."""
    text = (PACKAGE / "findings.py").read_text(encoding="utf-8")

    assert {"os.strerror", "os.path"} == set(re.findall(r"\bos\.\w+", text))


INTEGRATIONS = [path for path in SOURCES if room(path) == "integrations"]


@pytest.mark.parametrize("path", INTEGRATIONS, ids=lambda path: path.name)
def test_integrations_stand_on_public_names(path: Path) -> None:
    """What anybody could build on memwatch; each is short, for it is no place to decide anything."""
    public = {"board", "errors", "identity", "integrations", "replay", "units"}

    assert {name[1:].split(".")[0] for name, _ in imports(path) if name.startswith(".")} <= public
    assert not re.search(r"\bmemwatch\._|from memwatch", path.read_text(encoding="utf-8").partition('"""\n\n')[2])
    assert len(path.read_text(encoding="utf-8").splitlines()) < 150


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_third_parties_are_imported_where_they_are_used(path: Path) -> None:
    """Nothing but the standard library at the top of a file: `import memwatch` is light. An integration has its own."""
    known = set(sys.stdlib_module_names) | LIGHT_ON_FLOOR
    known |= {
        "integrations": {"optuna", "stable_baselines3"},
        "_inject": {"sitecustomize"},
        "pytest_plugin": {"pytest"},
    }.get(room(path), set())  # the user's own
    for name, at_top in imports(path):
        if at_top and not name.startswith("."):
            assert name.split(".")[0] in known, f"{name} at the top of {path.name}"


def code_without_words(path: Path) -> str:
    """Python's string constants that are no docstrings, a line each."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    words = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            words.add(id(node.value))
    constants = (node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str))
    return "\n".join(node.value for node in constants if id(node) not in words)


# Who may name a kernel path in Python, and why.
NAMES_PATHS = {
    "testing": "makes trees laid out like /proc",
    "findings": "tells a person what to type",
    "sampler": "names the file in an error",
    "measuring": "measures what a user would write without memwatch",
    "measuring_watchdog": "reads what the kernel says of the watchdog, as a user would",
    "measuring_beside": "reads what the kernel says of other watchdogs",
}


@pytest.mark.parametrize(
    "path",
    [path for path in SOURCES if room(path) not in NAMES_PATHS],
    ids=lambda path: path.relative_to(PACKAGE).as_posix(),
)
def test_paths_of_the_kernel_stand_in_c_alone(path: Path) -> None:
    """No Python opens /proc or a cgroup's file by its name."""
    assert not re.search(r"\bproc/|\bmemory\.(max|high|current|stat|limit_in|usage_in)", code_without_words(path))


def test_f98_nothing_waits_for_a_disk() -> None:
    """No fsync: on a slow disk it takes seconds, in the worker and in the watchdog. (A fake of testing.py does.)"""
    rooms = [path for path in SOURCES if room(path) != "testing"]
    code = "\n".join(ast.unparse(ast.parse(path.read_text(encoding="utf-8"))) for path in rooms)
    code += "\n".join(C_COMMENT.sub("", path.read_text(encoding="utf-8")) for path in CSRC.glob("*.c"))

    assert not re.search(r"\b(fsync|fdatasync|syncfs|sync_file_range)\s*\(|\bO_D?SYNC\b", code)


C_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)


@pytest.mark.parametrize("path", sorted(CSRC.glob("*.[ch]")), ids=lambda path: path.name)
def test_each_kernel_path_has_one_place_in_c(path: Path) -> None:
    """/proc stands in procfs*.c; the files of a cgroup in cgroup.c; the interpreter in pyglue.c."""
    code = C_COMMENT.sub("", path.read_text(encoding="utf-8"))
    if not path.match("procfs*.c"):
        assert '"proc/' not in code
        assert '"/proc' not in code
    if path.name not in {"cgroup.c", "procfs.c"}:
        assert '"memory.' not in code
    if path.name != "pyglue.c":
        assert "Python.h" not in code


@pytest.mark.parametrize("path", sorted(CSRC.glob("parse*.*")), ids=lambda path: path.name)
def test_parsers_do_no_io(path: Path) -> None:
    """Bytes and a length in, numbers out."""
    code = C_COMMENT.sub("", path.read_text(encoding="utf-8"))

    assert not re.search(r"\b(open|read|malloc|free|printf|strto\w+|ato\w)\s*\(|<(stdio|stdlib|unistd|fcntl)\.h>", code)


def test_import_memwatch_is_light() -> None:
    """It loads the standard library, cffi's backend and nothing else; what is heavy there, not even that."""
    script = "import sys; before = set(sys.modules); import memwatch; print(*sorted(set(sys.modules) - before))"
    said = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in said.stdout.split()}
    foreign = loaded - set(sys.stdlib_module_names) - {"memwatch", "_cffi_backend"}

    assert set() == foreign
    assert set() == loaded & {"numpy", "psutil", "logging", "asyncio", "threading", "subprocess", "argparse", "json"}
