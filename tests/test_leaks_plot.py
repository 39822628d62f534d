"""The picture of `memwatch leaks`."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from memwatch import leaks_plot
from memwatch.leaks_run import Point, Run, Span
from memwatch.model import Watermarks

pytest.importorskip("matplotlib", reason="pictures are drawn by matplotlib, which is the extra memwatch[plot]")

MB, GB = 10**6, 10**9
MARKS = Watermarks(floor=GB // 2, brake=2 * GB, resume=5 * GB // 2, warn=4 * GB)


def run_of(**more: Any) -> Run:
    points = [Point(t, (300 + t) * MB, (200 + t) * MB, 20 * GB) for t in range(100)]
    known = {
        "command": ("python", "train.py"),
        "status": 0,
        "duration": 100.0,
        "points": points,
        "spans": [],
        "brakes": [],
        "trials": 0,
        "marks": MARKS,
        "peak": 400 * MB,
        "found": [],
        "inside": True,
        "most": 1,
    }
    return Run(**(known | more))


@pytest.mark.slow
@pytest.mark.parametrize(
    "run",
    [
        pytest.param(run_of(), id="no-trials"),
        pytest.param(run_of(points=[], duration=0.0), id="nothing-seen"),
        pytest.param(
            run_of(
                spans=[Span(0.0, 50.0, "Trial $x_{1$ 📈 \n\x1b[31m"), Span(50.0, None, "")], trials=2, brakes=[9.0, 9.1]
            ),
            id="labels-of-any-kind",
        ),
        pytest.param(run_of(points=[Point(t, 9 * GB, None, 3 * GB) for t in range(9)], duration=9000.0), id="short"),
    ],
)
def test_it_is_1200_by_600(run: Run, tmp_path: Path) -> None:
    """Whatever is in it, and without a word on stderr (warnings are errors here)."""
    leaks_plot.draw(run, "leak: $1 MB/min", str(tmp_path / "it.png"))
    png = (tmp_path / "it.png").read_bytes()

    assert b"\x89PNG" == png[:4]
    assert (1200, 600) == (int.from_bytes(png[16:20]), int.from_bytes(png[20:24]))


@pytest.mark.parametrize("trials", [1, 12, 200, 4000])
def test_no_label_lies_over_another(trials: int) -> None:
    """Nor over the edge; and the first is always there."""
    spans = [Span(100.0 * i / trials, 100.0 * (i + 1) / trials, f"Trial #{i}") for i in range(trials)]
    chosen = leaks_plot.labelled(run_of(spans=spans), width=1000)
    pixels = [(10 * it.begin, 10 * it.begin + 6 * len(it.label)) for it in chosen]

    assert spans[0] == chosen[0]
    assert all(end < begin for (_, end), (begin, _) in pairwise(pixels))
    assert pixels[-1][1] <= 1000
    assert len(chosen) >= min(trials, 10)


def test_where_the_brake_acts_is_drawn_when_it_is_near() -> None:
    """RSS plus what is left above the watermark; a line far above would press all else to the ground."""
    near = [Point(float(t), 3 * GB, None, 3 * GB) for t in range(3)]

    assert [(0.0, 4 * GB), (1.0, 4 * GB), (2.0, 4 * GB)] == leaks_plot.ceiling(run_of(points=near))
    assert [] == leaks_plot.ceiling(run_of())
