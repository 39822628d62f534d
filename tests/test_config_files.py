"""The settings file: which one is read, what it may say, and whom root trusts."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memwatch import config, configfile
from memwatch.config import Settings
from memwatch.errors import SettingsError
from memwatch.units import parse_size

TABLE = "[tool.memwatch]\n"
ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")


@contextmanager
def as_nobody() -> Iterator[None]:
    """No longer root, whom no mode keeps from reading."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that any user can search; those of pytest are the user's own."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)
        yield Path(name)


def refused(cwd: Path, environ: dict[str, str] | None = None) -> str:
    with pytest.raises(SettingsError) as caught:
        Settings.load(environ or {}, str(cwd))
    said = str(caught.value)
    assert said.isprintable()
    return said


# -------------------------------------------------------------------- four places ---

# Each setting: in a file, in the environment, as an argument; and what these are.
PLACES = {
    "brake": ('"1GB"', "2GB", "3GB", [parse_size(it) for it in ("1GB", "2GB", "3GB")]),
    "warn": ('"10%"', "20%", "30%", [parse_size(it) for it in ("10%", "20%", "30%")]),
    "resume": ("3000000000", "4GB", "5GB", [parse_size(it) for it in (3 * 10**9, "4GB", "5GB")]),
    "floor": ('"100MB"', "200MB", "300MB", [parse_size(it) for it in ("100MB", "200MB", "300MB")]),
    "hold": ("0.01", "20ms", 0.03, [0.01, 0.02, 0.03]),
    "grace": ("1", "2", "3s", [1.0, 2.0, 3.0]),
    "squeeze": ('"off"', "1s", 2, [None, 1.0, 2.0]),
    "settle": ("1.5", "2.5s", 3, [1.5, 2.5, 3.0]),
    "admit_timeout": ('"1h"', "2h", "3h", [3600.0, 7200.0, 10800.0]),
    "max_brakes": ("1", "2", 3, [1, 2, 3]),
    "signal": ('"USR1"', "SIGUSR2", 29, [10, 12, 29]),
    "realtime": ("false", "on", False, [False, True, False]),
    "board": ('"/a"', "/b", "/c", ["/a", "/b", "/c"]),
    "workers": ("2", "3", 4, [2, 3, 4]),
    "max_age": ('"off"', "2h", "3h", [None, 7200.0, 10800.0]),
    "max_rss": ('"10%"', "off", "3GB", [parse_size("10%"), None, parse_size("3GB")]),
    "min_available": ('"1GB"', "2GB", "3GB", [parse_size(it) for it in ("1GB", "2GB", "3GB")]),
    "drain_timeout": ("60", "off", "3m", [60.0, 0.0, 180.0]),
    "stop_grace": ("0", "2s", "3s", [0.0, 2.0, 3.0]),
    "interval": ('"10s"', "20s", "30s", [10.0, 20.0, 30.0]),
    "logs": ('"/a"', "/b", "/c", ["/a", "/b", "/c"]),
}


def test_the_table_of_places_is_whole() -> None:
    assert set(config.SETTINGS) == set(PLACES)


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("file", ["memwatch.toml", "pyproject.toml"])
def test_default_file_environment_argument(tmp_path: Path, name: str, file: str) -> None:
    """Each setting comes from each of the four, and each beats those before it."""
    in_file, in_environment, as_argument, values = PLACES[name]
    environ = {f"MEMWATCH_{name.upper()}": in_environment}

    assert "default" == Settings.load({}, str(tmp_path)).origin(name).source

    head = TABLE if file == "pyproject.toml" else ""
    (tmp_path / file).write_text(f"{head}{name} = {in_file}\n")
    loaded = [
        Settings.load({}, str(tmp_path)),
        Settings.load(environ, str(tmp_path)),
        Settings.load(environ, str(tmp_path), **{name: as_argument}),
    ]

    assert values == [getattr(settings, name) for settings in loaded]
    assert ["file", "environment", "argument"] == [settings.origin(name).source for settings in loaded]
    shown = f"{file} [tool.memwatch]" if head else file
    assert (f"{name} = {in_file} in {shown}", f"{name} in {shown}") == loaded[0].origin(name)[1:3]


def test_an_empty_variable_leaves_what_the_file_says(tmp_path: Path) -> None:
    (tmp_path / "memwatch.toml").write_text("workers = 3")

    assert 3 == Settings.load({"MEMWATCH_WORKERS": ""}, str(tmp_path)).workers


def test_a_worker_does_not_care_what_the_watchdogs_are(tmp_path: Path) -> None:
    """Their keys are known there, and not read."""
    (tmp_path / "memwatch.toml").write_text('workers = 2000\nbrake = "3GB"')
    settings = Settings.load({"MEMWATCH_MAX_AGE": "soon"}, str(tmp_path), known=config.BRAKE)

    assert (parse_size("3GB"), 1) == (settings.brake, settings.workers)


def test_a_folder_is_relative_to_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that all who read the file meet at one board, wherever they are started."""
    monkeypatch.setenv("HOME", "/home/me")
    (tmp_path / "memwatch.toml").write_text('board = "../shared"\nlogs = "~/logs"')
    (tmp_path / "below").mkdir()
    settings = Settings.load({}, str(tmp_path / "below"))

    assert (f"{tmp_path}/../shared", "/home/me/logs") == (settings.board, settings.logs)


# ---------------------------------------------------------------------- which file ---


@pytest.mark.parametrize(
    ("files", "found"),
    [
        pytest.param({}, None, id="none"),
        pytest.param({"a/b/memwatch.toml": "", "memwatch.toml": ""}, "a/b/memwatch.toml", id="here-before-above"),
        pytest.param(
            {"a/pyproject.toml": TABLE, "memwatch.toml": ""}, "a/pyproject.toml", id="the-nearest-of-any-name"
        ),
        pytest.param({"a/b/pyproject.toml": "[tool.ruff]\n", "memwatch.toml": ""}, "memwatch.toml", id="passed-over"),
        pytest.param({"a/b/pyproject.toml": "tool = 3 # memwatch\n"}, None, id="a-tool-that-is-no-table"),
        pytest.param({"pyproject.toml": "tool.memwatch.workers = 2"}, "pyproject.toml", id="dotted"),
        pytest.param({"pyproject.toml": "[tool]\nmemwatch = {workers = 2}"}, "pyproject.toml", id="inline"),
        pytest.param(
            {"a/b/pyproject.toml": "[project]\nname = 'x'\ndependencies = ['memwatch']", "memwatch.toml": ""},
            "memwatch.toml",
            id="one-that-needs-us-only",
        ),
        pytest.param({"a/b/pyproject.toml": "[broken memwatch"}, None, id="broken-by-others"),
        pytest.param({"a/b/pyproject.toml": "\xff memwatch"}, None, id="not-utf-8-by-others"),
        pytest.param({"a/b/pyproject.toml": "#" * 70_000 + f"\n{TABLE}"}, "a/b/pyproject.toml", id="a-long-one"),
        pytest.param({"a/b/pyproject.toml": "#" * 2**21}, None, id="a-huge-one-of-others"),
        pytest.param({"a/b/c/memwatch.toml": ""}, None, id="not-below"),
    ],
)
def test_the_nearest_file_upwards(tmp_path: Path, files: dict[str, str], found: str | None) -> None:
    (tmp_path / "a/b/c").mkdir(parents=True)
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="latin-1")
    search = configfile.find({}, str(tmp_path / "a/b"))

    assert (None if found is None else str(tmp_path / found)) == (search.file and search.file.path)
    assert f"{tmp_path}/a/b/memwatch.toml" == search.looked[0]
    assert search.looked[-1] == (
        f"{tmp_path / found}".replace("memwatch.toml", "pyproject.toml") if found else "/pyproject.toml"
    )


def test_a_link_to_a_folder_goes_up_where_the_folder_is(tmp_path: Path) -> None:
    """As the kernel's own `..` does."""
    (tmp_path / "real/below").mkdir(parents=True)
    (tmp_path / "real/memwatch.toml").write_text("workers = 7")
    (tmp_path / "link").symlink_to("real/below")

    assert 7 == Settings.load({}, str(tmp_path / "link")).workers


def test_two_in_one_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "memwatch.toml").write_text("")
    (tmp_path / "pyproject.toml").write_text(TABLE)

    assert "memwatch.toml and pyproject.toml [tool.memwatch] are in one folder" in refused(tmp_path)


def test_a_file_can_be_named_or_left_out(tmp_path: Path) -> None:
    """MEMWATCH_CONFIG: a path, relative to where we are; or off."""
    (tmp_path / "memwatch.toml").write_text("workers = 2")
    (tmp_path / "other.toml").write_text("workers = 3")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/pyproject.toml").write_text(f"{TABLE}workers = 4")
    named = ["", "other.toml", str(tmp_path / "other.toml"), "sub/pyproject.toml", "off", "OFF"]

    assert [2, 3, 3, 4, 1, 1] == [Settings.load({"MEMWATCH_CONFIG": it}, str(tmp_path)).workers for it in named]


@pytest.mark.parametrize(
    ("named", "said"),
    [
        pytest.param("none.toml", "none.toml is not there: correct MEMWATCH_CONFIG or --config", id="none"),
        pytest.param("pyproject.toml", "pyproject.toml has no [tool.memwatch]: correct", id="of-others"),
        pytest.param(".", "/. is no regular file: give one", id="a-folder"),
        pytest.param("pyproject.toml/x", "pyproject.toml/x is not there", id="below-a-file"),
        pytest.param("a\x1b[31m\n", "\\x1b[31m\\n is not there", id="f100-a-name-that-moves-the-terminal"),
    ],
)
def test_a_file_that_was_named_must_be_there(tmp_path: Path, named: str, said: str) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.ruff]")

    assert said in refused(tmp_path, {"MEMWATCH_CONFIG": named})


def test_a_folder_that_was_removed_has_no_file(tmp_path: Path) -> None:
    """A worker whose folder somebody has removed starts all the same."""
    gone = tmp_path / "gone"
    gone.mkdir()
    before = os.open(".", os.O_RDONLY)
    os.chdir(gone)
    try:
        gone.rmdir()
        settings = Settings.load({})
    finally:
        os.fchdir(before)
        os.close(before)

    assert Settings() == settings


# -------------------------------------------------------------------- what it says ---


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param(
            'max-age = "1h"',
            'max-age = "1h" in memwatch.toml is no setting of memwatch; the nearest is max_age. Correct its name',
            id="a-dash",
        ),
        pytest.param(
            "worker = 2", "worker = 2 in memwatch.toml is no setting of memwatch; the nearest is workers", id="s"
        ),
        pytest.param("[memwatch]\nworkers = 2", "memwatch = {...} in memwatch.toml is no setting", id="a-table"),
        pytest.param("[[brake]]", "brake = [...] in memwatch.toml: must be one string, number", id="tables"),
        pytest.param(
            "[brake]\nx = 1",
            "brake = {...} in memwatch.toml: must be one string, number or boolean, and is a table",
            id="a-known-table",
        ),
        pytest.param("workers = [1]", "and is an array", id="an-array"),
        pytest.param("max_age = 12:00:00", "max_age = 12:00:00 in memwatch.toml: must be one", id="a-time"),
        pytest.param("max_age = 2026-01-01", "and is a date or a time", id="a-date"),
        pytest.param("brake = 2.5", "brake = 2.5 in memwatch.toml: size 2.5 has no unit", id="a-float"),
        pytest.param("brake = true", "brake = true in memwatch.toml: size True has no unit", id="true"),
        pytest.param('brake = "２GB"', 'brake = "２GB" in memwatch.toml: size', id="f106-full-width-digits"),
        pytest.param("max_age = nan", "max_age = nan in memwatch.toml: duration nan must be 0 or more", id="f106-nan"),
        pytest.param("max_age = -inf", "max_age = -inf in memwatch.toml: duration", id="f106-inf"),
        pytest.param("workers = 1.0", "workers = 1.0 in memwatch.toml: a whole number is needed", id="one-and-a-bit"),
        pytest.param("workers = true", "workers = true in memwatch.toml: a whole number", id="workers-true"),
        pytest.param("workers = 65", "workers = 65 in memwatch.toml: need 1 <= workers <= 64", id="65"),
        pytest.param("realtime = 1", 'realtime = 1 in memwatch.toml: must be "on" or "off"', id="a-switch-of-1"),
        pytest.param("logs = 3", "logs = 3 in memwatch.toml: must be the path of a folder", id="a-folder-of-3"),
        pytest.param('logs = ""', 'logs = "" in memwatch.toml: must be the path of a folder', id="no-folder"),
        pytest.param('logs = "a\\u0000"', "must be the path of a folder", id="NUL"),
        pytest.param("\nworkers = = 3", "memwatch.toml is no TOML: Invalid value (at line 2, column 11)", id="syntax"),
        pytest.param("workers = 1\nworkers = 2", "is no TOML: Cannot overwrite a value", id="twice"),
        pytest.param("workers = " + "9" * 5000, "is no TOML: ", id="a-number-of-5000-digits"),
        pytest.param("workers = " + "[" * 30_000, "is nested too deeply", id="f107-nested"),
        pytest.param(f'signal = "{"x" * 500}"', f'signal = "{"x" * 57}..." in memwatch.toml: is no', id="a-long-one"),
        pytest.param('"\\u001b[31m" = 1', "\\x1b[31m = 1 in memwatch.toml is no setting", id="f100-a-key"),
        pytest.param(
            'signal = "\\u001b[31m"', 'signal = "\\x1b[31m" in memwatch.toml: is no signal', id="f100-a-value"
        ),
        pytest.param("#" * 2**16 + "\n", "has more than 65536 bytes, which no settings file has", id="huge"),
        pytest.param(
            'floor = "3GB"\nbrake = "2GB"', 'floor = "3GB" in memwatch.toml must be below brake =', id="order"
        ),
    ],
)
def test_f106_what_a_file_cannot_mean_is_refused(tmp_path: Path, text: str, said: str) -> None:
    """With the key, the value and the file as they were typed, and the rule."""
    (tmp_path / "memwatch.toml").write_text(text, encoding="utf-8")

    assert said in refused(tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param(b"[tool.memwatch]\nworkers = ", "pyproject.toml is no TOML: Invalid value", id="broken"),
        pytest.param(b"\n[tool.memwatch]\nlogs='\xff'", "pyproject.toml is not UTF-8 (at line 3)", id="latin-1"),
        pytest.param(b"tool.memwatch = 3", "[tool.memwatch] must be a table, and is 3", id="a-number"),
        pytest.param(b"tool.memwatch = [1]", "[tool.memwatch] must be a table, and is [...]", id="an-array"),
        pytest.param(b"[tool.memwatch]\n" + b"#" * 2**20, "has more than 1048576 bytes", id="huge"),
        pytest.param(b"[tool.memwatch]\nwork = 1", "work = 1 in pyproject.toml [tool.memwatch] is no", id="unknown"),
    ],
)
def test_a_pyproject_that_is_ours_is_refused_like_our_own(tmp_path: Path, text: bytes, said: str) -> None:
    (tmp_path / "pyproject.toml").write_bytes(text)

    assert said in refused(tmp_path)


def test_a_file_above_is_called_by_its_path(tmp_path: Path) -> None:
    (tmp_path / "memwatch.toml").write_text("workers = 0")
    (tmp_path / "below").mkdir()

    assert refused(tmp_path / "below").startswith(f"workers = 0 in {tmp_path}/memwatch.toml: need 1 <=")


def test_a_mark_at_the_beginning_is_none_of_the_text(tmp_path: Path) -> None:
    """Editors put it there."""
    (tmp_path / "memwatch.toml").write_text("workers = 3\r\n", encoding="utf-8-sig")

    assert 3 == Settings.load({}, str(tmp_path)).workers


@given(st.one_of(st.binary(max_size=60), st.text("[]{}=\"'.#\n\\ 0123memwatchgrac_\ud800", max_size=60)))
def test_f107_whatever_a_file_holds_it_is_read_or_refused(text: bytes | str) -> None:
    """Nothing but a SettingsError, on one line."""
    data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "memwatch.toml").write_bytes(data)
        said = ""
        try:
            Settings.load({}, folder)
        except SettingsError as error:
            said = str(error)

    assert said.isprintable()


@given(st.text(min_size=1, max_size=40), st.one_of(st.text(max_size=40), st.integers(), st.floats(), st.booleans()))
def test_f107_whatever_a_key_is_called_and_says(key: str, value: object) -> None:
    """A name that nobody knows is refused as that, whatever is in it."""
    file = configfile.File("/x/memwatch.toml", "memwatch.toml", {f"x{key}": value})
    with pytest.raises(SettingsError, match=r"is no setting of memwatch; the nearest is [a-z_]+") as caught:
        file.check(config.SETTINGS)

    assert str(caught.value).isprintable()


# ------------------------------------------------------------------ what it must be ---


def test_a_file_that_may_not_be_read_is_said(open_folder: Path) -> None:
    """Not passed over: who wrote it expects it to hold."""
    for name in ("memwatch.toml", "pyproject.toml"):
        path = open_folder / name
        path.write_text(TABLE)
        path.chmod(0)
        with as_nobody():
            said = refused(open_folder)
        path.unlink()

        assert f"{path} cannot be read (Permission denied): make it readable for uid " in said


def test_a_folder_that_may_not_be_searched_has_no_file(open_folder: Path) -> None:
    """A worker that runs as another user below /root is not kept from it."""
    hidden = open_folder / "hidden"
    (hidden / "below").mkdir(parents=True)
    (hidden / "memwatch.toml").write_text("workers = 9")
    hidden.chmod(0)
    with as_nobody():
        settings = Settings.load({}, str(hidden / "below"))
    hidden.chmod(0o700)

    assert Settings() == settings


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    """A fifo that nobody writes to, a device, a link to nothing or to itself: refused at once."""
    path = tmp_path / "memwatch.toml"
    said = []
    for make in (
        lambda: os.mkfifo(path),
        lambda: path.symlink_to("/dev/zero"),
        lambda: path.symlink_to("nothing"),
        lambda: path.symlink_to(path),
    ):
        make()
        said.append(refused(tmp_path).removeprefix(f"{path} ").partition(":")[0])
        path.unlink()
    none = "cannot be read (No such file or directory)"

    assert ["is no regular file"] * 2 + [none, "cannot be read (Too many levels of symbolic links)"] == said


def test_a_pyproject_that_is_no_file_is_no_matter(tmp_path: Path) -> None:
    path = tmp_path / "pyproject.toml"
    os.mkfifo(path)

    assert Settings() == Settings.load({}, str(tmp_path))


# ----------------------------------------------------------------------------- trust ---


def write(folder: Path, name: str = "memwatch.toml") -> Path:
    path = folder / name
    path.write_text(f"{TABLE if name == 'pyproject.toml' else ''}workers = 5\n")
    path.chmod(0o644)
    return path


@ROOT
@pytest.mark.parametrize("name", ["memwatch.toml", "pyproject.toml"])
@pytest.mark.parametrize(
    ("file", "folder", "said"),
    [
        pytest.param((1000, 0o644), (0, 0o755), "belongs to uid 1000, who could change", id="a-users-file"),
        pytest.param((0, 0o664), (0, 0o755), "may be written by others (mode 0664)", id="a-group-writes"),
        pytest.param((0, 0o646), (0, 0o755), "may be written by others (mode 0646)", id="all-write"),
        pytest.param((0, 0o644), (1000, 0o755), "belongs to uid 1000", id="a-users-folder"),
        pytest.param((0, 0o644), (0, 0o775), "may be written by others (mode 0775)", id="a-groups-folder"),
        pytest.param((0, 0o644), (0, 0o1777), "may be written by others (mode 1777)", id="a-sticky-folder"),
    ],
)
def test_f112_root_reads_nothing_that_another_may_write(
    open_folder: Path, name: str, file: tuple[int, int], folder: tuple[int, int], said: str
) -> None:
    """It says what is wrong, and how to mend it; the same file is another user's to read."""
    path = write(open_folder, name)
    for place, (owner, mode) in ((path, file), (open_folder, folder)):
        os.chown(place, owner, owner)
        place.chmod(mode)
    message = refused(open_folder)

    assert message.startswith(f"{path} is not read as root, for {open_folder}")
    assert said in message
    assert ("chown root " if "belongs" in said else "chmod go-w ") in message
    with as_nobody():
        assert 5 == Settings.load({}, str(open_folder)).workers
    os.chown(open_folder, 0, 0)


@ROOT
def test_f112_who_owns_a_folder_above_can_put_another_in_its_place(open_folder: Path) -> None:
    folder = open_folder / "a/b"
    folder.mkdir(parents=True)
    write(folder)
    os.chown(open_folder / "a", 1000, 1000)

    assert f"for {open_folder}/a belongs to uid 1000" in refused(folder)


@ROOT
def test_f112_a_link_is_judged_by_what_it_leads_to_and_where_it_lies(open_folder: Path) -> None:
    """Who may turn the link chooses what root reads, and who owns its end writes it."""
    good, bad = open_folder / "good", open_folder / "bad"
    for folder in (good, bad):
        folder.mkdir()
        write(folder, "real.toml")
    os.chown(bad / "real.toml", 1000, 1000)
    (good / "memwatch.toml").symlink_to("../bad/real.toml")

    assert f"{good}/memwatch.toml is not read as root, for {bad}/real.toml belongs to" in refused(good)

    (bad / "memwatch.toml").symlink_to("../good/real.toml")
    os.chown(bad, 1000, 1000)

    assert f"for {bad} belongs to uid 1000" in refused(bad)
    (good / "memwatch.toml").unlink()
    (good / "memwatch.toml").symlink_to("real.toml")
    assert 5 == Settings.load({}, str(good)).workers


@ROOT
def test_f112_a_users_pyproject_that_is_not_ours_does_not_matter(open_folder: Path) -> None:
    """Root in a user's project, as in most containers, needs no permission to ignore it."""
    path = open_folder / "pyproject.toml"
    path.write_text("[project]\nname = 'x'\ndependencies = ['memwatch']")
    os.chown(path, 1000, 1000)
    os.chown(open_folder, 1000, 1000)

    assert Settings() == Settings.load({}, str(open_folder))
    os.chown(open_folder, 0, 0)


@ROOT
def test_f112_what_root_may_not_read_it_can_do_without(open_folder: Path) -> None:
    os.chown(write(open_folder), 1000, 1000)

    assert Settings() == Settings.load({"MEMWATCH_CONFIG": "off"}, str(open_folder))


# ---------------------------------------------------------------------------- light ---


def test_without_a_file_no_parser_is_loaded(tmp_path: Path) -> None:
    """Each worker looks for a file: it pays for tomllib only where there is one."""
    script = (
        "import json, sys; import memwatch.config as config; before = set(sys.modules)\n"
        "config.Settings.load({}, sys.argv[1]); first = set(sys.modules)\n"
        "config.Settings.load({}, sys.argv[2])\n"
        "print(json.dumps([sorted(first - before), 'tomllib' in sys.modules]))"
    ).replace("import json, sys;", "import sys, json;")
    (tmp_path / "none").mkdir()
    (tmp_path / "one").mkdir()
    write(tmp_path / "one")
    said = subprocess.run(
        [sys.executable, "-P", "-c", script, tmp_path / "none", tmp_path / "one"],
        capture_output=True,
        text=True,
        check=True,
    )

    assert [["memwatch.configfile"], True] == json.loads(said.stdout)


def test_a_worker_started_by_hand_reads_the_file(tmp_path: Path) -> None:
    """memwatch.start() is refused what a file cannot mean, and says where that stands."""
    (tmp_path / "memwatch.toml").write_text('brake = "3XB"')
    script = "import memwatch\ntry: memwatch.start()\nexcept memwatch.SettingsError as error: print(error)"
    environ = {name: value for name, value in os.environ.items() if not name.startswith("MEMWATCH_")}
    said = subprocess.run(
        [sys.executable, "-P", "-c", script],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={**environ, "MEMWATCH_BOARD": str(tmp_path / "board")},
    )

    assert said.stdout.startswith("brake = \"3XB\" in memwatch.toml: size '3XB' has the unit 'XB'")
