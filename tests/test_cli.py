"""The command line: what it reads, what it refuses, and what it says about settings."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from memwatch import cli, cli_config, config
from memwatch.config import Settings
from memwatch.errors import SettingsError
from memwatch.units import parse_size

GB = 10**9
OPTIONS = [
    *("-n 2", "--workers 2", "--max-age 30m", "--max-rss 4GB", "--min-available 10%", "--drain-timeout 0"),
    *("--grace 3s", "--stop-grace 3s", "--interval 5s", "--logs here", "--brake 3GB", "--warn 9GB", "--resume 4GB"),
    *("--floor 1GB", "--hold off", "--brake-grace 4s", "--squeeze 1s", "--settle 1s", "--admit-timeout 1h"),
    *("--max-brakes 3", "--signal USR1", "--realtime", "--no-realtime", "--board /b"),
]


def settings_of(*argv: str, environ: dict[str, str] | None = None) -> Settings:
    return cli_config.load(cli.parse(argv), environ or {"MEMWATCH_CONFIG": "off"})


# --------------------------------------------------------------------------- options ---


def test_every_setting_has_an_option() -> None:
    """With the help that goes with it, and no other."""
    named = {settings_of("run", *option.split(" ")).origins[0][0] for option in OPTIONS}

    assert set(config.SETTINGS) == named
    assert set(config.SETTINGS) == set(cli_config._HELP)


@pytest.mark.parametrize("command", ["run", "config"])
@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_beats_the_environment(command: str, option: str) -> None:
    """And is called in a message as it was typed."""
    ((name, origin),) = settings_of(command, *option.split(" ")).origins
    environ = {"MEMWATCH_CONFIG": "off", f"MEMWATCH_{name.upper()}": "what nobody means"}
    typed = option.partition(" ")[0]
    flag = {"-n": "--workers", "--stop-grace": "--grace"}.get(typed, typed)

    assert origin == settings_of(command, *option.split(" "), environ=environ).origin(name)
    assert ("option", flag) == (origin.source, origin.place)
    assert origin.said.startswith(flag)


def test_grace_is_the_watchdogs_and_brake_grace_the_brakes() -> None:
    settings = settings_of("run", "--grace", "1s", "--brake-grace=2s")

    assert (1.0, 2.0) == (settings.stop_grace, settings.grace)


def test_the_last_of_two_holds() -> None:
    assert 3 == settings_of("run", "-n2", "--workers=3").workers


def test_a_file_can_be_given(tmp_path: Path) -> None:
    """--config beats MEMWATCH_CONFIG; what is in it stands below the environment."""
    (tmp_path / "x.toml").write_text('workers = 3\nbrake = "3GB"')
    environ = {"MEMWATCH_CONFIG": "off", "MEMWATCH_BRAKE": "4GB"}
    settings = settings_of("run", "--config", str(tmp_path / "x.toml"), environ=environ)

    assert (3, parse_size("4GB")) == (settings.workers, settings.brake)
    with pytest.raises(SettingsError, match='--config "" names no file'):
        settings_of("run", "--config", "")


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (["--brake", "3XB"], "--brake 3XB: size '3XB' has the unit 'XB'"),
        (["--grace", "-1"], "--grace -1: duration '-1' is not"),
        (["--grace="], "--grace '': duration '' is not"),
        (["--brake-grace", "0"], "--brake-grace 0: need 0 < grace"),
        (["-n", "0"], "--workers 0: need 1 <= workers <= 64"),
        (["--max-rss", "8"], "--max-rss 8 is 8 bytes, and a worker's memory is at least 1 MiB"),
        (["--board="], "--board '': must be the path of a folder"),
        (["--floor", "3GB", "--brake", "2GB"], "--floor 3GB must be below --brake 2GB"),
        (["--signal", "\x1b[31m"], "--signal \\x1b[31m: is no signal"),
    ],
)
def test_f106_an_option_that_cannot_be_meant_is_refused(option: Sequence[str], said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        settings_of("run", *option)

    assert str(caught.value).startswith(said)
    assert str(caught.value).isprintable()


# --------------------------------------------------------------------------- command ---


@pytest.mark.parametrize(
    ("argv", "command"),
    [
        ("-- python x.py", "python x.py"),
        ("-n 2 -- python x.py --lr 3", "python x.py --lr 3"),
        ("-n 2 python x.py --lr 3 -n 4", "python x.py --lr 3 -n 4"),
        ("python x.py -- -n 4", "python x.py -- -n 4"),
        ("-- python x.py -- -n 4", "python x.py -- -n 4"),
        ("-n 2 python x.py --version --help", "python x.py --version --help"),
        ("-- -odd", "-odd"),
        ("-- -- x", "-- x"),
        ("run", "run"),
        ("--", ""),
        ("", ""),
    ],
)
def test_where_the_command_begins(argv: str, command: str) -> None:
    """After "--", or with the first word that is no option; from there on nothing is ours."""
    arguments = cli.parse(["run", *argv.split()])

    assert command.split() == arguments.command
    assert (2 if "-n 2" in argv else 1) == int(arguments.workers or 1)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["run"], "memwatch: run: what is to be run is missing: memwatch run -n 2 -- python train.py\n"),
        (
            ["run", "-n", "2", "--"],
            "memwatch: run: what is to be run is missing: memwatch run -n 2 -- python train.py\n",
        ),
        (["run", "-n"], "memwatch run: argument -n/--workers: expected one argument"),
        (["run", "--work", "2", "--", "x"], "memwatch: unrecognized arguments: --work"),
        (["run", "--brake", "1PB", "--", "x"], "memwatch: --brake 1PB: size '1PB' has the unit"),
        (["config", "--brake", "1PB"], "memwatch: --brake 1PB: size '1PB' has the unit"),
        (["config", "--config", "/none.toml"], "memwatch: /none.toml is not there: correct MEMWATCH_CONFIG"),
        (["status", "--jsn"], "memwatch: unrecognized arguments: --jsn"),
        (["stauts"], "memwatch: argument COMMAND: invalid choice: 'stauts'"),
        ([], "memwatch: the following arguments are required: COMMAND"),
    ],
)
def test_a_slip_is_one_line_and_2(argv: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is started, and nothing else is said."""
    try:
        code = cli.main(argv)
    except SystemExit as left:
        code = left.code
    out, err = capsys.readouterr()

    assert (2, "", 1) == (code, out, err.count("\n"))
    assert err.startswith(said)


@pytest.mark.parametrize("command", ["run", "status", "top", "config", "doctor", "reap"])
def test_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each has one; that of `run` has the exit codes, and a default for each setting."""
    with pytest.raises(SystemExit) as left:
        cli.main([command, "--help"])
    said = capsys.readouterr().out

    assert 0 == left.value.code
    assert said.startswith(f"usage: memwatch {command} ")
    if command == "run":
        assert len(config.SETTINGS) == said.count("(default:") + said.count("(default\n")
        assert all(f"\n  {code:<3}  " in said for code in (0, 1, 2, 3, 130))


# ------------------------------------------------------------------- memwatch config ---


def described(argv: Sequence[str], environ: dict[str, str], cwd: Path) -> "subprocess.CompletedProcess[str]":
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MEMWATCH_")}
    return subprocess.run(
        [sys.executable, "-P", "-m", "memwatch.cli", "config", *argv],
        capture_output=True,
        text=True,
        check=False,
        env=clean | environ,
        cwd=cwd,
    )


def test_config_says_each_setting_its_value_and_its_origin(tmp_path: Path) -> None:
    """As typed, from wherever it is; the file is named, and no line is too long for 100 columns."""
    (tmp_path / "pyproject.toml").write_text('[tool.memwatch]\nmax_age = "90m"\nworkers = 3\nlogs = "there"\n')
    done = described(["-n", "2", "--no-realtime"], {"MEMWATCH_MAX_RSS": "off"}, tmp_path)
    lines = done.stdout.splitlines()
    table = {line.split()[0]: line.split(maxsplit=2)[1:] for line in lines[: lines.index("")]}

    assert (0, "") == (done.returncode, done.stderr)
    assert ["value", "from"] == table.pop("setting")
    assert set(config.SETTINGS) <= set(table)
    assert ["2", "--workers"] == table["workers"]
    assert ["90m", "max_age in pyproject.toml [tool.memwatch]"] == table["max_age"]
    assert ["off", "MEMWATCH_MAX_RSS"] == table["max_rss"]
    assert ["off", "--no-realtime"] == table["realtime"]
    assert ["10m", "default"] == table["drain_timeout"]
    assert f"Settings file: {tmp_path}/pyproject.toml" == lines[-1]
    assert str(tmp_path / "there") in done.stdout
    assert max(len(line) for line in lines if str(tmp_path) not in line) <= 100


def test_config_for_programs(tmp_path: Path) -> None:
    """Each number with its unit, and where was looked for a file."""
    report = json.loads(described(["--json", "--max-rss=5GB", "--max-age=off"], {}, tmp_path).stdout)
    table = report["settings"]

    assert set(config.SETTINGS) == set(table)
    assert {"text": "5GB", "bytes": 5 * GB, "source": "option", "from": "--max-rss"} == table["max_rss"]
    assert {"text": "off", "seconds": None, "source": "option", "from": "--max-age"} == table["max_age"]
    assert {"text": "SIGURG", "value": 23, "source": "default", "from": "default"} == table["signal"]
    assert report["file"] is None
    assert str(tmp_path / "memwatch.toml") == report["looked_for"][0]
    assert isinstance(report["limit_bytes"], int)
    assert 0 < table["floor"]["bytes"] < table["brake"]["bytes"] == table["min_available"]["bytes"]


def test_shares_and_defaults_are_said_in_numbers_where_the_limit_is_known() -> None:
    """And in words where it is not."""
    settings = settings_of("run", "--max-rss", "20%", "--brake", "3GB")
    known, unknown = ({row.name: row for row in cli_config.rows(settings, limit)} for limit in (40 * GB, None))

    assert ("20% (8.0 GB)", 8 * GB) == (known["max_rss"].text, known["max_rss"].value)
    assert ("6.0 GB", 6 * GB) == (known["warn"].text, known["warn"].value)
    assert ("20%", None) == (unknown["max_rss"].text, unknown["max_rss"].value)
    assert ("twice the brake", None) == (unknown["warn"].text, unknown["warn"].value)
    assert ("3GB", 3 * GB) == (unknown["brake"].text, unknown["brake"].value)
    assert "cannot be read here" in cli_config.as_text(list(unknown.values()), None, [])


def test_status_looks_at_the_board_that_the_file_names(tmp_path: Path) -> None:
    """Where the workers are that read the same file; JSON says which."""
    (tmp_path / "memwatch.toml").write_text('board = "ours"')
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MEMWATCH_")}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "memwatch.cli", "status", "--json"],
        capture_output=True,
        text=True,
        check=False,
        env=clean,
        cwd=tmp_path,
    )

    assert str(tmp_path / "ours") in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


# ------------------------------------------------------------------------------ light ---


def test_the_parser_loads_nothing_heavy() -> None:
    """`memwatch status` answers at once: what another command needs, or --version, is not loaded for it."""
    script = "import sys; from memwatch.cli import parse; parse(['status']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, check=True)
    heavy = {"importlib.metadata", "difflib", "logging", "psutil", "numpy", "json", "subprocess", "tomllib", "email"}

    assert set() == heavy & set(done.stdout.split())


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    from importlib.metadata import version

    with pytest.raises(SystemExit) as left:
        cli.main(["--version"])

    assert (0, f"memwatch {version('memwatch')}\n") == (left.value.code, capsys.readouterr().out)
