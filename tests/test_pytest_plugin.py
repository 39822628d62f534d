"""The fixture no_leak and the marker limit_leak, as pytest finds them when memwatch is installed."""

import subprocess
import sys

import pytest

from memwatch.sampler import PURE

pytest_plugins = ["pytester"]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PURE, reason="live bytes are read by the native module (MEMWATCH_PURE is set)"),
]

HEAD = "import logging, os, unittest, warnings, pytest\nkept = []\n"
# As strict as a project can be.
STRICT = ["--strict-markers", "--strict-config", "-W", "error", "-p", "no:cacheprovider", "-q", "-rA"]


def run(pytester: pytest.Pytester, code: str, *more: str) -> pytest.RunResult:
    pytester.makepyfile(HEAD + code)
    return pytester.runpytest_subprocess(*STRICT, *more, timeout=60)


def test_the_fixture_fails_a_test_that_leaks(pytester: pytest.Pytester) -> None:
    """With the report, and no traceback of ours above it."""
    result = run(
        pytester,
        """
def step(size):
    kept.append(bytearray(size))

def test_leaks(no_leak):
    no_leak(step, 2000)

def test_leaks_less_than_it_may(no_leak):
    no_leak(step, 100, tolerance="1 kB")

def test_keeps_nothing(no_leak):
    no_leak(bytearray, 2000)
""",
    )

    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["step leaks 2.* kB a call (*", "*sites*kept.append(bytearray(size))*"])
    assert "pytest_plugin.py" not in result.stdout.str()


def test_the_marker_calls_the_test_again_and_again(pytester: pytest.Pytester) -> None:
    """With the same fixtures; what one call keeps for good is compared with the limit."""
    result = run(
        pytester,
        """
@pytest.fixture
def size():
    return 2000

@pytest.mark.limit_leak("1 kB")
def test_leaks(size):
    kept.append(bytearray(size))

@pytest.mark.limit_leak("1 MB")
def test_leaks_less_than_it_may(size):
    kept.append(bytearray(size))

class TestSteps:
    @pytest.mark.limit_leak("0")
    @pytest.mark.parametrize("count", [1, 2])
    def test_keeps_nothing(self, size, count):
        self.last = bytearray(size * count)
""",
    )

    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(["test_leaks leaks 2.* kB a call (*"])


def test_what_pytest_keeps_of_each_call_is_no_leak(pytester: pytest.Pytester) -> None:
    """Log records, captured output and warnings pile up in pytest itself; a test that makes them is not accused."""
    body = """
    logging.getLogger("a").warning("step %d", 3)
    print("step " * 20)
    warnings.warn("slow")
"""
    code = f"""
@pytest.mark.filterwarnings("default")
@pytest.mark.limit_leak("0")
def test_marked(caplog, capsys):
{body}

def step():
{body}

@pytest.mark.filterwarnings("always")
def test_fixture(no_leak):
    no_leak(step)
"""

    run(pytester, code).assert_outcomes(passed=2, warnings=2)
    run(pytester, code, "--capture=sys").assert_outcomes(passed=2, warnings=2)


def test_a_failure_a_skip_and_an_xfail_are_what_they_are(pytester: pytest.Pytester) -> None:
    """What the body raises is the test's own outcome."""
    result = run(
        pytester,
        """
@pytest.mark.limit_leak("0")
def test_fails():
    assert 1 == 2

@pytest.mark.limit_leak("0")
def test_skips():
    pytest.skip("not here")

@pytest.mark.xfail(strict=True)
@pytest.mark.limit_leak("0")
def test_leaks_as_known():
    kept.append([1])
""",
    )

    result.assert_outcomes(failed=1, skipped=1, xfailed=1)


@pytest.mark.parametrize(
    ("code", "says"),
    [
        pytest.param("@pytest.mark.limit_leak\ndef test_a(): pass", "limit_leak takes one size", id="no-size"),
        pytest.param(
            "class A(unittest.TestCase):\n    @pytest.mark.limit_leak('0')\n    def test_a(self): pass",
            "limit_leak needs a test function",
            id="unittest",
        ),
    ],
)
def test_a_marker_that_cannot_be_obeyed_is_an_error(pytester: pytest.Pytester, code: str, says: str) -> None:
    """Of the whole run, for a test that seems guarded is worse than none."""
    result = run(pytester, code)

    assert pytest.ExitCode.USAGE_ERROR == result.ret
    assert says in result.stderr.str() + result.stdout.str()


def test_a_marker_of_a_size_that_is_none_fails_its_test(pytester: pytest.Pytester) -> None:
    """And says how to write one."""
    result = run(pytester, "@pytest.mark.limit_leak('much')\ndef test_a(): pass")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*size 'much' is not a number with a unit*"])


def test_the_marker_is_registered(pytester: pytest.Pytester) -> None:
    """`pytest --markers` tells it."""
    result = pytester.runpytest_subprocess("--markers", timeout=60)

    result.stdout.fnmatch_lines(["@pytest.mark.limit_leak(size, *"])


def test_it_is_light() -> None:
    """Each run of pytest loads it, so it loads nothing that is heavy; what it needs then, it takes when it is used."""
    script = (
        "import sys, pytest; before = set(sys.modules); import memwatch.pytest_plugin; "
        "print(*sorted(set(sys.modules) - before))"
    )
    said = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, check=True)
    loaded = set(said.stdout.split())

    assert not loaded & {"numpy", "psutil", "tracemalloc", "torch", "memwatch.leaks", "memwatch.leaks_census"}
    assert not {name.split(".")[0] for name in loaded} - set(sys.stdlib_module_names) - {"memwatch", "_cffi_backend"}
