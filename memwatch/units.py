"""
Sizes and durations as people write them.

"GB" is 10^9 and "GiB" 2^30; "G" alone is 2^30, as for systemd and docker; a bare whole number is bytes, or
seconds. "10%" is a share of the limit that binds. What was typed is kept, to be read back.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

_Scale = TypeVar("_Scale", int, float)

_SIZE_UNITS = {
    "": 1,
    "B": 1,
    **{f"{prefix}B": 1000**power for power, prefix in enumerate("KMGT", start=1)},
    **{f"{prefix}iB": 1024**power for power, prefix in enumerate("KMGT", start=1)},
    **{prefix: 1024**power for power, prefix in enumerate("KMGT", start=1)},
    "kB": 1000,
}
_DURATION_UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}

# ASCII digits only: int() and float() take full-width digits, "1_000", "nan" and " 8 " too.
_NUMBER = re.compile(r"([0-9]+)(\.[0-9]+)? ?([A-Za-z%]*)")

LARGEST = 2**63 - 1  # what a signed 64-bit count of bytes holds


@dataclass(frozen=True, slots=True)
class Size:
    """
    A size as it was asked for.

    Attributes:
        text: What was typed.
        bytes: The size, or None where it is a share.
        percent: The share of a limit, above 0 and below 100, or None where it is a size.
    """

    text: str
    bytes: int | None = None
    percent: float | None = None

    def __post_init__(self) -> None:
        if (self.bytes is None) == (self.percent is None):
            raise ValueError(f"a size is either bytes or percent, got {self.bytes} and {self.percent}")

    def of(self, limit: int) -> int:
        """The size in bytes where *limit* bytes is what binds."""
        if self.bytes is not None:
            return self.bytes
        assert self.percent is not None  # __post_init__ saw to it
        return int(limit * self.percent / 100)

    def __str__(self) -> str:
        return self.text


def _split(text: str, what: str, example: str) -> tuple[str, str, str]:
    match = _NUMBER.fullmatch(text)
    if match is None:
        raise ValueError(f"{what} {text!r} is not a number with a unit; write it as {example}")
    return match[1], match[2] or "", match[3]


def _unit(unit: str, units: Mapping[str, _Scale], what: str, text: str) -> _Scale:
    try:
        return units[unit]
    except KeyError:
        known = ", ".join(name for name in units if name)
        raise ValueError(f"{what} {text!r} has the unit {unit!r}; known are {known}") from None


def parse_size(value: str | int) -> Size:
    """
    A size from what a person wrote: "2GB", "1.5 GiB", "512M", "10%", or a whole number of bytes.

    Raises:
        ValueError: Not such a number, an unknown unit, 0, or above 2^63 - 1 bytes.
    """
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f'size {value!r} has no unit; write it as "2GB", or a whole number of bytes')
    text = str(value)
    whole, fraction, unit = _split(text, "size", '"2GB", "1.5GiB" or "10%"')
    if unit == "%":
        percent = float(whole + fraction)
        if not 0 < percent < 100:
            raise ValueError(f"size {text!r} must be above 0% and below 100%")
        return Size(text, percent=percent)
    scale = _unit(unit, _SIZE_UNITS, "size", text)
    if fraction and scale == 1:
        raise ValueError(f'size {text!r} is a fraction of a byte; a unit is missing, as in "{text}GB"')
    # Whole numbers stay exact: a float is not, above 2^53.
    size = int(whole) * scale + (int(float(fraction) * scale) if fraction else 0)
    if not 0 < size <= LARGEST:
        raise ValueError(f"size {text!r} must be above 0 and below 2^63 bytes")
    return Size(text, bytes=size)


def parse_duration(value: str | int | float) -> float:
    """
    Seconds from what a person wrote: "60m", "1.5h", "500ms", or a number of seconds.

    Raises:
        ValueError: Not such a number, an unknown unit, or not a finite time of 0 or more.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f'duration {value!r} is no time; write it as "60m" or a number of seconds')
    if not isinstance(value, str):
        if not 0 <= value <= LARGEST:  # nan is not, either
            raise ValueError(f"duration {value!r} must be 0 or more, and finite")
        return float(value)
    whole, fraction, unit = _split(value, "duration", '"60m", "90s" or "500ms"')
    seconds = float(whole + fraction) * _unit(unit, _DURATION_UNITS, "duration", value)
    if seconds > LARGEST:
        raise ValueError(f"duration {value!r} must be finite")
    return seconds


def format_size(size: int | None) -> str:
    """
    A size for people: "1.8 GB", in powers of 1000; None is "unknown".

    Three digits are enough to act on; below a kilobyte it is exact.
    """
    if size is None:
        return "unknown"
    scaled, unit = float(size), "B"
    for bigger in ("kB", "MB", "GB", "TB"):
        # 999.95 would be printed as 1000.0.
        if abs(scaled) < 999.95:
            break
        scaled, unit = scaled / 1000, bigger
    return f"{size} B" if unit == "B" else f"{scaled:.1f} {unit}"


def format_duration(seconds: float | None) -> str:
    """A time for people: "3.2 ms", "74 s", "1 h 5 min"; None is "unknown"."""
    if seconds is None:
        return "unknown"
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} us"
    if seconds < 1:
        return f"{seconds * 1e3:.1f} ms"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
