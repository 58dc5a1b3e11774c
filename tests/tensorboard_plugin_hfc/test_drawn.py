"""What is drawn on a plot: its words and marks, at their places on the canvas."""

import pytest

from .conftest import tensorboard_server
from .test_comparing import accuracies

# Remembers what is drawn since the canvas was painted last, in pixels of the page.
REMEMBER = """() => {
  const drawing = CanvasRenderingContext2D.prototype;
  const { arc, fillText, setTransform } = drawing;
  drawing.setTransform = function (...all) {
    this.canvas.drawn = { texts: [], dots: [] };
    return setTransform.apply(this, all);
  };
  drawing.arc = function (x, y, ...rest) {
    this.canvas.drawn?.dots.push([x, y]);
    return arc.call(this, x, y, ...rest);
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
