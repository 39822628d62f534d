"""
Forbids leaks in tests: the fixture `no_leak` and the marker `limit_leak`. Installing memwatch brings them.

    def test_step(no_leak):
        no_leak(trainer.step, batch)

    @pytest.mark.limit_leak("1 MB")
    def test_episode(env): ...

The marker has the test's body called again and again, with the same fixtures. What one call of it keeps for good may be
1 MB at most, as the last half of the calls show it; "0" is nothing at all. Descriptors, threads and child processes
have no size: it may keep none. Further arguments, of either, are those of memwatch.leaks.find_leak().
"""

import io
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

_MARKER = (
    'limit_leak(size, **options): what one call of the test keeps for good may be *size* ("1 MB") at most; the body is '
    "called many times. Options are those of memwatch.leaks.find_leak()."
)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", _MARKER)


@pytest.fixture
def no_leak() -> Callable[..., None]:
    """no_leak(fn, *args, **options): fails the test if fn keeps something of each call; memwatch.leaks.find_leak()."""

    def check(fn: Callable[..., object], *args: Any, **options: Any) -> None:
        __tracebackhide__ = True
        _check(fn, *args, **options)

    return check


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Calls a marked test again and again, in place of once."""
    marker = pyfuncitem.get_closest_marker("limit_leak")
    if marker is None:
        return None
    size, options = _limit(marker)
    wanted = pyfuncitem._fixtureinfo.argnames
    body = partial(pyfuncitem.obj, **{name: pyfuncitem.funcargs[name] for name in wanted})
    body.__dict__["__qualname__"] = pyfuncitem.name
    _check(body, tolerance=size, **options)
    return True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A marker that could not be obeyed is an error, not a promise."""
    for item in items:
        marker = item.get_closest_marker("limit_leak")
        if marker is not None:
            _limit(marker)
            if not isinstance(item, pytest.Function) or _is_unittest(item):
                raise pytest.UsageError(
                    f"{item.nodeid}: limit_leak needs a test function or a method of a plain class; call "
                    "memwatch.leaks.assert_no_leak() in the body of this one"
                )


def _is_unittest(item: pytest.Function) -> bool:
    unittest = sys.modules.get("unittest")
    return unittest is not None and item.cls is not None and issubclass(item.cls, unittest.TestCase)


def _limit(marker: pytest.Mark) -> tuple[str | int, dict[str, Any]]:
    if len(marker.args) != 1:
        raise pytest.UsageError(
            f'limit_leak takes one size, as in limit_leak("1 MB"), and options by name; got {marker.args!r}'
        )
    return marker.args[0], dict(marker.kwargs)


def _check(fn: Callable[..., object], *args: Any, **options: Any) -> None:
    __tracebackhide__ = True
    from .leaks import find_leak

    callers = options.pop("trim_callback", None)
    with _quiet() as forget:

        def trim() -> None:
            forget()
            if callers is not None:
                callers()

        report = find_leak(fn, *args, trim_callback=trim, **options)
    if report.leaks:
        pytest.fail(str(report), pytrace=False)


@contextmanager
def _quiet() -> Iterator[Callable[[], None]]:
    """
    What pytest itself keeps of each call: log records, captured output, warnings. The function returned drops it.

    What was there before stays, and the first warning, for a report to show.
    """
    handlers: list[Any] = [it for it in logging.getLogger().handlers if type(it).__module__ == "_pytest.logging"]
    lists = [(it.records, len(it.records)) for it in handlers if isinstance(getattr(it, "records", None), list)]
    caught = getattr(getattr(warnings, "_showwarnmsg_impl", None), "__self__", None)
    if isinstance(caught, list):
        lists.append((caught, len(caught) + 1))
    streams = [it for it in (sys.stdout, sys.stderr) if type(it).__name__ == "CaptureIO"]
    streams += [it.stream for it in handlers if isinstance(getattr(it, "stream", None), io.StringIO)]
    ends = [(it, it.seek(0, io.SEEK_END)) for it in streams]

    def forget() -> None:
        for known, count in lists:
            del known[count:]
        for stream, end in ends:
            if stream.seek(0, io.SEEK_END) > end:
                stream.seek(end)
                stream.truncate()

    yield forget
