"""What is drawn on a plot: its words and marks, at their places on the canvas."""

import itertools

import pytest
from torch.utils.tensorboard import SummaryWriter

from hfc_probe.core import event_file

from .conftest import tensorboard_server
from .runs import heatmap_result, kernel_result
from .test_comparing import N, accuracies

# Remembers what is drawn since the canvas was painted last, in pixels of the page.
REMEMBER = """() => {
  const drawing = CanvasRenderingContext2D.prototype;
  const { fill, fillRect, fillText, setTransform } = drawing;
  drawing.setTransform = function (...all) {
    this.canvas.drawn = { texts: [], dots: [], rects: [] };
    return setTransform.apply(this, all);
  };
  drawing.fill = function (...all) {
    const { e, f } = this.getTransform();
    if (all[0] instanceof Path2D) this.canvas.drawn?.dots.push([e, f]);
    return fill.apply(this, all);
  };
  drawing.fillRect = function (...box) {
    this.canvas.drawn?.rects.push([...box, this.fillStyle]);
    return fillRect.apply(this, box);
  };
  drawing.fillText = function (text, x, y) {
    const size = this.measureText(text);
    const ends = [
      [x - size.actualBoundingBoxLeft, y - size.actualBoundingBoxAscent],
      [x + size.actualBoundingBoxRight, y + size.actualBoundingBoxDescent],
    ].map(([x, y]) => this.getTransform().transformPoint({ x, y }));
    const [xs, ys] = ['x', 'y'].map((key) => ends.map((end) => end[key]).sort((a, b) => a - b));
    this.canvas.drawn?.texts.push({ text, x: xs, y: ys });
    return fillText.call(this, text, x, y);
  };
}"""


@pytest.fixture
def drawn(tab):
    """Opens a page; gives what is drawn on a plot."""
    tab.page.add_init_script(f"({REMEMBER})()")

    def show(address, state, plot):
        tab.open(address, state)
        return tab.plot(plot).locator("canvas").evaluate("canvas => canvas.drawn")

    return show


def colour(tab, plot, x, y):
    """The colour of a plot's pixel as three numbers."""
    script = "(canvas, at) => [...canvas.getContext('2d').getImageData(...at, 1, 1).data]"
    found = tab.plot(plot).locator("canvas").evaluate(script, [round(x), round(y)])
    return tuple(found[:3])


HIGH = 100


@pytest.fixture(scope="module")
def perfect(environment, tmp_path_factory):
    """A run that gets all original images right."""
    place = tmp_path_factory.mktemp("perfect")
    accuracies(place / "run", HIGH, original=N)
    with tensorboard_server(environment, place) as found:
        yield found


@pytest.fixture(scope="module")
def address(environment, tmp_path_factory):
    """Two trainings and an audit, a run of one step."""
    place = tmp_path_factory.mktemp("drawn")
    accuracies(place / "audit", HIGH, steps=[0], settings={"topk": [5]})
    for name in ("one", "two"):
        accuracies(place / name, HIGH, steps=[16, 48], settings={"topk": [5]})
    with tensorboard_server(environment, place) as found:
        yield found


def test_one_step_has_hollow_marks_for_hfc_and_bars_for_intervals(tab, drawn, address):
    runs = 'p.hfc.runs=["audit","one"]'
    found = drawn(address, f"p.hfc.view=curves&p.hfc.mode=training&{runs}", "curves")
    legend, dots = found["dots"][:2], found["dots"][2:]
    (x, low), (same, high), original = dots  # of the audit alone: the other run is a line
    assert x == same == original[0]
    assert low < high  # LFC is right more often
    names = {one["text"]: one["y"] for one in found["texts"]}
    for (_, y), name in zip(legend, ("LFC, d ≤ r", "HFC, d > r (zero background)"), strict=True):
        assert names[name][0] < y < names[name][1]
    page = colour(tab, "curves", 5, 5)
    ink = colour(tab, "curves", x, low)
    assert ink != page
    assert colour(tab, "curves", x, high) == page
    for y in (low, high):  # the intervals reach over the marks on both sides
        for away in (-7, 7):
            assert colour(tab, "curves", x, y + away) != page
    assert colour(tab, "curves", x + 8, low) == page


def test_the_original_has_its_name_inside_the_plot(drawn, perfect):
    texts = {one["text"]: one["y"] for one in drawn(perfect, "", "overview_curve")["texts"]}
    (top, bottom), tick = texts["original"], texts["1"]
    assert top > sum(tick) / 2  # below the line at 1, which is the plot's edge
    assert bottom < texts["0.8"][0]


def test_the_title_says_what_the_legend_does_not(drawn, address):
    state = "p.hfc.view=curves&p.hfc.mode=radius&p.hfc.runs="
    texts = [one["text"] for one in drawn(address, f'{state}["one","two"]', "curves")["texts"]]
    assert texts[:3] == ["Accuracy against radius at step 48, top 5", "one", "two"]
    assert texts[3:5] == ["LFC, d ≤ r", "HFC, d > r (zero background)"]
    texts = [one["text"] for one in drawn(address, f'{state}["audit","two"]', "curves")["texts"]]
    assert texts[:3] == [
        "Accuracy against radius, top 5",
        "audit, step 0, its last",
        "two, step 48",
    ]


@pytest.fixture(scope="module")
def maps(environment, tmp_path_factory):
    """Two runs of heatmaps, and two of kernels that were measured at other steps."""
    place = tmp_path_factory.mktemp("maps")
    for name, strength in (("peak", 0.12), ("flat", 0.0)):
        with SummaryWriter(str(place / name)) as writer:
            event_file._log_tensors(heatmap_result(16, (0, 4), strength), writer, 1)
    for name, steps in (("inner", (20, 40)), ("outer", (0, 80)), ("lone", (60,))):
        with SummaryWriter(str(place / name)) as writer:
            for step in steps:
                event_file._log_tensors(kernel_result(4, 0.3, 0), writer, step)
    with tensorboard_server(environment, place) as found:
        yield found


def overlaps(texts):
    def common(one, two, axis):
        return one[axis][0] < two[axis][1] and two[axis][0] < one[axis][1]

    pairs = itertools.combinations(texts, 2)
    return [
        (one["text"], two["text"])
        for one, two in pairs
        if common(one, two, "x") and common(one, two, "y")
    ]


def test_no_words_of_a_heatmap_cover_others_or_lines(drawn, maps):
    state = "p.hfc.view=heatmap&p.hfc.a=peak&p.hfc.b=flat"
    texts = drawn(maps, state, "heatmap")["texts"]
    assert {"−0.05", "difference of error rate"} <= {one["text"] for one in texts}
    assert overlaps(texts) == []
    texts = drawn(maps, state, "heatmap_radial")["texts"]
    assert overlaps(texts) == []
    bottom = min(one["y"][0] for one in texts if one["text"] == "distance from DC (cycles/image)")
    inside = [one for one in texts if 60 < one["y"][0] < bottom - 20 and one["x"][0] > 60]
    assert inside == []
    names = [one["text"] for one in texts]
    assert names[1:4] == ["A: peak", "B: flat", "without noise"]


def test_maps_on_the_overview_have_one_scale(drawn, maps):
    for run in ("peak", "flat"):  # errors of 0.1 to 0.22, and of 0.1
        found = drawn(maps, f'p.hfc.view=overview&p.hfc.runs=["{run}"]', "overview_heatmap")
        texts = [one["text"] for one in found["texts"]]
        *bar, unit = texts[texts.index("i (cycles/image)") + 1 :]
        assert (bar[0], bar[-1], unit) == ("0", "1", "error rate")


SHADE = "#56b4e9"


def test_shade_is_where_kernels_were_measured(drawn, maps):
    def shade(a, b):
        """The shaded range of run A's panel, and where its steps are."""
        found = drawn(maps, f"p.hfc.view=kernels&p.hfc.a={a}&p.hfc.b={b}", "kernel_smoothness")
        ticks = {}
        for one in found["texts"]:
            ticks.setdefault(one["text"], sum(one["x"]) / 2)
        middle = ticks["80"] + 5
        own = [(x, x + w) for x, _, w, _, fill in found["rects"] if fill == SHADE and x < middle]
        return min(x for x, _ in own), max(x for _, x in own), ticks

    left, right, ticks = shade("inner", "outer")
    assert (left, right) == (pytest.approx(ticks["20"], abs=1), pytest.approx(ticks["40"], abs=1))
    left, right, ticks = shade("lone", "outer")
    assert (left, right) == (
        pytest.approx(ticks["60"] - 4, abs=1),
        pytest.approx(ticks["60"] + 4, abs=1),
    )
