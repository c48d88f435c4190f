"""Charts: axes that hold what they must, curves that keep their peaks, marks that differ without colour."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from maxsearch.report.charts.bars import Bar, bars, shares
from maxsearch.report.charts.forest import Group, Line, forest
from maxsearch.report.charts.marks import STYLES, marker, styles_of
from maxsearch.report.charts.plane import HEIGHT, WIDTH, Curve, Plane, Point, draw
from maxsearch.report.charts.scale import Scale, short_number
from maxsearch.report.curves import MOST_POINTS, smoothed, thinned, window_of
from maxsearch.report.inputs.shapes import Interval

VALUES = st.lists(st.floats(-1e12, 1e12, allow_nan=False), min_size=1, max_size=20)


@given(VALUES, st.booleans())
def test_an_axis_holds_its_values_and_round_numbers(values: list[float], zero: bool) -> None:
    scale = Scale.around(values, zero=zero)
    assert scale.low < scale.high
    assert all(0 <= scale.at(value) <= 1 for value in values)
    assert scale.at(min(values)) <= scale.at(max(values))
    ticks = scale.ticks()
    slack = 1e-6 * (scale.high - scale.low)
    assert 1 <= len(ticks) <= 6 and all(scale.low - slack <= tick <= scale.high + slack for tick in ticks)
    if zero:
        assert scale.low <= 0 <= scale.high


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=20))
def test_an_axis_by_powers_of_ten(values: list[float]) -> None:
    scale = Scale.powers(values)
    assert all(0 < scale.at(value) < 1 for value in values)
    assert all(scale.low <= tick <= scale.high for tick in scale.ticks())


def test_ticks_and_their_names() -> None:
    assert Scale(0.0, 1.0).ticks() == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    assert Scale(0.015, 3.0, log=True).ticks() == pytest.approx([0.02, 0.05, 0.1, 0.2, 0.5, 1, 2])
    said = [short_number(value) for value in (0.0, 0.25, 1500.0, 3.65e6, 0.0003, -2e9, 1e15, 7.0)]
    assert said == ["0", "0.25", "1.5k", "3.65M", "3e-4", "-2G", "1.0e+15", "7"]


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=2000))
def test_thinning_keeps_peaks_and_ends(values: list[float]) -> None:
    y = np.array(values)
    x = np.arange(len(y), dtype=np.float64)
    kept_x, kept_y = thinned(x, y)
    assert len(kept_x) <= MOST_POINTS + 2
    assert kept_y.min() == y.min() and kept_y.max() == y.max()
    assert (kept_x[0], kept_x[-1]) == (x[0], x[-1]) and (np.diff(kept_x) > 0).all()
    np.testing.assert_array_equal(kept_y, y[kept_x.astype(int)])


def test_smoothing_is_the_mean_of_the_neighbours() -> None:
    np.testing.assert_allclose(smoothed(np.array([0.0, 3.0, 6.0, 0.0]), 3), [1.5, 3.0, 3.0, 3.0])
    values = np.array([4.0, 1.0, 9.0])
    np.testing.assert_allclose(smoothed(values, 1), values)
    assert [window_of(count) for count in (5, 40, 400, 40_000)] == [1, 3, 11, 1001]


def test_systems_differ_by_marker() -> None:
    names = ["ours", "ours, text only", "ours, image only", "BM25", "random", "st:mini", "other.trec"]
    styles = styles_of(names)
    assert len(set(styles.values())) == len(names) == STYLES
    assert len({re.sub(r"s\d", "", marker(style, "0", "0")) for style in styles.values()}) == STYLES
    assert styles_of(["BM25", "ours"]) == {"BM25": styles["BM25"], "ours": styles["ours"]}
    assert set(styles_of([f"run {number}" for number in range(30)]).values()) == set(range(STYLES))


def inside(svg: str) -> None:
    """Asserts that all that is drawn lies in the frame."""
    for x, y in re.findall(r"(-?[\d.]+),(-?[\d.]+)", "".join(re.findall(r'points="([^"]*)"', svg))):
        assert 0 <= float(x) <= WIDTH and 0 <= float(y) <= HEIGHT
    for name, limit in (("x", WIDTH), ("y", HEIGHT)):
        for value in re.findall(rf'(?<=[ "]){name}[12]?="(-?[\d.]+)"', re.sub(r"<rect[^>]*>", "", svg)):
            assert 0 <= float(value) <= limit
    ElementTree.fromstring(svg)


@example([5e-324], False)
@example([0.0, 5e-324], True)
@given(VALUES, st.booleans())
def test_a_chart_stays_in_its_frame(values: list[float], zero: bool) -> None:
    steps = np.arange(len(values), dtype=np.float64)
    inside(draw(Plane("a <label>", "step", [Curve(steps, np.array(values))], verticals=[(1.0, "two")], zero=zero)))
    points = [Point(abs(value) + 1e-3, value, at % STYLES, "t", "l" * (at == 0)) for at, value in enumerate(values)]
    inside(draw(Plane("recall", "ms", points=points, horizontal=(0.9, "target"), x_log=True)))


def test_an_interval_is_drawn_where_it_is_and_written_beside() -> None:
    line = Line('BM25 "<b>"', Interval(-0.25, -0.5, 0.0), 3, hollow=True)
    drawn = forest([Group([line], "<b>head</b>")], "nDCG@10", signed=True, scale=Scale(-1.0, 1.0))
    assert 'x1="25.00%" x2="50.00%"' in drawn and 'x="37.50%"' in drawn
    assert "<b>\u22120.250</b>" in drawn and "\u22120.500 to +0.000" in drawn
    assert 'aria-label="BM25 &quot;&lt;b&gt;&quot;: \u22120.250, from \u22120.500 to +0.000"' in drawn
    assert "<b>head</b>" in drawn and "class=hollow" in drawn
    assert forest([Group([])], "nothing") == ""


def test_bars_point_to_their_side() -> None:
    drawn = bars([("kinds", [Bar("a", 0.5, "+0.5"), Bar("b", -0.5, "-0.5", open=True)])], ("", "", ""))
    above, below = re.findall(r'<rect class="(\w+)( open)?" x="([\d.]+)%" width="([\d.]+)%"', drawn)
    assert above[:2] == ("above", "") and below[:2] == ("below", " open")
    assert float(below[2]) + float(below[3]) == pytest.approx(float(above[2]))
    assert bars([], ("", "", "")) == ""
    halves = shares([("a", "3 products", (0.75, 0.25))], ("title", "image"), "category")
    assert 'class="part1" x="75.00%" width="25.00%"' in halves and "title 0.750, image 0.250" in halves
