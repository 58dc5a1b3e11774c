"""A page speaks of one place in training and says which, whatever the runs' lengths."""

import io
import json
import re
import urllib.parse

import numpy as np
import pytest
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from hfc_probe import ComponentExamples
from hfc_probe.core import event_file
from hfc_probe.core.intervals import square_and_add

from ..measurements.test_component_examples import ReadsOneWave, waves
from .conftest import tensorboard_server
from .runs import heatmap_result, write_run
from .test_browser import CURVES, download, rows_of, served
from .test_comparing import accuracies, detections


@pytest.fixture(scope="module")
def address(environment, tmp_path_factory):
    """``long`` has 8 epochs of 20 steps, ``short`` 6 epochs of 50."""
    place = tmp_path_factory.mktemp("lengths")
    write_run(place / "long", 8, uses_hfc=True)
    write_run(place / "short", 6, uses_hfc=False, per_epoch=50)
    with tensorboard_server(environment, place) as found:
        yield found


RADIUS = "radius r (cycles/image)"


def label(tab, plot):
    return tab.plot(plot).locator("canvas").get_attribute("aria-label")


def slider(tab):
    return tab.find(".stepper output").inner_text()


def test_chart_table_and_sentence_are_of_one_epoch(tab, address):
    tab.open(address, "p.hfc.view=curves&p.hfc.mode=radius&p.hfc.step=80")
    assert slider(tab) == "epoch 4 (long: step 80; short: step 200)"
    assert "against radius at epoch 4 (long: step 80; short: step 200)" in label(tab, "curves")
    assert "at epoch 4 " in tab.find(".verdict").inner_text()
    assert (
        tab.find("summary", has_text="Run A against")
        .inner_text()
        .endswith("at epoch 4, in numbers")
    )
    chart = rows_of(download(tab, "curves", "CSV"))
    cells = tab.find("tbody tr", has_text="HFC(4)").inner_text().split("\t")
    for run, cell in zip(("long", "short"), cells[1:3], strict=True):
        (row,) = (r for r in chart if r["line"] == f"HFC {run}" and float(r[RADIUS]) == 4)
        assert f"{100 * float(row['accuracy']):.1f} %" in cell
    tab.press("ArrowLeft")
    tab.find(".verdict", has_text="at epoch 3").wait_for()
    tab.open(address, "p.hfc.view=curves&p.hfc.step=40")  # over training: the same place, marked
    assert "At epoch 2" in tab.find(".verdict").inner_text()


def test_a_run_that_has_ended_is_said_to_be_at_its_last_step(tab, address):
    tab.open(address, "p.hfc.view=curves&p.hfc.mode=radius")
    assert slider(tab) == "epoch 6 (long: step 120; short: step 300)"  # the last that both have
    tab.press("End")
    ended = "long: step 160 (epoch 8); short: step 300 (epoch 6), its last"
    tab.find(".stepper output", has_text=ended).wait_for()
    assert ended in label(tab, "curves")
    assert "at epoch 6" in tab.find(".verdict").inner_text()
    tab.open(address, "p.hfc.view=heatmap&p.hfc.step=100")
    assert "A: long, step 100 (epoch 5); B: short, step 250 (epoch 5)" in label(tab, "heatmap")
    tab.open(address, "p.hfc.view=kernels&p.hfc.step=160")
    assert "short, kernels, step 300 (epoch 6), its last" in label(tab, "kernels")


def test_the_slider_starts_where_the_series_has_begun(tab, environment, tmp_path):
    """An audit at step 0 ends before a training begins: there is no place that both have."""
    accuracies(tmp_path / "audit", 200, steps=[0])
    accuracies(tmp_path / "training", 150, steps=[16, 48])
    with served(tab, environment, tmp_path) as address:
        tab.open(address, "p.hfc.view=curves&p.hfc.mode=radius&p.hfc.a=training&p.hfc.b=audit")
        assert slider(tab) == "audit: step 0, its last; training: step 48"
        assert "nothing yet" not in tab.text()


def test_example_pictures_are_enlarged_and_say_what_each_row_shows(tab, environment, tmp_path):
    result = ComponentExamples(radii=(3,)).measure(ReadsOneWave(0, 6), waves(0, 6, [1.0, -1.0] * 3))
    for name, steps in (("short", [3]), ("long", [3, 9])):
        with SummaryWriter(str(tmp_path / name)) as writer:
            for step in steps:
                event_file.log(result, writer, step)
    with served(tab, environment, tmp_path) as address:
        tab.open(address, "p.hfc.view=examples")
        assert tab.find("figcaption").all_inner_texts() == [
            "long: Examples, r = 3 cycles/image, step 9",
            "short: Examples, r = 3 cycles/image, logged at step 3, none since",
        ]
        rows = tab.find(".rows").first
        assert rows.inner_text().split("\n") == ["original", "LFC(3)", "HFC(3)"]
        image = rows.locator("img")
        image.scroll_into_view_if_needed()
        tab.page.wait_for_function("document.querySelector('.picture img').style.width")
        small, shown, how = image.evaluate(
            "img => [img.naturalWidth, img.width, getComputedStyle(img).imageRendering]"
        )
        assert (shown % small, how) == (0, "pixelated")
        assert shown > 200 > small
        centres = [one.bounding_box() for one in rows.locator("span").all()]
        box = image.bounding_box()
        for k, one in enumerate(centres):  # each name beside its row
            centre = one["y"] + one["height"] / 2 - box["y"]
            assert centre == pytest.approx((k + 0.5) * box["height"] / 3, abs=4)


def looks(tab):
    chips = tab.find("li").evaluate_all(
        "items => items.map(item => [item.title, item.querySelector('.chip').innerHTML,"
        "[...item.querySelectorAll('.letter')].map(one => one.ariaPressed).join()])"
    )
    return {name: (color, letters) for name, color, letters in chips}


def test_a_new_run_changes_no_colour_and_neither_letter(tab, environment, tmp_path):
    for name, uses in (("m", True), ("n", False)):
        write_run(tmp_path / name, 4, uses_hfc=uses, parts=("curves",))
    with served(tab, environment, tmp_path) as address:
        tab.open(address, CURVES)
        before, verdict = looks(tab), tab.find(".verdict").inner_text()
        assert [letters for _, letters in before.values()] == ["true,false", "false,true"]
        assert len({color for color, _ in before.values()}) == 2
        write_run(tmp_path / "a", 4, uses_hfc=False, parts=("curves",))
        for _ in range(100):
            tab.find("button", has_text="Refresh").click()
            tab.page.wait_for_timeout(200)
            if tab.find('[data-run="a"]').count():
                break
        tab.ready()
        after = looks(tab)
        assert {name: after[name] for name in before} == before
        assert after["a"][1] == "false,false"
        assert after["a"][0] not in {color for color, _ in before.values()}
        assert tab.find(".verdict").inner_text() == verdict
        assert verdict.startswith("m uses more")


def test_a_heatmap_says_how_it_was_made_and_greys_out_what_does_not_differ(
    tab, environment, tmp_path
):
    found = {}
    for name, peak, seed in (("peak", 0.6, 0), ("flat", 0.0, 1), ("like", 0.0, 2)):
        result = found[name] = heatmap_result(8, (0, 2), peak)
        noise = 0.01 * np.random.default_rng(seed).standard_normal((8, 8))
        object.__setattr__(result, "error", result.error + noise)
        with SummaryWriter(str(tmp_path / name)) as writer:
            event_file._log_tensors(result, writer, 1)
    one, two = ([r.error, r.lower, r.upper] for r in (found["peak"], found["flat"]))
    low, high = square_and_add(*one, *two)
    clear = int(((low > 0) | (high < 0)).sum())
    assert 0 < clear < 64
    with served(tab, environment, tmp_path) as address:

        def grey(a):
            tab.open(address, f"p.hfc.view=heatmap&p.hfc.a={a}&p.hfc.b=flat")
            shot = Image.open(io.BytesIO(tab.plot("heatmap").locator("canvas").screenshot()))
            return int((np.asarray(shot.convert("RGB")) == 128).all(2).sum())

        whole = grey("like")  # two models of equal error, and noise
        assert grey("peak") / whole == pytest.approx(1 - clear / 64, abs=0.02)
        said = label(tab, "heatmap")
        assert "norm 4, exhaustive estimator, 200 images, 200 passes" in said
        assert "A − B, grey: no clear difference" in said


def test_detections_say_background_and_images_and_warn_of_different_ones(
    tab, environment, tmp_path
):
    detections(tmp_path / "many", images=30)
    detections(tmp_path / "few", images=15)
    with served(tab, environment, tmp_path) as address:
        both = urllib.parse.quote(json.dumps(["many"]))
        tab.open(address, f"p.hfc.view=detections&p.hfc.runs={both}")
        assert label(tab, "detection_ap") == (
            "AP against radius at step 1, 30 images, HFC on zero background"
        )
        assert "Measured differently" not in tab.text()
        tab.open(address, "p.hfc.view=detections")
        text = tab.text()
        warned = "not to be compared: few and many: 15 images against 30 images"
        assert warned in text
        assert re.search("not to be compared.*AP, and its change", text, re.DOTALL)
