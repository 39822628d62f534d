"""The picture of `memwatch leaks`: RSS and live bytes over time, with trials and brakes; needs matplotlib."""

import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from .leaks_run import Run, Span
from .model import escape
from .units import format_size

SUFFIXES = (".png", ".svg", ".pdf")
WIDTH, HEIGHT, DPI = 12.0, 6.0, 100  # inches; 1200 x 600 pixels

# Of Okabe and Ito: told apart by those who do not tell red from green, and each has a shape of its own besides.
_RSS, _LIVE, _BRAKE, _LIMIT = "#0072B2", "#E69F00", "#D55E00", "#666666"
_SHADES = ("#DDDDDD", "#BBBBBB")
_NEAR = 1.6  # what the brake acts at is drawn where it is no higher than so many times the highest RSS
_CHARACTER = 6.2  # pixels of a character of a label, on the average


def is_there() -> bool:
    """Whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def draw(run: Run, verdict: str, path: str) -> None:
    """
    Writes the picture.

    Raises:
        OSError: It cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure: Any = Figure(figsize=(WIDTH, HEIGHT), dpi=DPI)
    FigureCanvasAgg(figure)
    strip = 0.05 if run.spans else 0.0
    lower = 0.1 + strip
    memory = figure.add_axes((0.075, lower, 0.9, 0.83 - lower))
    per, unit = _time_unit(run.duration)
    _draw_memory(memory, run, per)
    _draw_brakes(memory, run, per)
    memory.set_xlim(0, max(run.duration, 0.001) / per)
    below = memory
    if run.spans:
        below = figure.add_axes((0.075, 0.1, 0.9, strip - 0.008), sharex=memory)
        _draw_trials(below, run, per)
        memory.tick_params(labelbottom=False)
    below.set_xlabel(unit)
    if memory.get_legend_handles_labels()[0]:
        memory.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=5, frameon=False, fontsize=10)
    _write_title(figure, run, verdict)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a label with a character that the font has not
        figure.savefig(path, dpi=DPI)


def _time_unit(duration: float) -> tuple[float, str]:
    if duration < 120:
        return 1.0, "seconds since the start"
    return (60.0, "minutes since the start") if duration < 7200 else (3600.0, "hours since the start")


def _size_unit(most: int) -> tuple[float, str]:
    for factor, unit in ((1e9, "GB"), (1e6, "MB")):
        if most >= factor:
            return factor, unit
    return 1e3, "kB"


def ceiling(run: Run) -> list[tuple[float, int]]:
    """At what RSS the brake would act, over time; nothing where that is far from what the script had."""
    found = [
        (it.time, it.rss + it.headroom - run.marks.brake)
        for it in run.points
        if it.rss is not None and it.headroom is not None
    ]
    most = max((it.rss or 0 for it in run.points), default=0)
    return found if found and min(size for _, size in found) <= _NEAR * most else []


def _draw_memory(axes: Any, run: Run, per: float) -> None:
    above = ceiling(run)
    rss = [(it.time, it.rss) for it in run.points if it.rss is not None]
    live = [(it.time, it.live) for it in run.points if it.live is not None]
    most = max((size for _, size in rss + live), default=0)
    scale, unit = _size_unit(most)
    top = most * 1.1
    if above:
        top = max(top, min(min(size for _, size in above) * 1.1, most * _NEAR * 1.1))
    _line(axes, rss, per, scale, color=_RSS, linewidth=1.8, label="RSS", zorder=3)
    if rss:
        xs, ys = _scaled(rss, per, scale)
        axes.fill_between(xs, ys, color=_RSS, alpha=0.08, linewidth=0)
    _line(axes, live, per, scale, color=_LIVE, linewidth=1.8, linestyle=(0, (5, 1)), label="live bytes", zorder=4)
    at = f"the brake acts ({format_size(run.marks.brake)} available)"
    _line(axes, above, per, scale, color=_LIMIT, linewidth=1.2, linestyle=":", label=at, zorder=2)
    axes.set_ylim(0, max(top / scale, 0.001))
    axes.set_ylabel(unit)
    axes.grid(axis="y", color="#EEEEEE", zorder=0)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _scaled(points: Sequence[tuple[float, int]], per: float, scale: float) -> tuple[list[float], list[float]]:
    return [time / per for time, _ in points], [size / scale for _, size in points]


def _line(axes: Any, points: Sequence[tuple[float, int]], per: float, scale: float, **style: Any) -> None:
    if points:
        axes.plot(*_scaled(points, per, scale), **style)


def _draw_brakes(axes: Any, run: Run, per: float) -> None:
    """A line for each, with a mark at its top."""
    if not run.brakes:
        return
    times = [it / per for it in run.brakes]
    top = axes.get_ylim()[1]
    axes.vlines(times, 0, top, color=_BRAKE, linewidth=0.9, alpha=0.7, zorder=1)
    label = "1 brake" if len(times) == 1 else f"{len(times)} brakes"
    axes.plot(times, [top] * len(times), "v", color=_BRAKE, markersize=9, clip_on=False, label=label, zorder=6)


def _draw_trials(axes: Any, run: Run, per: float) -> None:
    """Bars, light and dark in turn, and as many labels as there is room for."""
    bars: dict[str, list[tuple[float, float]]] = {shade: [] for shade in _SHADES}
    for i, span in enumerate(run.spans):
        begin, end = _ends(span, run)
        bars[_SHADES[i % 2]].append((begin / per, (end - begin) / per))
    for shade, found in bars.items():
        axes.broken_barh(found, (0, 1), facecolors=shade, linewidth=0)
    for span in labelled(run, WIDTH * DPI * 0.9):
        begin, _ = _ends(span, run)
        axes.vlines([begin / per], 0, 1, color="#555555", linewidth=0.8)
        axes.text(
            begin / per,
            0.45,
            f" {escape(span.label)}",
            fontsize=8,
            va="center",
            color="#222222",
            parse_math=False,
            clip_on=True,
        )
    axes.set_ylim(0, 1)
    axes.set_yticks([])
    axes.set_ylabel("trials" if run.trials > 1 else "trial", rotation=0, ha="right", va="center", fontsize=9)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def labelled(run: Run, width: float) -> list[Span]:
    """Those trials whose labels there is room for, where the axis is *width* pixels: none lies over another."""
    per_pixel = max(run.duration, 0.001) / width
    chosen: list[Span] = []
    free = 0.0
    for span in run.spans:
        begin, _ = _ends(span, run)
        after = begin + (len(escape(span.label)) + 3) * _CHARACTER * per_pixel
        if begin >= free and after <= run.duration:
            chosen.append(span)
            free = after
    return chosen


def _ends(span: Span, run: Run) -> tuple[float, float]:
    return span.begin, max(span.begin, run.duration if span.end is None else span.end)


def _write_title(figure: Any, run: Run, verdict: str) -> None:
    from shlex import join

    command = escape(join(run.command))
    command = command if len(command) <= 90 else command[:87] + "..."
    figure.text(0.03, 0.945, verdict, fontsize=14, fontweight="bold", parse_math=False)
    figure.text(0.975, 0.905, command, fontsize=9, color="#555555", ha="right", va="bottom", parse_math=False)
