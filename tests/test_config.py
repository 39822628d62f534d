"""Settings: arguments, the environment, defaults, and what is refused."""

import ast
import dataclasses
import pickle
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.cbuild import REPO

from memwatch import config
from memwatch.config import ELSEWHERE, Settings, limits_for, marks_for, patience
from memwatch.errors import MemwatchError, SettingsError
from memwatch.model import MiB, Patience, Watermarks
from memwatch.units import Size

GB = 10**9


def refused(environ: dict[str, str] | None = None, limit: int = 64 * GB, **arguments: object) -> str:
    """What is said about settings that cannot be."""
    with pytest.raises(SettingsError) as caught:
        marks_for(Settings.read(environ or {}, **arguments), limit)
    assert isinstance(caught.value, MemwatchError)
    assert isinstance(caught.value, ValueError)
    return str(caught.value)


# -------------------------------------------------------------------------- where from ---


def test_nothing_asked_for_is_the_defaults() -> None:
    """2 GB where there is room for it, and each time as model.py has it."""
    settings = Settings.read({})

    assert Settings() == settings
    assert Watermarks.for_limit(64 * GB) == marks_for(settings, 64 * GB)
    assert Patience() == patience(settings)
    assert settings.realtime
    assert settings.signal is settings.board is None


@pytest.mark.parametrize(
    ("environ", "arguments", "brake", "source", "said"),
    [
        pytest.param({}, {}, 2 * GB, "default", "brake (the default)", id="nothing"),
        pytest.param({"MEMWATCH_BRAKE": "3GB"}, {}, 3 * GB, "environment", "MEMWATCH_BRAKE='3GB'", id="environment"),
        pytest.param({"MEMWATCH_BRAKE": "3GB"}, {"brake": "4GB"}, 4 * GB, "argument", "brake='4GB'", id="argument"),
        pytest.param(
            {"MEMWATCH_BRAKE": "3GB"}, {"brake": None}, 3 * GB, "environment", "MEMWATCH_BRAKE='3GB'", id="none"
        ),
        pytest.param({"MEMWATCH_BRAKE": ""}, {}, 2 * GB, "default", "brake (the default)", id="an-empty-variable"),
        pytest.param({"MEMWATCH_BRAKE": "3XB"}, {"brake": GB}, GB, "argument", "brake=1000000000", id="one-overridden"),
    ],
)
def test_an_argument_beats_the_environment_which_beats_the_default(
    environ: dict[str, str], arguments: dict[str, object], brake: int, source: str, said: str
) -> None:
    settings = Settings.read(environ, **arguments)

    assert brake == marks_for(settings, 64 * GB).brake
    assert (source, said) == settings.origin("brake")[:2]


def test_every_setting_can_come_from_the_environment() -> None:
    """Each by its name in capitals, written as a person would."""
    environ = {
        "MEMWATCH_BRAKE": "2GiB",
        "MEMWATCH_WARN": "10%",
        "MEMWATCH_RESUME": "3GB",
        "MEMWATCH_FLOOR": "500MB",
        "MEMWATCH_HOLD": "20ms",
        "MEMWATCH_GRACE": "10s",
        "MEMWATCH_SQUEEZE": "50ms",
        "MEMWATCH_SETTLE": "1s",
        "MEMWATCH_ADMIT_TIMEOUT": "1h",
        "MEMWATCH_MAX_BRAKES": "3",
        "MEMWATCH_SIGNAL": "USR1",
        "MEMWATCH_REALTIME": "off",
        "MEMWATCH_BOARD": "/run/here",
    }
    settings = Settings.read(environ)

    assert Watermarks(floor=500 * 10**6, brake=2 * 2**30, resume=3 * GB, warn=6 * GB) == marks_for(settings, 60 * GB)
    assert patience(settings) == Patience(
        hold=0.02, grace=10.0, squeeze=0.05, settle=1.0, admit_timeout=3600.0, max_brakes=3
    )
    assert (signal.SIGUSR1, False, "/run/here") == (settings.signal, settings.realtime, settings.board)
    assert {"environment"} == {settings.origin(name.removeprefix("MEMWATCH_").lower()).source for name in environ}


def test_what_was_typed_is_read_back() -> None:
    assert "1.5 GiB" == str(Settings.read({}, brake="1.5 GiB").brake)


WATCHDOG = {
    "workers": ("3", 3),
    "max_age": ("90m", 5400.0),
    "max_rss": ("6GB", Size("6GB", bytes=6 * GB)),
    "min_available": ("10%", Size("10%", percent=10.0)),
    "drain_timeout": ("5m", 300.0),
    "stop_grace": ("3s", 3.0),
    "interval": ("30s", 30.0),
    "logs": ("/var/log/here", "/var/log/here"),
}


@pytest.mark.parametrize("name", WATCHDOG)
def test_every_setting_of_the_watchdog_can_come_from_the_environment(name: str) -> None:
    typed, value = WATCHDOG[name]

    assert value == getattr(Settings.read({f"MEMWATCH_{name.upper()}": typed}), name)


def test_the_table_above_is_whole() -> None:
    assert list(config.WATCHDOG) == list(WATCHDOG)
    assert [it.name for it in dataclasses.fields(Settings)] == [*config.SETTINGS, "origins"]


def test_the_watchdogs_defaults() -> None:
    """As the design has them."""
    settings = Settings()

    assert (1, 3600, 600, 10, 60) == (
        *(settings.workers, settings.max_age),
        *(settings.drain_timeout, settings.stop_grace, settings.interval),
    )
    assert ("8GB", 8 * GB, None, "logs") == (
        *(str(settings.max_rss), settings.max_rss and settings.max_rss.bytes),
        *(settings.min_available, settings.logs),
    )


@pytest.mark.parametrize(
    ("arguments", "limits"),
    [
        pytest.param({}, (8 * GB, 2 * GB), id="a-brake-is-the-least-that-is-left"),
        pytest.param({"brake": "5%"}, (8 * GB, 3 * GB), id="whatever-it-is"),
        pytest.param({"max_rss": "25%", "min_available": "10%"}, (15 * GB, 6 * GB), id="shares-of-what-binds"),
        pytest.param({"max_rss": "off"}, (None, 2 * GB), id="off"),
        pytest.param({"max_rss": "80GB"}, (80 * GB, 2 * GB), id="more-than-there-is-is-never-reached"),
        pytest.param({"max_rss": MiB}, (MiB, 2 * GB), id="the-least-there-is"),
        pytest.param({"min_available": "500MB"}, (8 * GB, 500 * 10**6), id="at-the-floor"),
    ],
)
def test_limits_of_the_watchdog(arguments: dict[str, object], limits: tuple[int | None, int]) -> None:
    """In bytes, where 60 GB bind."""
    assert limits == limits_for(Settings.read({}, **arguments), 60 * GB)


@pytest.mark.parametrize(
    ("arguments", "limit", "said"),
    [
        pytest.param(
            {"min_available": "499MB"},
            60 * GB,
            "min_available='499MB': need floor <= min_available < the memory that binds; the floor is 500.0 MB",
            id="below-the-floor",
        ),
        pytest.param({"min_available": "60GB"}, 60 * GB, "60.0 GB (60000000000 bytes) bind", id="all-there-is"),
        pytest.param({"min_available": "0.1%"}, 60 * GB, "min_available='0.1%', 60.0 MB: need floor", id="a-share"),
        pytest.param({"max_rss": "0.001%"}, GB, "max_rss='0.001%', 10.0 kB: a worker's memory is at least", id="rss"),
    ],
)
def test_f11_limits_that_do_not_fit_are_refused(arguments: dict[str, object], limit: int, said: str) -> None:
    """Like watermarks, and whenever what binds has changed."""
    with pytest.raises(SettingsError, match=re.escape(said)):
        limits_for(Settings.read({}, **arguments), limit)


# ------------------------------------------------------------------------ to a worker ---


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        pytest.param({}, {}, id="nothing"),
        pytest.param({"workers": 4, "max_rss": "1GB", "logs": "x"}, {}, id="what-is-the-watchdogs-stays-there"),
        pytest.param({"brake": "1.5 GiB", "warn": "20%"}, {"BRAKE": "1.5 GiB", "WARN": "20%"}, id="sizes-as-typed"),
        pytest.param({"brake": GB}, {"BRAKE": "1000000000"}, id="bytes"),
        pytest.param({"hold": "50ms"}, {"HOLD": "0.05"}, id="a-default-that-was-asked-for"),
        pytest.param({"squeeze": "off"}, {"SQUEEZE": "off"}, id="off"),
        pytest.param({"squeeze": "0.01ms"}, {"SQUEEZE": "0.0000100000000000000008180305391403130955"}, id="small"),
        pytest.param({"realtime": False, "signal": "USR1"}, {"REALTIME": "off", "SIGNAL": "10"}, id="others"),
        pytest.param({"board": "here"}, {"BOARD": str(Path("here").absolute())}, id="wherever-the-worker-goes"),
    ],
)
def test_what_a_worker_is_told(arguments: dict[str, object], environment: dict[str, str]) -> None:
    """Its brake settings; also one given that is the default, which may stand otherwise in what it inherits."""
    said = Settings.read({}, **arguments).environment()

    assert {f"MEMWATCH_{name}": value for name, value in environment.items()} == said


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "brake": st.sampled_from(["2GB", "7%", "1.25GiB", 3 * GB]),
            "hold": st.just(0.0) | st.floats(1e-9, 10),  # less than a nanosecond is no time
            "grace": st.floats(1e-9, 1e9),
            "settle": st.just(0.0) | st.floats(1e-9, 1e9),
            "max_brakes": st.integers(1, 2**70),
            "signal": st.sampled_from(["URG", 10, "SIGIO"]),
            "realtime": st.booleans(),
        },
    )
)
def test_a_worker_gets_the_same_brake(given: dict[str, object]) -> None:
    """Whatever was asked for, told through the environment, is the same to the last digit."""
    settings = Settings.read({}, **given)

    assert settings == Settings.read(settings.environment())


def test_settings_travel_to_a_child() -> None:
    """With where they came from."""
    settings = Settings.read({"MEMWATCH_WARN": "9GB"}, brake="3GB", squeeze="off")
    copy = pickle.loads(pickle.dumps(settings))

    assert settings == copy
    assert settings.origin("warn") == copy.origin("warn")
    assert hash(settings) == hash(copy)


# --------------------------------------------------------------------------- what fits ---


@pytest.mark.parametrize(
    ("arguments", "limit", "marks"),
    [
        pytest.param({"brake": "1GB"}, 64 * GB, (0.25, 1, 1.25, 2), id="the-rest-follows-the-brake"),
        pytest.param({"brake": "2GB", "warn": "2.2GB"}, 64 * GB, (0.5, 2, 2.2, 2.2), id="resume-is-not-above-warn"),
        pytest.param({"resume": "6GB"}, 64 * GB, (0.5, 2, 6, 6), id="warn-is-not-below-resume"),
        pytest.param({"brake": "2GB"}, 3 * GB, (0.5, 2, 2.5, 2.5), id="a-warning-can-end"),
        pytest.param({"brake": "50%", "floor": "1GB"}, 10 * GB, (1, 5, 6.25, 7.5), id="shares-and-sizes"),
        pytest.param({"floor": MiB}, 64 * GB, (MiB / GB, 2, 2.5, 4), id="the-least-there-is"),
        pytest.param({"resume": "3GB", "warn": "3GB"}, 64 * GB, (0.5, 2, 3, 3), id="resume-may-be-warn"),
    ],
)
def test_defaults_give_way_to_what_was_given(
    arguments: dict[str, object], limit: int, marks: tuple[float, ...]
) -> None:
    """Who sets one watermark need not set the others: floor, brake, resume and warn in GB."""
    found = marks_for(Settings.read({}, **arguments), limit)

    assert marks == (found.floor / GB, found.brake / GB, found.resume / GB, found.warn / GB)


def test_f11_shares_follow_a_limit_that_changes_and_sizes_do_not() -> None:
    """A balloon, a hot-plugged module, a container's new limit: 10 % is of what is there now."""
    settings = Settings.read({}, brake="10%", warn="4GB")

    assert [800 * 10**6, 1600 * 10**6] == [marks_for(settings, total).brake for total in (8 * GB, 16 * GB)]
    assert [4 * GB, 4 * GB] == [marks_for(settings, total).warn for total in (8 * GB, 16 * GB)]


def test_f11_a_limit_that_falls_below_a_watermark_is_said() -> None:
    """So that who has watermarks keeps those, and says why."""
    settings = Settings.read({}, brake="3GB")
    marks_for(settings, 8 * GB)

    assert "brake='3GB' must be below the memory that binds, 3.0 GB" in refused(brake="3GB", limit=3 * GB)


def test_where_nothing_fits_no_watermark_does() -> None:
    """A limit of three bytes is no place for a brake; not a traceback of something else."""
    assert "brake (the default) leaves no room below the memory that binds, 3 bytes: need 0 < floor" in refused(limit=3)


@given(
    st.integers(1 * MiB, 2**45),
    st.fixed_dictionaries(
        {}, optional={name: st.integers(MiB, 2**45) for name in ("brake", "warn", "resume", "floor")}
    ),
)
def test_whatever_is_asked_for_is_in_order_or_refused(limit: int, given: dict[str, int]) -> None:
    """Nothing but a SettingsError, that names one of the values given; and what was given is what holds."""
    try:
        marks = marks_for(Settings.read({}, **given), limit)
    except SettingsError as error:
        said = str(error)
    else:
        said = ""
    if said:
        assert any(f"{name}={number}" in said for name, number in given.items())
        return

    assert marks.floor < marks.brake < marks.resume <= marks.warn
    assert marks.brake < limit
    assert given == {name: getattr(marks, name) for name in given}


# ------------------------------------------------------------------------ what does not ---


@pytest.mark.parametrize("name", ["brake", "warn", "resume", "floor", "min_available", "max_rss"])
@pytest.mark.parametrize(
    "value",
    ["nan", "inf", "-1", "-1GB", "0", "0GB", "1_000", "８GB", "8gb", "1e9", "8388608TiB", "100%", " 8GB"]
    + [float("nan"), float("inf"), 2.0, 0, -1, True, 2**63, b"2GB"],
    ids=repr,
)
def test_f106_what_is_no_size_is_refused_by_name(name: str, value: object) -> None:
    """With the setting, the value and the rule; as an argument, and in the environment by that name."""
    said = refused(**{name: value})

    assert said.startswith(f"{name}={value!r}: size ")
    if isinstance(value, str):
        assert refused({f"MEMWATCH_{name.upper()}": value}).startswith(f"MEMWATCH_{name.upper()}={value!r}: size ")


@pytest.mark.parametrize(
    "name",
    ["hold", "grace", "squeeze", "settle", "admit_timeout", "max_age", "drain_timeout", "stop_grace", "interval"],
)
@pytest.mark.parametrize(
    "value", ["nan", "inf", "-1", "-1s", "1_0s", "５s", "1y", "", float("nan"), float("inf"), -1, True], ids=repr
)
def test_f106_what_is_no_duration_is_refused_by_name(name: str, value: object) -> None:
    assert refused(**{name: value}).startswith(f"{name}={value!r}: duration ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(
            {"brake": "8GiB", "warn": "8GB"}, "brake='8GiB' must be below warn='8GB': need floor <", id="GB-is-not-GiB"
        ),
        pytest.param({"brake": "2GB", "floor": "2GB"}, "floor='2GB' must be below brake='2GB'", id="floor-is-brake"),
        pytest.param({"brake": "10%", "floor": "20%"}, "floor='20%' must be below brake='10%'", id="shares"),
        pytest.param({"brake": "10%", "floor": "7GB"}, "floor='7GB' must be below brake='10%', 6.4 GB", id="both"),
        pytest.param({"warn": "3GB", "resume": "4GB"}, "resume='4GB' must be below warn='3GB'", id="warn-below-resume"),
        pytest.param({"brake": "3GB", "resume": "3GB"}, "brake='3GB' must be below resume='3GB'", id="resume-is-brake"),
        pytest.param({"floor": "3GB"}, "floor='3GB' must be below brake (the default), 2.0 GB", id="a-default"),
        pytest.param({"warn": "1GB"}, "brake (the default), 2.0 GB must be below warn='1GB'", id="not-two-defaults"),
        pytest.param({"brake": "64GB"}, "brake='64GB' must be below the memory that binds", id="all-there-is"),
        pytest.param({"warn": "80GB"}, "warn='80GB' must be below the memory that binds", id="and-more"),
        pytest.param({"brake": 2000}, "brake=2000 is 2000 bytes, and a watermark is at least 1 MiB", id="no-unit"),
        pytest.param({"brake": "2"}, 'if its unit is missing, write "2MB"', id="no-unit-either"),
        pytest.param({"floor": MiB - 1}, "a watermark is at least 1 MiB", id="a-byte-too-little"),
        pytest.param({"brake": 64 * GB - 1}, "brake=63999999999 must be below resume", id="a-byte-below-it"),
        pytest.param({"hold": "11s"}, "hold='11s': need 0 <= hold <= 10 s, got hold 11.0", id="all-stands-still"),
        pytest.param({"hold": 50}, "hold=50: need 0 <= hold <= 10 s", id="50-is-not-50ms"),
        pytest.param({"grace": 0}, "grace=0: need 0 < grace", id="no-grace"),
        pytest.param({"grace": "off"}, "grace='off': duration 'off' is not a number", id="grace-cannot-be-off"),
        pytest.param({"squeeze": "5s"}, "squeeze='5s': need 0 <= squeeze < grace, which is 5.0 s", id="after-the-kill"),
        pytest.param({"max_brakes": 0}, "max_brakes=0: need a whole number of 1 or more", id="no-brakes"),
        pytest.param({"max_brakes": "٣"}, "max_brakes='٣': a whole number is needed", id="arabic-digits"),
        pytest.param({"max_brakes": 2.0}, "max_brakes=2.0: a whole number is needed", id="half-brakes"),
        pytest.param({"max_brakes": True}, "max_brakes=True: a whole number is needed", id="a-brake-that-is-true"),
        pytest.param({"realtime": "maybe"}, 'realtime=\'maybe\': must be "on" or "off"', id="maybe"),
        pytest.param({"realtime": 2}, "realtime=2: must be", id="a-number-is-no-switch"),
        pytest.param({"workers": 0}, "workers=0: need 1 <= workers <= 64, the slots", id="no-workers"),
        pytest.param({"workers": 65}, "workers=65: need 1 <= workers <= 64", id="too-many-workers"),
        pytest.param({"workers": "two"}, "workers='two': a whole number is needed", id="two-in-words"),
        pytest.param({"max_age": 0}, 'max_age=0: need 0 < max_age <= 1000000000 s, or "off"', id="no-age"),
        pytest.param({"max_age": "40000d"}, "max_age='40000d': need 0 < max_age", id="a-century"),
        pytest.param({"max_rss": "8"}, "max_rss='8' is 8 bytes, and a worker's memory is at least", id="8-bytes"),
        pytest.param({"max_rss": MiB - 1}, "at least 1 MiB", id="a-byte-too-little-for-a-worker"),
        pytest.param({"max_rss": "none"}, "max_rss='none': size 'none' is not a number", id="none-is-not-off"),
        pytest.param({"min_available": 2}, "is 2 bytes, and a watermark is at least 1 MiB", id="two-bytes-left"),
        pytest.param({"min_available": "off"}, "min_available='off': size 'off' is not", id="some-must-be-left"),
        pytest.param({"interval": 0}, "interval=0: need 0 < interval <= 60 s", id="all-the-time"),
        pytest.param({"interval": "61s"}, "interval='61s': need 0 < interval <= 60 s", id="hardly-ever"),
        pytest.param({"interval": "off"}, "interval='off': duration 'off' is not", id="not-at-all"),
        pytest.param({"stop_grace": 2e9}, "stop_grace=2000000000.0: need 0 <= stop_grace", id="never-killed"),
        pytest.param({"drain_timeout": 2e9}, "drain_timeout=2000000000.0: need 0 <= drain", id="drained-for-ever"),
        pytest.param({"logs": ""}, "logs='': must be the path of a folder", id="nowhere"),
        pytest.param({"board": ""}, "board='': must be the path of a folder", id="no-folder"),
        pytest.param({"board": 3}, "board=3: must be the path of a folder", id="a-descriptor"),
        pytest.param({"board": "a\0b"}, "board='a\\x00b': must be the path of a folder", id="NUL"),
    ],
)
def test_f106_what_cannot_be_meant_is_refused(arguments: dict[str, object], said: str) -> None:
    """The message names the values as they were typed, and the rule."""
    assert said in refused(**arguments)


def test_f106_the_order_is_refused_before_the_limit_is_known() -> None:
    """Two sizes need no limit to be at odds."""
    with pytest.raises(SettingsError, match="floor='3GB' must be below MEMWATCH_BRAKE='2GB'"):
        Settings.read({"MEMWATCH_BRAKE": "2GB"}, floor="3GB")


def test_off_is_a_duration_where_that_makes_sense() -> None:
    settings = Settings.read({}, hold="off", squeeze="off")

    assert (0.0, None) == (patience(settings).hold, patience(settings).squeeze)

    settings = Settings.read({}, max_age="off", max_rss="OFF", drain_timeout="off", stop_grace=0)

    assert (None, None, 0.0, 0.0) == (
        *(settings.max_age, settings.max_rss),
        *(settings.drain_timeout, settings.stop_grace),
    )


@pytest.mark.parametrize("value", [True, "on", "1", "TRUE", "yes"])
def test_a_switch_is_on(value: object) -> None:
    assert Settings.read({}, realtime=value).realtime


@pytest.mark.parametrize("value", [False, "off", "0", "False", "no"])
def test_a_switch_is_off(value: object) -> None:
    assert not Settings.read({}, realtime=value).realtime


def test_a_folder_may_be_a_path() -> None:
    assert "/run/here" == Settings.read({}, board=Path("/run/here")).board


@pytest.mark.parametrize("value", ["SIGURG", "URG", "urg", int(signal.SIGURG), str(int(signal.SIGURG)), signal.SIGURG])
def test_a_signal_has_a_name_and_a_number(value: object) -> None:
    assert signal.SIGURG == Settings.read({}, signal=value).signal


@pytest.mark.parametrize(
    ("value", "why"),
    [
        *[(name, "cannot be handled") for name in ("SIGKILL", "kill", 9, "9", "SIGSTOP")],
        *[(name, "tells of a fault") for name in ("SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGABRT", "SIGTRAP")],
        *[(name, "ends a process") for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT")],
        *[(name, "is the terminal's") for name in ("SIGCONT", "SIGTSTP", "SIGPIPE")],
        ("SIGCHLD", "tells of children"),
        *[(name, "is a real-time signal") for name in ("SIGRTMIN", "SIGRTMAX", 32, 33, 34, "64")],
        *[(name, "is no signal of this system") for name in ("SIGFOO", 0, 65, -1, "SIG", "２３", "SIG_IGN")],
        *[(name, "must be a signal") for name in (True, 23.0, b"SIGURG")],
    ],
)
def test_a_signal_that_others_need_is_refused(value: object, why: str) -> None:
    """With what it means, and what to take instead."""
    said = refused(signal=value)

    assert said.startswith(f"signal={value!r}: ")
    assert why in said


def test_every_signal_is_usable_or_refused_with_a_reason() -> None:
    """What is left can be handled, and means nothing that a person or the system needs."""
    left = set()
    for number in signal.valid_signals():
        try:
            left.add(Settings.read({}, signal=int(number)).signal)
        except SettingsError:
            continue
    names = ("URG", "USR1", "USR2", "IO", "ALRM", "VTALRM", "PROF", "WINCH", "PWR", "XCPU", "XFSZ")

    assert {getattr(signal, f"SIG{name}") for name in names} == left


# --------------------------------------------------------------------- names nobody knows ---


@pytest.mark.parametrize(
    ("variable", "nearest"),
    [
        ("MEMWATCH_BRAKES", "MEMWATCH_BRAKE"),
        ("MEMWATCH_BORD", "MEMWATCH_BOARD"),
        ("MEMWATCH_SQEEZE", "MEMWATCH_SQUEEZE"),
        ("MEMWATCH_CONFG", "MEMWATCH_CONFIG"),
        ("MEMWATCH_WORKRE", "MEMWATCH_WORKERS"),  # and not what the watchdog tells a worker
        ("MEMWATCH_ARMS", "MEMWATCH_WARN"),
    ],
)
def test_an_unknown_variable_is_refused_with_the_nearest_known_one(variable: str, nearest: str) -> None:
    """A typing error must not leave a worker with the default."""
    said = refused({variable: "2GB"})

    assert f"{variable}='2GB' in the environment is no setting of memwatch; the nearest is {nearest}." in said


def test_f100_a_variable_does_not_move_the_terminal() -> None:
    said = refused({"MEMWATCH_\x1b[31m": "\x1b[0m\n"})

    assert said.isprintable()


def test_variables_of_others_are_left_alone() -> None:
    assert Settings() == Settings.read({"PATH": "/bin", "BRAKE": "x", "memwatch_brake": "x", "XMEMWATCH_BRAKE": "x"})


def test_every_variable_of_the_code_base_is_known() -> None:
    """What a test, the CI or a room of ours reads must not keep start() from running."""
    sources = [*REPO.glob("memwatch/**/*.py"), *REPO.glob("tests/**/*.py"), REPO / ".ci/run"]
    read = re.compile(r"""(?:environ(?:\.get\(|\[)|getenv\(|setenv\(|export )["']?(MEMWATCH_[A-Z_]+)""")
    found = {name for path in sources if path.name != Path(__file__).name for name in read.findall(path.read_text())}

    assert {"MEMWATCH_PURE", "MEMWATCH_BOARD", "MEMWATCH_NIGHTLY"} <= found
    Settings.read(dict.fromkeys(found, ""))


def test_the_table_of_other_variables_is_no_longer_than_it_must_be() -> None:
    """Each is read somewhere else, and none is a setting."""
    sources = [*REPO.glob("memwatch/**/*.py"), *REPO.glob("tests/**/*.py")]
    text = "".join(path.read_text() for path in sources if path.name not in {"config.py", Path(__file__).name})

    assert {variable for variable in ELSEWHERE if re.search(rf"\b{variable}\b", text)} == ELSEWHERE
    for variable in ELSEWHERE:
        with pytest.raises(TypeError, match="is no setting"):
            Settings.read({}, **{variable.removeprefix("MEMWATCH_").lower(): "x"})


def test_an_unknown_argument_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="'break' is no setting; known are brake, warn"):
        Settings.read({}, **{"break": "2GB"})


# ------------------------------------------------------------------------------- light ---


def test_reading_settings_loads_nothing_heavy() -> None:
    """difflib and signal only for who needs them, and neither for who asks for nothing."""
    script = (
        "import sys; import memwatch; before = set(sys.modules)\n"
        "from memwatch.config import Settings, marks_for; marks_for(Settings.read({}), 2**40)\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    said = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, check=True)

    assert ["memwatch.config", "memwatch.units"] == said.stdout.split()


def test_every_default_stands_in_the_model() -> None:
    """One table: a number in config.py would be a second."""
    tree = ast.parse((REPO / "memwatch/config.py").read_text())
    (settings,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Settings")
    defaults = [node.value for node in settings.body if isinstance(node, ast.AnnAssign)]
    numbers = [it.value for it in defaults if isinstance(it, ast.Constant) and isinstance(it.value, int | float)]

    assert [True] == numbers  # realtime
