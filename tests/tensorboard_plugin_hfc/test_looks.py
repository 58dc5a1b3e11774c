"""How lines are drawn: styles, smoothing, thinning, axes, legend, size."""

import itertools

import numpy as np
import pytest
from torch.utils.tensorboard import SummaryWriter

from hfc_probe.core import event_file

from .conftest import tensorboard_server
from .runs import RunWriter, accuracy_result, heatmap_result
from .test_browser import CURVES, PICTURE, download, rows_of, served

STYLES = """async ([taken, dark]) => {
  const { DARK, LIGHT, runStyle } = await import('./static/charts/colors.js');
  return taken.map((number) => runStyle(number, dark ? DARK : LIGHT));
}"""


def lightness(colour: str) -> float:
    """L* of an sRGB colour: what is left of it in grey, and with any colour vision."""
    share = np.array([int(colour[k : k + 2], 16) for k in (1, 3, 5)]) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    return float(116 * np.cbrt(linear @ [0.2126, 0.7152, 0.0722]) - 16)


@pytest.mark.parametrize("dark", [False, True])
def test_twenty_runs_differ_in_shape_or_lightness(tab, server, dark):
    tab.open(server, CURVES)
    styles = tab.run(STYLES, [list(range(20)), dark])
    for one, two in itertools.combinations(styles, 2):
        apart = abs(lightness(one["color"]) - lightness(two["color"]))
        assert one["shape"] != two["shape"] or apart > 8


SERIES = """async ([xs, ys, weight]) => {
  const { smoothed, thinned } = await import('./static/charts/series.js');
  const numbers = ys.map((y) => y ?? NaN);
  return [smoothed(numbers, weight), thinned(xs, numbers, (x) => x / 10)];
}"""


def test_smoothing_is_tensorboards_and_thinning_keeps_what_is_seen(tab, server):
    tab.open(server, CURVES)
    ys = [1.0, 3.0, 2.0, *np.sin(np.arange(97)).tolist()]
    ys[41], ys[77], ys[50] = 9.0, -9.0, None
    smooth, kept = tab.run(SERIES, [list(range(100)), ys, 0.5])
    assert smooth[:3] == pytest.approx([1, (0.5 * 1 + 3) / 1.5, (0.25 * 1 + 0.5 * 3 + 2) / 1.75])
    assert {41, 77, 50, 0, 99} <= set(kept)  # both spikes, the gap and the ends
    assert kept == sorted(set(kept))
    assert len(kept) <= 4 * 10 + 6
    for column in range(10):
        own = [ys[k] for k in range(10 * column, 10 * column + 10) if ys[k] is not None]
        shown = [ys[k] for k in kept if k // 10 == column and ys[k] is not None]
        assert (min(shown), max(shown)) == (min(own), max(own))


ZOOMED = """async ([log, to]) => {
  const { lines } = await import('./static/charts/lines.js');
  const memory = { log: { x: log, y: false }, zoom: [-0.02, to] };
  const series = [{ name: 'a', x: [0, 1, 2, 3, 4], y: [1, 2, 3, 4, 5] }];
  const plot = lines({ title: 't', panels: [{ series }], xLabel: 'epoch', yLabel: 'y' }, memory);
  return [60, 570].map((left) => plot.probe(left, 100, 600)?.at ?? null);
}"""


def test_a_zoom_to_0_shows_what_a_logarithmic_axis_can(tab, server):
    tab.open(server, CURVES)
    assert tab.run(ZOOMED, [False, 3.0]) == [0, 3]
    assert tab.run(ZOOMED, [True, 3.0]) == [1, 3]
    assert tab.run(ZOOMED, [True, 0.5]) == [1, 4]  # nothing is left of it: all


@pytest.fixture(scope="module")
def address(environment, tmp_path_factory):
    """Three trainings and their maps, of which the third gets nothing from HFC."""
    place = tmp_path_factory.mktemp("three")
    for name, high, strength in (("one", 0.8, 0.8), ("two", 0.5, 0.8), ("base", 0.2, 0.0)):
        with SummaryWriter(str(place / name)) as writer:
            for step in (1, 2, 4):
                event_file._log_tensors(accuracy_result([0.5] * 4, [high] * 4), writer, step)
                event_file._log_tensors(heatmap_result(8, (0, 2), strength), writer, step)
                writer.add_scalar("hfc_cost/share", 0.01 * step, step)
    with tensorboard_server(environment, place) as found:
        yield found


ALL = "p.hfc.all=1&p.hfc.b=base"


def test_every_run_against_the_baseline_in_words_and_maps(tab, address):
    tab.open(address, f"{CURVES}&{ALL}")
    said = tab.find(".verdict").all_inner_texts()
    assert len(said) == 2
    assert said[0].startswith("one uses more of the high frequencies: at step 4 it gets 80 %")
    assert all("base 20 % [16, 24]" in one for one in said)
    row = tab.find("main tr", has_text="one").inner_text().split("\t")
    assert row[5].startswith("+60.0 [+5")  # HFC(4)
    assert "Against the baseline base at step 4" in tab.text()
    tab.open(address, f"p.hfc.view=heatmap&{ALL}")
    panels = {row["panel"]: float(row["value"]) for row in rows_of(download(tab, "heatmap", "CSV"))}
    assert list(panels) == ["baseline base", "one", "two", "one − baseline", "two − baseline"]
    assert panels["one − baseline"] == pytest.approx(panels["one"] - panels["baseline base"])
    tab.open(address, ALL)
    said = tab.find(".words .verdict").all_inner_texts()
    assert [("one gets 80 %" in text, "two gets 50 %" in text) for text in said] == [
        (True, False),
        (False, True),
    ]
    assert all("base 20 % [16, 24]" in text for text in said)


def test_the_legend_hides_lines_by_mouse_and_keyboard(tab, address):
    tab.open(address, f"{CURVES}&p.hfc.mode=runs")
    entry = tab.plot("curves").locator(".entry[aria-label='two']")
    entry.press("Enter")
    assert entry.get_attribute("aria-pressed") == "false"
    assert tab.run("() => document.activeElement.ariaLabel") == "two"
    lines = {row["line"] for row in rows_of(download(tab, "curves", "CSV"))}
    assert lines == {"one", "base"}
    entry.click()
    lines = {row["line"] for row in rows_of(download(tab, "curves", "CSV"))}
    assert lines == {"one", "two", "base"}


def test_smoothed_lines_tell_what_was_measured_as_well(tab, address):
    tab.open(address, "p.hfc.view=cost&p.hfc.smooth=0.5")
    rows = [row for row in rows_of(download(tab, "cost_share", "CSV")) if row["line"] == "one"]
    assert [float(row["share (%)"]) for row in rows] == pytest.approx([1, 2, 4], rel=1e-4)
    expected = [1, (0.5 + 2) / 1.5, (0.25 + 1 + 4) / 1.75]
    assert [float(row["smoothed"]) for row in rows] == pytest.approx(expected, rel=1e-4)


def test_a_logarithmic_axis_says_what_it_cannot_show(tab, environment, tmp_path):
    with SummaryWriter(str(tmp_path / "run")) as writer:
        for step in (0, 10, 100):
            event_file._log_tensors(accuracy_result([0.5] * 4, [0.2] * 4), writer, step)
    words = []
    tab.page.expose_function("drawn", lambda text: words.append(text))
    with served(tab, environment, tmp_path) as found:
        tab.open(found, CURVES)
        tab.page.evaluate(
            "() => { const { fillText } = CanvasRenderingContext2D.prototype;"
            "CanvasRenderingContext2D.prototype.fillText = function (text, ...at) {"
            "window.drawn(text); return fillText.call(this, text, ...at); }; }"
        )
        tab.plot("curves").get_by_role("button", name="Log x").click()
        tab.page.wait_for_timeout(200)
    assert {"10", "100", "step, logarithmic", "9 points at 0 or below not drawn"} <= set(words)


def test_a_card_fills_the_page_until_escape(tab, server):
    tab.open(server, f"{CURVES}&p.hfc.mode=radius")
    canvas = tab.plot("curves").locator("canvas")
    before = canvas.bounding_box()
    tab.plot("curves").get_by_role("button", name="Enlarge").click()
    large = canvas.bounding_box()
    size = tab.page.viewport_size
    assert large["width"] > 0.95 * size["width"]
    assert 0.8 * size["height"] < large["height"] < size["height"]
    tab.page.keyboard.press("Escape")
    tab.page.wait_for_timeout(100)
    assert canvas.bounding_box() == before
    assert tab.run("() => document.activeElement.textContent") == "Enlarge"


def test_the_slider_moves_over_the_picture_that_is_there(tab, server):
    tab.open(server, CURVES)
    canvas = tab.plot("curves").locator("canvas")
    tab.press("Home")
    first = canvas.evaluate(PICTURE)
    tab.press("End")
    assert canvas.evaluate(PICTURE) != first
    tab.press("Home")
    assert canvas.evaluate(PICTURE) == first


def test_pictures_enlarge_and_go_by_arrows(tab, environment, tmp_path):
    run = RunWriter(tmp_path / "run", uses_hfc=True, parts=("curves",))
    run.step(1, 2)
    for name in ("a", "b"):
        run.writer.add_image(f"hfc_examples/{name}", np.zeros((3, 20, 30), np.uint8), 20)
    run.close()
    with served(tab, environment, tmp_path) as found:
        tab.open(found, "p.hfc.view=examples")
        tab.find(".picture a").first.click()
        shown = tab.find("dialog img")
        assert shown.bounding_box()["width"] > 0.9 * tab.page.viewport_size["width"]
        assert "(1 of 2)" in tab.find("dialog").inner_text()
        tab.page.keyboard.press("ArrowRight")
        assert "(2 of 2)" in tab.find("dialog").inner_text()
        tab.page.keyboard.press("Escape")
        tab.find("dialog").wait_for(state="detached")
