"""The tab as a user has it: in Chromium, in TensorBoard, without a single error on the console."""

import csv
import io
import json
import shutil
import urllib.parse
from contextlib import contextmanager

import numpy as np
import pytest
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import SummaryWriter

from hfc_probe.core import event_file
from hfc_probe.core.labels import Label, accuracy_label

from .conftest import EPOCHS, Tab, tensorboard_server
from .runs import RunWriter, accuracy_result, heatmap_result, kernel_result, write_run
from .test_plugin import PAIR, hfc_value, write_values

CURVES = "p.hfc.view=curves"
PICTURE = "canvas => canvas.toDataURL()"


@contextmanager
def served(tab: Tab, environment, log_dir, *flags):
    """A server that the page leaves before it ends."""
    with tensorboard_server(environment, log_dir, *flags) as address:
        yield address
        tab.page.goto("about:blank")


def state_of(tab: Tab) -> dict[str, str]:
    """What the address says of our state; it is written a moment after a change."""
    tab.page.wait_for_timeout(250)
    parts = urllib.parse.urlsplit(tab.page.url).fragment.split("&")
    assert parts[0] == "hfc"
    pairs = [part.split("=", 1) for part in parts[1:]]
    return {key.removeprefix("p.hfc."): urllib.parse.unquote(value) for key, value in pairs}


def hover(tab: Tab, plot: str, x: float, y: float) -> str:
    """The tip at a place of a plot, in shares of its width and pixels from its top."""
    canvas = tab.plot(plot).locator("canvas")
    canvas.scroll_into_view_if_needed()
    canvas.hover(position={"x": x * canvas.bounding_box()["width"], "y": y})
    tip = tab.plot(plot).locator(".tip")
    tip.wait_for()
    return tip.inner_text()


def download(tab: Tab, plot: str, kind: str) -> bytes:
    with tab.page.expect_download() as waiting:
        tab.plot(plot).get_by_role("button", name=kind).click()
    return open(waiting.value.path(), "rb").read()


def rows_of(data: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(data.decode())))


def test_says_at_once_which_run_uses_more_hfc_where_and_since_when(tab, server):
    tab.open(server, CURVES)
    verdict = tab.find(".verdict").inner_text()
    # Planted: 60 % against 12.5 % at r = 4, and apart from epoch 3 on, when the rise begins.
    assert verdict.startswith("rough uses more of the high frequencies: at epoch 12 it gets 60 %")
    assert "HFC(4)" in verdict
    assert "smooth 13 % [10, 16]" in verdict
    assert "since epoch 3." in verdict
    # 20 % [16, 24] against 10 % [7, 13] at r = 12 is apart; 12.5 % against 10 % at r = 16 is not.
    assert "The same way round at radius 8, 12." in verdict


def test_curves_tell_values_intervals_and_counts_under_the_mouse(tab, server):
    tab.open(server, CURVES)
    tip = hover(tab, "curves", 0.45, 200)
    assert "rough" in tip
    assert "epoch" in tip
    assert "of 400 images" in tip
    assert "HFC(4)" in tip
    tab.find('button[data-value="radius"]').click()
    tab.ready()
    assert "r = 16" in hover(tab, "curves", 0.97, 200)


def test_curves_export_what_was_logged(tab, server):
    rows = rows_of(download(tab.open(server, CURVES), "curves", "CSV"))
    chosen = [row for row in rows if (row["panel"], row["line"]) == ("rough", "HFC(4)")]
    assert [float(row["epoch"]) for row in chosen] == list(range(1, EPOCHS + 1))
    expected = accuracy_result([0.3] * 4, [0.6, 0.4, 0.2, 0.125]).arrays()
    last = chosen[-1]
    for name, key in (("accuracy", "hfc"), ("lower", "hfc_lower"), ("upper", "hfc_upper")):
        assert float(last[name]) == pytest.approx(expected[key][0], abs=1e-6)
    assert float(last["count"]) == 400


def test_choosing_runs(tab, server):
    tab.open(server, CURVES)
    tab.find('[data-run="smooth"]').uncheck()
    tab.ready()
    assert "Runs (1 of 2)" in tab.text()
    assert json.loads(state_of(tab)["runs"]) == ["rough"]
    assert {row["panel"] for row in rows_of(download(tab, "curves", "CSV"))} == {"rough"}
    tab.find("aside").get_by_role("button", name="None").click()
    tab.ready()
    assert "None of the chosen runs" in tab.text()


def test_letters_choose_what_is_compared(tab, server):
    tab.open(server, "p.hfc.view=heatmap")
    tab.find('li:has([data-run="smooth"]) .letter').first.click()
    tab.ready()
    assert (state_of(tab)["a"], state_of(tab)["b"]) == ("smooth", "rough")


def test_heatmap_shows_both_runs_and_their_difference(tab, server):
    tab.open(server, "p.hfc.view=heatmap")
    rows = rows_of(download(tab, "heatmap", "CSV"))
    maps = {}
    for row in rows:
        maps.setdefault(row["panel"][:5], {})[int(row["i"]), int(row["j"])] = float(row["value"])
    rough = heatmap_result(16, (0, 4), 0.7).arrays()["error"]
    smooth = heatmap_result(16, (2, 0), 0.7).arrays()["error"]
    for (i, j), value in maps["A − B"].items():
        assert maps["A: ro"][i, j] == pytest.approx(rough[i + 8, j + 8], abs=1e-6)
        assert maps["B: sm"][i, j] == pytest.approx(smooth[i + 8, j + 8], abs=1e-6)
        assert value == pytest.approx(rough[i + 8, j + 8] - smooth[i + 8, j + 8], abs=1e-6)


def test_heatmap_tells_frequency_error_interval_and_count_under_the_mouse(tab, server):
    tab.open(server, "p.hfc.view=heatmap")
    tab.page.wait_for_timeout(600)  # intervals come after the picture
    tip = hover(tab, "heatmap", 0.15, 180)
    assert "cycles/image" in tip
    assert "i = " in tip
    assert "of 200 images" in tip
    assert "[" in tip
    assert "points" in hover(tab, "heatmap", 0.83, 180)


def test_steps_by_slider_keys_and_play(tab, server):
    tab.open(server, "p.hfc.view=heatmap")
    output = tab.find(".stepper output")
    canvas = tab.plot("heatmap").locator("canvas")
    assert output.inner_text() == "step 240 (epoch 12)"
    last = canvas.evaluate(PICTURE)
    tab.press("ArrowLeft")
    assert output.inner_text() == "step 220 (epoch 11)"
    assert canvas.evaluate(PICTURE) != last
    assert state_of(tab)["step"] == "220"
    tab.press("ArrowRight")
    assert canvas.evaluate(PICTURE) == last
    assert "step" not in state_of(tab)  # the last step: goes on following
    tab.find(".stepper input").fill("2")
    assert output.inner_text() == "step 60 (epoch 3)"
    tab.find(".stepper").get_by_role("button", name="Play").click()
    tab.find(".stepper output", has_text="step 240").wait_for()


def test_one_colour_scale_or_one_each(tab, server):
    tab.open(server, "p.hfc.view=heatmap&p.hfc.step=20")
    canvas = tab.plot("heatmap").locator("canvas")
    common = canvas.evaluate(PICTURE)
    tab.find(".toggle", has_text="Common scale").locator("input").uncheck()
    tab.ready()
    assert canvas.evaluate(PICTURE) != common
    assert state_of(tab)["common"] == "0"


def test_a_cell_clicked_shows_its_history(tab, server):
    tab.open(server, "p.hfc.view=heatmap")
    assert tab.plot("heatmap_history").is_hidden()
    canvas = tab.plot("heatmap").locator("canvas")
    canvas.click(position={"x": 0.15 * canvas.bounding_box()["width"], "y": 180})
    tab.ready()
    tab.plot("heatmap_history").wait_for()
    i, j = map(int, state_of(tab)["cells"].split(","))
    rows = rows_of(download(tab, "heatmap_history", "CSV"))
    own = [row for row in rows if row["line"] == f"A ({i}, {j})"]
    expected = [heatmap_result(16, (0, 4), 0.7 * e / EPOCHS).arrays() for e in range(1, EPOCHS + 1)]
    for row, arrays in zip(own, expected, strict=True):
        for name, key in (("error rate", "error"), ("lower", "lower"), ("upper", "upper")):
            assert float(row[name]) == pytest.approx(arrays[key][i + 8, j + 8], abs=1e-6)


def test_kernels_of_two_runs_sorted_with_the_one_clicked(tab, server):
    tab.open(server, "p.hfc.view=kernels")
    smoothness = [float(row["smoothness"]) for row in rows_of(download(tab, "kernels", "CSV"))]
    assert len(smoothness) == 32
    for run in (smoothness[:16], smoothness[16:]):
        assert run == sorted(run, reverse=True)
    assert tab.plot("kernel_spectrum").is_hidden()
    tab.plot("kernels").locator("canvas").click(position={"x": 20, "y": 70})
    tab.ready()
    tab.plot("kernel_spectrum").wait_for()
    assert state_of(tab)["kernel"].startswith("a:")
    tip = hover(tab, "kernels", 0.02, 70)
    assert "smoothness" in tip
    assert "Kernel" in tip


def test_pictures_are_exported_on_white_at_three_times_the_size(browser, server):
    from PIL import Image

    dark = Tab(browser, color_scheme="dark")
    dark.open(server, "p.hfc.view=heatmap")
    width = dark.plot("heatmap").locator("canvas").bounding_box()["width"]
    data = download(dark, "heatmap", "PNG")
    assert dark.wrong == []
    dark.context.close()
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    assert picture.width == pytest.approx(3 * width, abs=3)
    assert picture.getpixel((2, 2)) == (255, 255, 255)
    assert len(picture.getcolors(1 << 24)) > 50


def test_a_link_brings_a_colleague_to_the_same_view(framed, server):
    state = "p.hfc.view=heatmap&p.hfc.step=100&p.hfc.cells=2%2C-3&p.hfc.a=smooth&p.hfc.b=rough"
    framed.open(server, state)
    assert framed.find(".stepper output").inner_text() == "step 100 (epoch 5)"
    framed.plot("heatmap_history").wait_for()
    assert "A: smooth" in framed.plot("heatmap").locator("canvas").get_attribute("aria-label")
    framed.press("ArrowRight")
    found = state_of(framed)
    assert (found["step"], found["cells"], found["a"]) == ("120", "2,-3", "smooth")
    # The same page, another link: pasted into the address bar, nothing is loaded anew.
    framed.page.evaluate("location.hash = '#hfc&p.hfc.view=kernels'")
    framed.ready("kernels")
    framed.page.evaluate("location.hash = '#hfc&p.hfc.view=none&p.hfc.runs={&p.hfc.step=x'")
    framed.ready("overview")


def test_digits_choose_views(tab, server):
    tab.open(server, CURVES)
    names = tab.find(".views button").all_inner_texts()
    assert names == ["Overview", "Curves", "Heatmap", "Kernels", "Cost"]  # no examples, no detector
    for digit, view in enumerate(["overview", "curves", "heatmap", "kernels", "cost"], 1):
        tab.press(str(digit))
        tab.ready(view)
    assert "What each measurement took" in tab.text()
    tab.press("6")
    tab.open(server, "p.hfc.view=detections")  # an old link
    tab.ready("detections")
    assert "None of the chosen runs has logged a detection audit" in tab.text()


def test_dark_as_tensorboard_is(framed, server):
    framed.open(server, CURVES)
    background = "() => getComputedStyle(document.body).backgroundColor"
    canvas = framed.plot("curves").locator("canvas")
    light, picture = framed.run(background), canvas.evaluate(PICTURE)
    framed.page.evaluate("document.body.classList.add('dark-mode')")
    framed.find("main").wait_for()
    framed.page.wait_for_timeout(200)
    assert framed.run(background) != light
    assert canvas.evaluate(PICTURE) != picture
    framed.page.evaluate("document.body.classList.remove('dark-mode')")
    framed.page.wait_for_timeout(200)
    assert framed.run(background) == light
    assert canvas.evaluate(PICTURE) == picture


def test_live_while_a_training_writes(framed, environment, tmp_path):
    run = RunWriter(tmp_path / "run", uses_hfc=True)
    run.step(1, 10)
    run.step(2, 10)
    with served(framed, environment, tmp_path) as address:
        framed.open(address, "p.hfc.view=heatmap")
        assert framed.find(".stepper output").inner_text() == "step 40 (epoch 2)"
        run.step(3, 10)
        framed.find("header").get_by_label("every").select_option("2")
        framed.find("#live").check()
        framed.find(".stepper output", has_text="step 60 (epoch 3)").wait_for()
        framed.find("#live").uncheck()
        run.step(4, 10)
        # TensorBoard's own reload reaches the framed by a message.
        framed.page.wait_for_timeout(1500)
        framed.page.locator("app-header-reload button").first.click()
        framed.find(".stepper output", has_text="step 80 (epoch 4)").wait_for()
    run.close()


def test_an_empty_log_directory_says_what_to_add(framed, environment, tmp_path):
    with served(framed, environment, tmp_path, "--path_prefix", "/deep/down") as address:
        framed.open(address)
        assert "hfc_probe.attach(model, val_loader, optimizer=optimizer" in framed.text()
        framed.find(".snippet button").first.click()
        run = RunWriter(tmp_path / "run", uses_hfc=True)
        run.step(1, 2)
        framed.page.wait_for_timeout(2500)
        framed.find("header").get_by_role("button", name="Refresh").click()
        framed.find('[data-plot="overview_curve"]').wait_for()
        run.close()


BAD = "<img src=x onerror=alert(1)>"


def test_damaged_logs_show_a_sentence_and_run_no_script(tab, environment, tmp_path):
    write_run(tmp_path / BAD, 3, uses_hfc=True)
    write_run(tmp_path / "fine", 3, uses_hfc=False)
    script = f"<script>alert('{BAD}')</script>"
    newer = json.dumps({"version": 7}).encode()
    nothing = np.full(2, np.nan, np.float32)
    odd = [
        hfc_value(f"{script}/hfc", np.float32([1, 2]), PAIR, content=b"\x00\x01"),
        hfc_value("newer/hfc", np.float32([1, 2]), PAIR, content=newer),
        hfc_value("frequency_accuracy/hfc", nothing, [PAIR[0] | {"unit": script}]),
        hfc_value("frequency_accuracy/lfc", np.zeros((3, 3), np.float32), PAIR),
    ]
    write_values(tmp_path / "nan", {1: odd, 2: odd})
    with SummaryWriter(str(tmp_path / "other")) as writer:
        writer.add_scalar("loss", 1.0, 1)
    (whole,) = (tmp_path / "fine").iterdir()
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / whole.name).write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with served(tab, environment, tmp_path) as address:
        for view in ("curves", "heatmap", "kernels", "cost"):
            tab.open(address, f"p.hfc.view={view}&p.hfc.a={urllib.parse.quote(BAD)}&p.hfc.b=nan")
            tab.ready(view)
            text = tab.text()
            assert "<img src=" in text  # long names have an ellipsis in the middle
            assert "series are hidden or incomplete" in text
            assert "1 more without anything from hfc_probe" in text
        tab.open(address, CURVES + "&p.hfc.mode=radius")
        tab.find(".problems summary").click()
        assert "version 7" in tab.text()
        assert script in tab.text()
        assert tab.page.evaluate("document.images.length") is not None
        assert tab.run("() => document.querySelectorAll('img, script:not([type])').length") == 0


def test_runs_without_what_a_view_shows(tab, environment, tmp_path):
    write_run(tmp_path / "curves-only", 3, uses_hfc=True, parts=("curves",))
    write_run(tmp_path / "small", 3, uses_hfc=True, size=8)
    write_run(tmp_path / "large", 3, uses_hfc=True, size=16)
    with served(tab, environment, tmp_path) as address:
        tab.open(address, "p.hfc.view=heatmap&p.hfc.a=small&p.hfc.b=large")
        label = tab.plot("heatmap").locator("canvas").get_attribute("aria-label")
        assert "A: small" in label
        assert rows_of(download(tab, "heatmap", "CSV"))[-1]["panel"].startswith("A: small")
        tab.open(address, "p.hfc.view=kernels&p.hfc.runs=[%22curves-only%22]")
        assert "curves-only: no kernels logged" in tab.text()
        tab.open(address, "p.hfc.view=heatmap&p.hfc.runs=[%22curves-only%22]")
        assert "no Fourier heatmap and no gradient sensitivity logged" in tab.text()


def test_detections_and_pictures_where_they_are_logged(tab, framed, environment, tmp_path):
    labels = [accuracy_label("original", quantity=metric) for metric in ("AP", "AP50")]
    labels += [accuracy_label("lfc", radius, quantity="AP") for radius in (64, 128)]
    labels += [accuracy_label("hfc", 128, quantity="AP")]
    labels += [Label("images that gain on LFC(128) by any margin", "count", "lfc", 128)]
    tags = {"name": "tag", "labels": [label.plain() for label in labels]}
    tags["values"] = [label.text for label in labels]
    numbers = [tags, {"name": "value", "values": ["value", "lower", "upper"]}]
    change = [{"name": "radius", "values": [64, 128]}, {"name": "metric"}]
    change[1]["values"] = ["AP", "AP50", "AP75"]
    with SummaryWriter(str(tmp_path / "detector")) as writer:
        for step, low in ((10, 0.2), (20, 0.3)):
            table = np.full((6, 3), np.nan, np.float32)
            table[:, 0] = 0.4, 0.6, low - 0.1, low, 0.1, 17
            found = {"scalars": (table, numbers)}
            for end, bound in (("lower", -0.13), ("upper", -0.04)):
                found[f"lfc_difference_{end}"] = (np.full((2, 3), bound, np.float32), change)
            for array, (values, axes) in found.items():
                what = {"version": 1, "measurement": "detection_audit", "unit": "AP"}
                what |= {"array": array, "axes": axes, "samples": 25}
                content = json.dumps(what | {"settings": {"hfc_background": "mean"}}).encode()
                value = hfc_value(f"detection_audit/{array}", values, [], content=content)
                writer._get_file_writer().add_summary(Summary(value=[value]), step)
            writer.add_image("hfc_detection/gains", np.zeros((3, 20, 30), np.uint8), step)
        writer.add_image("hfc_examples/figure", np.zeros((3, 20, 30), np.uint8), 5)
    with SummaryWriter(str(tmp_path / "old")) as writer:
        writer.add_scalar("hfc_detection/AP/lfc_r064", 0.123, 10)
    with served(tab, environment, tmp_path) as address:
        tab.open(address, "p.hfc.view=detections")
        assert "−10.0 [-13.0, -4.0] points" in tab.text()
        tab.find("summary", has_text="fare better or worse").click()
        assert tab.find("tr", has_text="images that gain").inner_text().split("\t") == [
            "detector",
            "images that gain on LFC(128) by any margin",
            "17",
        ]
        old = tab.find("tr", has_text="hfc_detection/AP/lfc_r064").inner_text()
        assert old.split("\t") == ["old", "hfc_detection/AP/lfc_r064", "0.123"]
        tab.find(".picture img").first.wait_for()
        rows = rows_of(download(tab, "detection_ap", "CSV"))
        low = [float(row["AP"]) for row in rows if row["line"] == "LFC detector"]
        assert low == pytest.approx([0.2, 0.3])
        tab.press("ArrowLeft")
        tab.find("table", has_text="−20.0 [-13.0, -4.0] points").wait_for()
        tab.open(address, "p.hfc.view=examples")
        assert "detector: Examples, step 5" in tab.text()
        loaded = "img => img.complete && img.naturalWidth"
        image = tab.find(".picture img").first
        image.scroll_into_view_if_needed()
        tab.page.wait_for_timeout(300)
        assert image.evaluate(loaded) == 30
        framed.open(address, "p.hfc.view=curves")
        assert "None of the chosen runs has logged FrequencyAccuracy" in framed.text()
        assert framed.page.locator("plugin-selector .mdc-tab", has_text="HFC").is_visible()
        framed.page.goto("about:blank")


def test_gradient_sensitivity_like_the_heatmap(tab, environment, tmp_path):
    axis = list(range(-4, 4))
    axes = [{"name": name, "unit": "cycles/image", "values": axis} for name in ("i", "j")]
    what = {"version": 1, "measurement": "fourier_sensitivity", "array": "sensitivity"}
    content = json.dumps(what | {"unit": "loss per unit L2 norm", "axes": axes}).encode()
    map_ = np.random.default_rng(0).random((8, 8), np.float32) * 3
    map_[0, 0] = np.nan
    value = hfc_value("fourier_sensitivity/sensitivity", map_, [], content=content)
    write_values(tmp_path / "run", {7: [value]})
    with served(tab, environment, tmp_path) as address:
        tab.open(address, "p.hfc.view=heatmap")
        label = tab.plot("heatmap").locator("canvas").get_attribute("aria-label")
        assert label.startswith("Fourier sensitivity: A: run, step 7")
        rows = rows_of(download(tab, "heatmap", "CSV"))
        assert rows[0]["value"] == ""
        np.testing.assert_allclose([float(r["value"]) for r in rows[1:]], map_.ravel()[1:])


def test_a_wide_layer_of_which_the_first_kernels_are_logged(tab, environment, tmp_path):
    with SummaryWriter(str(tmp_path / "run")) as writer:
        event_file._log_tensors(kernel_result(100, 0.3, 0), writer, 1)
    with served(tab, environment, tmp_path) as address:
        tab.open(address, "p.hfc.view=kernels&p.hfc.kernel=a:99")
        rows = rows_of(download(tab, "kernels", "CSV"))
        assert len(rows) == 100
        assert sum(bool(row["weights"]) for row in rows) == 64


def test_sixty_runs(tab, environment, tmp_path):
    write_run(tmp_path / "run00", 8, uses_hfc=True, parts=("curves",))
    for number in range(1, 60):
        shutil.copytree(tmp_path / "run00", tmp_path / f"run{number:02d}")
    with served(tab, environment, tmp_path) as address:
        tab.open(address, CURVES)
        assert "Runs (6 of 60)" in tab.text()
        tab.find("aside").get_by_role("button", name="All", exact=True).click()
        tab.ready()
        assert "Runs (60 of 60)" in tab.text()
        assert "The first 24 of 60 chosen runs have a panel each." in tab.text()
        tab.find('button[data-value="radius"]').click()
        tab.ready()
        assert "lines farther off" in hover(tab, "curves", 0.5, 200)
        tab.find('input[type="search"]').fill("run42")
        assert tab.find("aside li").count() == 1


def test_hfc_on_two_backgrounds_is_not_compared_in_words(tab, environment, tmp_path):
    for background, high in (("zero", 0.2), ("mean", 0.8)):
        with SummaryWriter(str(tmp_path / background), filename_suffix=".hfc") as writer:
            event_file.log(accuracy_result([0.3] * 4, [high] * 4, background=background), writer, 1)
    with served(tab, environment, tmp_path) as address:
        tab.open(address, CURVES)
        verdict = tab.find(".verdict").inner_text()
        assert "(hfc_background mean against zero): not the same quantity, so no verdict" in verdict
        assert "uses more" not in verdict
        assert tab.text().count("measured differently") == 1 + 4  # the sentence, each HFC


WORDS = """async (rows) => {
  const { compare, verdict } = await import('./static/words.js');
  const curve = ([keys, y, half]) => ({
    keys, y, low: y.map((v) => v - half), high: y.map((v) => v + half),
  });
  const found = rows.map(([radius, a, b]) => (
    { radius, unit: 'cycles/image', found: compare(curve(a), curve(b)) }));
  return verdict(['A', 'B'], found, (key) => `epoch ${key}`);
}"""


VERDICTS = [
    (
        [[4, [[1, 2, 3], [0.5, 0.5, 0.5], 0.1], [[1, 2, 3], [0.5, 0.6, 0.55], 0.1]]],
        "At epoch 3 the 95 % interval of the difference includes 0 at every radius",
    ),
    (
        # Apart at 1 by chance, together at 2, apart the other way at 3 and 4: since 3.
        [
            [
                4,
                [[1, 2, 3, 4], [0.9, 0.5, 0.2, 0.1], 0.05],
                [[1, 2, 3, 4], [0.1, 0.5, 0.6, 0.7], 0.05],
            ]
        ],
        "B uses more of the high frequencies: at epoch 4 it gets 70 % [65, 75] right from "
        "HFC(4) alone (beyond 4 cycles/image), A 10 % [5, 15], a difference of "
        "+60.0 [+52.9, +67.1] points. The interval of the difference has excluded 0 since epoch 3.",
    ),
    (
        [
            [4, [[1, 2], [0.8, 0.8], 0.05], [[1, 2], [0.1, 0.1], 0.05]],
            [8, [[1, 2], [0.1, 0.1], 0.05], [[1, 2], [0.4, 0.4], 0.05]],
        ],
        "has excluded 0 from the first measurement on. The other way round at radius 8.",
    ),
    (
        [[4, [[1, 2], [0.8, 0.8], 0.05], [[3, 4], [0.1, 0.1], 0.05]]],
        "A and B have no radius and no place in training in common up to here.",
    ),
]


def test_the_verdict_is_conditional_on_intervals(tab, server):
    tab.open(server, CURVES)
    for rows, expected in VERDICTS:
        assert expected in tab.run(WORDS, rows)
