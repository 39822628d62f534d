"""The words of the watchdog: word for word where people grep for them, and harmless whatever they hold."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memwatch.events import LABEL_MOST, Event, Kind, as_json, banner, format_rate, is_trouble, lines, local, utc

GB = 10**9
GREP = re.compile("error|crash|oom", re.IGNORECASE)
NAMES = (
    *("age_seconds", "max_age_seconds", "restart_seconds", "waited_seconds", "deadline_seconds", "since_seconds"),
    *("seconds", "measured_seconds", "threshold_seconds", "rss_bytes", "limit_bytes", "pss_bytes", "warn_bytes"),
    *("available_bytes", "threshold_bytes", "needed_bytes", "max_rss_bytes", "min_available_bytes"),
    *("workers", "version", "command", "life", "reason", "warn", "what", "errno", "brakes", "label", "detail"),
    *("rate_bytes_per_second", "confidence", "limit", "live_bytes", "kept_bytes", "budget_bytes", "filled_bytes"),
    *("status", "signal", "cause", "pids", "count", "failures", "sink", "instead", "time", "event", "worker", "pid"),
)
REASONS = ("", "age", "rss", "headroom", "stalled", "leak", "tainted", "stop")
CAUSES = ("finished", "asked", "failed", "killed", "oom", "brake")
HOSTILE = st.one_of(
    st.text(max_size=40),
    st.sampled_from(
        ["oom", "OoM", "craſh", "ERROR\n", "room", "\x1b]0;x\x07", "a\u2028b", "\u202eb", "\x9b1m", "\ud800"]
    ),
    st.sampled_from(["o" * 500 + "om", "x" * (LABEL_MOST - 2) + "oom", "crash" * 2000, "\0", "\r", "\x85"]),
    st.sampled_from([*REASONS, *CAUSES]),
    st.integers(-(10**30), 10**30),
    st.sampled_from([10**5000, 2**63, -1, 0, 1]),
    st.floats(),
    st.booleans(),
    st.none(),
)
EVENTS = st.builds(
    Event,
    st.sampled_from(Kind),
    st.integers(0, 64),
    st.integers(0, 2**22),
    st.dictionaries(st.sampled_from(NAMES), HOSTILE),
)


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (
            Event(
                *(Kind.HEALTHY, 1, 17650),
                {"age_seconds": 74.4, "max_age_seconds": 3600.0, "rss_bytes": 2_270_000_000, "restart_seconds": 3525.6},
            ),
            ("✅ Worker 1 PID 17650 healthy (age: 74s/3600s, mem: 2.27GB, restart in 3526s)",),
        ),
        (
            Event(
                *(Kind.LOW, 1, 17650),
                {"available_bytes": 3_500_000_000, "warn_bytes": 4 * GB, "rss_bytes": 2_800_000_000},
            ),
            ("⚠️  System memory at 3.5GB (warning: 4GB), Worker 1: 2.8GB",),
        ),
        (
            Event(Kind.OVER, 1, 17650, {"rss_bytes": 8_200_000_000, "limit_bytes": 8 * GB}),
            ("🔄 Worker 1 memory leak detected - restarting", "Worker using 8.2GB (limit: 8.0GB)"),
        ),
    ],
)
def test_the_lines_people_know_are_word_for_word(event: Event, said: tuple[str, ...]) -> None:
    """Who greps for them since years need not change a thing."""
    assert said == lines(event)
    assert not is_trouble(event)


GROWS = {
    "rate_bytes_per_second": 31_000_000 / 60,
    "confidence": 0.97,
    "limit": "max_rss",
    "limit_bytes": 8 * GB,
    "seconds": 2520.0,
    "rss_bytes": 6_700_000_000,
    "live_bytes": 6_300_000_000,
    "kept_bytes": 400_000_000,
}


@pytest.mark.parametrize(
    ("event", "said"),
    [
        pytest.param(
            Event(Kind.LEAK, 1, 17650, GROWS),
            "📈 Worker 1 PID 17650 leak: 31 MB/min, would reach 8.0GB in 42 min",
            id="leak",
        ),
        pytest.param(
            Event(Kind.LEAK, 1, 17650, GROWS | {"limit": "available", "limit_bytes": 2 * GB, "seconds": 90.0}),
            "📈 Worker 1 PID 17650 leak: 31 MB/min, would leave less than 2.0GB available in 90 s",
            id="of-the-machine",
        ),
        pytest.param(
            Event(Kind.LEAK, 1, 17650, GROWS | {"limit": None, "limit_bytes": None, "seconds": None}),
            "📈 Worker 1 PID 17650 leak: 31 MB/min",
            id="no-limit-is-met",
        ),
        pytest.param(
            Event(
                *(Kind.RETENTION, 1, 17650),
                GROWS | {"rss_bytes": 34 * GB // 10, "live_bytes": 13 * GB // 10, "kept_bytes": 21 * GB // 10},
            ),
            "🧽 Worker 1 PID 17650 holds 2.1GB more than its program uses (3.4GB, 1.3GB in use): the allocator keeps "
            "it. MALLOC_ARENA_MAX=2, memwatch.trim() between trials, or a preallocated buffer help",
            id="retention",
        ),
        pytest.param(
            Event(Kind.FILLING, 1, 17650, {"limit": "max_rss", "needed_bytes": 91 * GB // 10, "limit_bytes": 8 * GB}),
            "📦 Worker 1 PID 17650 will need 9.1GB when its buffers are full, limit 8.0GB: smaller buffers, or "
            "--max-rss",
            id="a-buffer-larger-than-the-limit",
        ),
        pytest.param(
            Event(Kind.FILLING, 1, 17650, {"limit": "available", "needed_bytes": 3 * GB, "limit_bytes": 2 * GB}),
            "📦 Worker 1 PID 17650 will take 3.0GB more until its buffers are full, 2.0GB available: smaller buffers, "
            "or fewer workers",
            id="a-buffer-larger-than-what-is-there",
        ),
        pytest.param(
            Event(Kind.RESTARTING, 1, 17650, GROWS | {"reason": "leak"}),
            "🔄 Worker 1 PID 17650 is restarted: its memory grows by 31 MB/min, would reach 8.0GB in 42 min, it holds "
            "6.7GB",
            id="restarted-for-it",
        ),
    ],
)
def test_growth_is_said_with_its_figures_and_is_no_trouble(event: Event, said: str) -> None:
    """What grows, how fast, and what to do about it; a restart for a leak is what the watchdog is for."""
    assert (said,) == lines(event)
    assert not is_trouble(event)


@pytest.mark.parametrize(
    ("rate", "said"),
    [
        (31_000_000 / 60, "31 MB/min"),
        (1_040_000 / 60, "1.0 MB/min"),
        (9_960_000 / 60, "10 MB/min"),
        (7, "420 B/min"),
        (0.0, "0 B/min"),
    ],
)
def test_a_rate_has_two_digits(rate: float, said: str) -> None:
    """A trend knows no more."""
    assert said == format_rate(rate)


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (Event(Kind.HEALTHY, 2, 7), "✅ Worker 2 PID 7 healthy (age: unknown/off, mem: unknown, no restart by age)"),
        (
            Event(Kind.HEALTHY, 2, 7, {"age_seconds": 0.5, "max_age_seconds": 2.5, "rss_bytes": 512_300_000}),
            "✅ Worker 2 PID 7 healthy (age: 0.5s/2.5s, mem: 512.3MB, restart in unknown)",
        ),
        (
            Event(Kind.LOW, 0, 0, {"available_bytes": 2**32, "warn_bytes": 2**33, "warn": "8GiB"}),
            "⚠️  System memory at 4.3GB (warning: 8GiB)",  # what was typed
        ),
        (Event(Kind.SPAWNED, 1, 17650, {"life": 1, "reason": ""}), "🚀 Worker 1 PID 17650 started"),
        (
            Event(Kind.SPAWNED, 1, 17650, {"life": 3, "reason": "headroom"}),
            "🚀 Worker 1 PID 17650 started (life 3, after: memory is short)",
        ),
        (
            Event(Kind.BRAKED, 1, 17650, {"brakes": 2, "label": "Trial #42", "detail": "split 3/5"}),
            "🚨 Worker 1 EMERGENCY BRAKE: Trial #42 split 3/5 was stopped before an OOM kill (2 so far)",
        ),
        (
            Event(
                *(Kind.ENDED, 1, 17650),
                {"status": None, "signal": "SIGKILL", "cause": "oom", "age_seconds": 74}
                | {"rss_bytes": 8 * GB, "available_bytes": 9 * GB},
            ),
            "❌ Worker 1 PID 17650 crashed: the kernel killed it, for it was out of memory (OOM) after 74s: "
            "the 8.0GB it held are given back, 9.0GB available",
        ),
        (
            Event(Kind.BACKOFF, 1, 0, {"seconds": 2.0, "failures": 2, "reason": ""}),
            "❌ Worker 1 crashed, or could not be started: starts again in 2s (2 in a row)",
        ),
        (
            Event(Kind.BACKOFF, 1, 0, {"seconds": 2.0, "failures": 2, "reason": "rss"}),
            "⏳ Worker 1 starts again in 2s: it lived less than a minute (2 in a row)",
        ),
        (
            Event(Kind.REFUSED, 1, 17650, {"what": "SIGKILL", "errno": 1}),
            "❌ Worker 1 PID 17650: ERROR: SIGKILL was refused: EPERM (Operation not permitted)",
        ),
        (
            Event(Kind.DROPPED, fields={"sink": "watchdog.log", "count": 12, "errno": 28}),
            "❌ ERROR: 12 events are missing from watchdog.log: ENOSPC (No space left on device)",
        ),
        (
            Event(Kind.DROPPED, 3, fields={"sink": "worker_safe_3.log", "errno": 40, "instead": "/dev/null"}),
            "❌ Worker 3: ERROR: worker_safe_3.log cannot be used: ELOOP (Too many levels of symbolic links). "
            "What the worker prints goes to /dev/null",
        ),
    ],
)
def test_a_line_says_what_is_known(event: Event, said: str) -> None:
    """What is not known is called so, and what is off."""
    assert (said,) == lines(event)


def test_each_kind_has_words() -> None:
    """None of them fails for want of a field."""
    for kind in Kind:
        assert all(lines(Event(kind, 1, 2)))


@given(EVENTS)
def test_f100_grep_finds_trouble_and_nothing_else(event: Event) -> None:
    """Labels, reasons and commands cannot put a word of trouble into a healthy line, nor hide one from trouble."""
    said = lines(event)

    assert is_trouble(event) == any(GREP.search(line) for line in said)


@pytest.mark.parametrize("kind", list(Kind))
def test_f100_a_number_of_5000_digits_is_no_figure(kind: Kind) -> None:
    """Python does not turn it into text: of a cause or a reason, that was a ValueError."""
    for name in NAMES:
        assert all(len(line) < 2000 for line in lines(Event(kind, 1, 2, {name: 10**5000})))


@given(EVENTS, st.floats())
def test_f100_what_came_from_outside_forges_no_line(event: Event, wall: float) -> None:
    """No control character is left, C1, bidi and line separators among them; no surrogate raises; a line is short."""
    for line in lines(event):
        assert all(char.isprintable() or char == "️" for char in line)
        assert len(line.encode()) < 2000
    said = as_json(event, wall)

    assert said.isascii()
    assert said.isprintable()
    told = json.loads(said, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert str(event.kind) == told["event"]
    assert all(value.isprintable() for value in told.values() if isinstance(value, str))
    assert (event.worker or None, event.pid or None) == (told["worker"], told["pid"])


@given(HOSTILE, st.floats())
def test_f100_a_banner_is_one_line_and_no_trouble(reason: object, wall: float) -> None:
    """It stands in a worker's log, which the same grep reads."""
    said = banner(1, 3, str(reason) if not isinstance(reason, int) else "", wall)

    assert said.isprintable()
    assert not GREP.search(said)


@pytest.mark.slow
def test_the_real_grep_agrees(tmp_path: Path) -> None:
    """grep knows letters that match without regard to case which are no ASCII, in any locale."""
    grep = shutil.which("grep")
    if grep is None:
        pytest.skip("there is no grep on this machine")
    healthy = [
        Event(kind, 1, 7, dict.fromkeys(NAMES, text))
        for kind in Kind
        for text in ("oom", "craſh", "ERRor", "zoom", "headroom")
    ]
    quiet = [line for event in healthy if not is_trouble(event) for line in lines(event)]
    loud = [lines(Event(kind, 1, 7))[0] for kind in Kind if is_trouble(Event(kind, 1, 7))]
    (tmp_path / "a.log").write_text("\n".join(quiet + loud) + "\n")
    for locale in ("C", "C.UTF-8"):
        found = subprocess.run(
            [grep, "-a", "-i", "error\\|crash\\|oom", tmp_path / "a.log"],
            env={"LC_ALL": locale},
            capture_output=True,
            text=True,
            check=False,
        )

        assert loud == found.stdout.splitlines()


def test_f39_time_is_stamped_as_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """UTC with milliseconds for programs, local for people; a clock that tells nonsense does no harm."""
    assert "1970-01-01T00:00:01.250Z" == utc(1.25)
    assert "2026-11-23T22:37:12.999Z" == utc(1795473432.9999)
    assert None is utc(float("nan"))
    assert None is utc(1e300)
    assert 19 == len(local(1795473432))
    assert "????-??-?? ??:??:??" == local(float("inf"))


def test_the_banner_says_which_life_and_why() -> None:
    """As people read it in worker_safe_N.log."""
    assert f"===== Worker 1 starts at {local(0)}, life 1 =====" == banner(1, 1, "", 0)
    assert f"===== Worker 1 starts at {local(0)}, life 3, after: age =====" == banner(1, 3, "age", 0)
    assert f"===== Worker 1 starts at {local(0)}, life 2, after: see events.jsonl =====" == banner(1, 2, "crashed", 0)
