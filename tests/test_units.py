"""Sizes and durations, read and written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memwatch.units import Size, format_duration, format_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("2GB", 2 * 10**9),
        ("2GiB", 2 * 2**30),
        ("2G", 2 * 2**30),  # as for systemd and docker
        ("8GB", 8_000_000_000),
        ("8GiB", 8_589_934_592),
        ("1.5 GB", 1_500_000_000),
        ("512M", 512 * 2**20),
        ("64KiB", 65536),
        ("1kB", 1000),
        ("1000", 1000),
        (1000, 1000),
        ("100B", 100),
        ("9223372036854775807", 2**63 - 1),
        ("8388607TiB", 8388607 * 2**40),
    ],
)
def test_f106_a_size_is_what_it_says(text: str | int, size: int) -> None:
    """GB and GiB differ by 7 %, and by 600 MB at 8: neither is taken for the other."""
    parsed = parse_size(text)

    assert size == parsed.bytes
    assert str(text) == str(parsed)


@pytest.mark.parametrize(
    "text",
    ["", "GB", "nan", "inf", "-1", "-1GB", "+1GB", "0", "0GB", "0.0GB", "1_000", " 8GB", "8 GB ", "8  GB", "８GB"]
    + ["0x10", "1e9", "8GB8", "8XB", "8gb", "8Gb", "1.5", "1.", ".5GB", "8,5GB", "8388608TiB", "9223372036854775808"]
    + ["100%", "0%", "-5%", "101%", "8GB\n", "²GB", 1.5, float("nan"), True, None, 0, -1],
)
def test_f106_what_is_no_size_is_refused_by_name(text: object) -> None:
    """What float() or int() would let through is refused, and the message holds what was given."""
    with pytest.raises(ValueError, match="size") as caught:
        parse_size(text)  # type: ignore[arg-type]
    assert str(text) in str(caught.value) or repr(text) in str(caught.value)


def test_a_share_is_of_the_limit_that_binds() -> None:
    """ "10%" waits for the limit; a size does not ask for it."""
    assert 800 == parse_size("10%").of(8000)
    assert 0.5 == parse_size("0.5%").percent
    assert 2 * 10**9 == parse_size("2GB").of(8000)


def test_a_size_is_one_or_the_other() -> None:
    with pytest.raises(ValueError, match="either bytes or percent"):
        Size("?", bytes=1, percent=1.0)
    with pytest.raises(ValueError, match="either bytes or percent"):
        Size("?")


@given(st.text(max_size=12))
def test_any_text_is_a_size_or_a_value_error(text: str) -> None:
    """No text ends in another exception, nor in a size that cannot be."""
    try:
        parsed = parse_size(text)
    except ValueError:
        return
    assert 0 < parsed.of(2**40) < 2**63


@given(st.integers(1, 2**40), st.sampled_from(["", "B", "KB", "MB", "KiB", "MiB"]))
def test_whole_numbers_are_exact(number: int, unit: str) -> None:
    """No float stands between what was typed and what is meant."""
    scale = {"": 1, "B": 1, "KB": 1000, "MB": 10**6, "KiB": 1024, "MiB": 2**20}[unit]

    assert number * scale == parse_size(f"{number}{unit}").bytes


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("60m", 3600.0), ("90s", 90.0), ("90", 90.0), ("500ms", 0.5), ("1.5h", 5400.0), ("1d", 86400.0)]
    + [("2 min", 120.0), (60, 60.0), (0.25, 0.25), (0, 0.0), ("0", 0.0)],
)
def test_a_duration_is_what_it_says(text: str | float, seconds: float) -> None:
    assert seconds == parse_duration(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "m",
        "nan",
        "inf",
        "-1",
        "-1s",
        "1_0s",
        "６0m",
        "1 0s",
        "1M",
        "1y",
        float("nan"),
        float("inf"),
        -1,
        True,
        None,
    ],
)
def test_what_is_no_duration_is_refused_by_name(text: object) -> None:
    with pytest.raises(ValueError, match="duration") as caught:
        parse_duration(text)  # type: ignore[arg-type]
    assert str(text) in str(caught.value) or repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (None, "unknown"),
        (0, "0 B"),
        (999, "999 B"),
        (1_800_000_000, "1.8 GB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (25_276_502_016, "25.3 GB"),
        (2 * 10**15, "2000.0 TB"),
    ],
)
def test_a_size_for_people(size: int | None, text: str) -> None:
    assert text == format_size(size)


@given(st.integers(0, 2**63 - 1))
def test_what_is_printed_can_be_read_again(size: int) -> None:
    """A printed size, typed in again, is the same to a digit."""
    again = 0 if size == 0 else parse_size(format_size(size)).bytes

    assert abs(size - again) <= max(0.05 * 1000 ** (len(str(size)) // 3), 0.051 * size)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "unknown"), (2e-6, "2 us"), (0.0032, "3.2 ms"), (74, "74 s"), (3526, "59 min"), (3900, "1 h 5 min")],
)
def test_a_duration_for_people(seconds: float | None, text: str) -> None:
    assert text == format_duration(seconds)
