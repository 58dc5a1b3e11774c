"""What the tab says of two runs, and refuses to say, in Chromium."""

import json
import re

import numpy as np
import pytest
import torch
from torch.utils.tensorboard import SummaryWriter

from hfc_probe import kernels
from hfc_probe.core import event_file
from hfc_probe.core.intervals import difference, paired_difference, square_and_add, wilson
from hfc_probe.core.labels import Label, accuracy_label
from hfc_probe.core.result import Result

from .conftest import tensorboard_server
from .runs import accuracy_result, heatmap_result, kernel_result
from .test_browser import CURVES
from .test_plugin import hfc_value, write_values

N = 512
SETTINGS = {"topk": [1], "closed": True, "units": "cycles", "hfc_background": "zero"}
PROVENANCE = {"data": "CIFAR-10", "images": "1111", "classes": 10, "chance": 0.1, "caveats": []}
ORIGINAL, LOW, FEW, MANY = 400, 300, 104, 139


def accuracies(
    path,
    high,
    low=LOW,
    original=ORIGINAL,
    *,
    settings=(),
    provenance=(),
    bits=None,
    labels=True,
    steps=(6,),
):
    """A run that has ``high`` of 512 images right on HFC(4), in the format of the event file."""
    both = {"settings": SETTINGS | dict(settings)}
    if provenance is not None:
        both["provenance"] = PROVENANCE | dict(provenance)
    values = []

    def add(array, value, axes):
        what = {"version": 1, "measurement": "frequency_accuracy", "unit": "accuracy"}
        content = json.dumps(what | both | {"array": array, "axes": axes}).encode()
        values.append(
            hfc_value(
                f"frequency_accuracy/{array}",
                np.asarray(value, dtype=np.float32),
                axes,
                content=content,
            )
        )

    axis = [{"name": "radius", "unit": both["settings"]["units"], "values": [4]}]
    for name, count, axes in (("original", original, []), ("lfc", low, axis), ("hfc", high, axis)):
        bounds = wilson(count, N)
        for part, value in zip(("", "_lower", "_upper"), (count / N, *bounds), strict=True):
            add(name + part, [float(value)] if axes else float(value), axes)
    if bits is not None:
        outcomes = {"hfc_lfc/r04": np.arange(N) < low, "hfc_hfc/r04": bits}
        packed = np.packbits(np.stack(list(outcomes.values())), axis=1)
        images = {"name": "image", "count": N, "packed": "bits"}
        tag = {"name": "tag", "values": list(outcomes)}
        if labels:
            tag["labels"] = [accuracy_label(part, 4).plain() for part in ("lfc", "hfc")]
        add("per_image", packed, [tag, images])
    write_values(path, dict.fromkeys(steps, values))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Where all runs of this module are written: one server serves them all."""
    return tmp_path_factory.mktemp("pairs")


@pytest.fixture(scope="module")
def address(environment, place):
    accuracies(place / "first", MANY)  # a server that finds nothing waits longer for more
    with tensorboard_server(environment, place) as found:
        yield found


@pytest.fixture
def pair(tab, address, place, request):
    """Opens two runs that a test wrote into its own folder."""
    folder = place / re.sub(r"\W+", "_", request.node.name)

    def show(state="", runs=("a", "b")):
        names = [f"{folder.name}/{run}" for run in runs]
        both = "&".join(f"p.hfc.{key}={name}" for key, name in zip("ab", names, strict=False))
        for _ in range(100):  # until the server has read the last run
            tab.open(address, f"{both}&p.hfc.runs={json.dumps(names)}&{state or CURVES}")
            if all(tab.find(f'[data-run="{name}"]').count() for name in names):
                return
            tab.page.wait_for_timeout(200)
        pytest.fail("the server does not show the runs")

    show.folder = folder
    yield show
    tab.page.goto("about:blank")


def short(text):
    """A text of the tab without the folder that each test's runs are in."""
    return re.sub(r"\btest_\w+/", "", text)


def verdicts(tab):
    return [short(text) for text in tab.find(".verdict").all_inner_texts()]


def rows(tab):
    found = tab.find("table tbody tr").all_inner_texts()
    return {cells[0]: cells[3:] for cells in (row.split("\t") for row in found)}


PARITY = """async ([independents, pairs]) => {
  const { discordant, independent, paired } = await import('./static/charts/intervals.js');
  const sets = pairs.map(([a, b, n]) => paired(...discordant(a, b), n));
  return [independents.map(([a, b]) => independent(a, b)), sets];
}"""


def test_the_tab_reckons_intervals_as_the_library_does(tab, server):
    tab.open(server, CURVES)
    counts = [(139, 512, 104, 512), (0, 10, 0, 20), (9, 10, 3, 10), (400, 400, 380, 400)]
    independents = []
    for k1, n1, k2, n2 in counts:
        independents.append([[k / n, *map(float, wilson(k, n))] for k, n in ((k1, n1), (k2, n2))])
    rng = np.random.default_rng(0)
    pairs = [rng.random((2, n)) < p for n, p in ((13, 0.5), (512, 0.9), (100, 0.02))]
    packed = [[*np.packbits(both, axis=1).tolist(), both.shape[1]] for both in pairs]
    independent, paired = tab.run(PARITY, [independents, packed])
    expected = [difference(*one) for one in counts]
    assert np.array(independent) == pytest.approx(np.array(expected), abs=1e-9)
    assert np.array(independent) == pytest.approx(
        np.array([square_and_add(*a, *b) for a, b in independents]), abs=1e-9
    )
    assert np.array(paired) == pytest.approx(
        np.array([paired_difference(*both) for both in pairs]), abs=1e-6
    )


def test_runs_differ_by_the_interval_of_the_difference_though_their_own_overlap(tab, pair):
    accuracies(pair.folder / "a", MANY)
    accuracies(pair.folder / "b", FEW, provenance={"images": "2222"})
    pair()
    (verdict,) = verdicts(tab)
    assert verdict.startswith("a uses more of the high frequencies: at step 6 it gets 27 %")
    assert "a difference of +6.8 [+1.6, +12.0] points" in verdict
    found = rows(tab)
    assert found["HFC(4)"] == ["+6.8 [+1.6, +12.0] points", "differs since step 6"]
    assert found["LFC(4)"][1] == "no clear difference"
    text = short(tab.text())
    assert "2 differences are judged; between equal runs, less than one" in text
    assert "Both runs saw the same images" not in text


def test_the_same_images_are_compared_image_by_image(tab, pair):
    first = np.arange(N) % 2 == 0
    second = first.copy()
    second[1:24:2] = True  # twelve more, none lost
    accuracies(pair.folder / "a", int(first.sum()), bits=first)
    accuracies(pair.folder / "b", int(second.sum()), bits=second)
    accuracies(pair.folder / "old", int(second.sum()), bits=second, labels=False)
    low, high = (100 * float(bound) for bound in paired_difference(first, second))
    pair()
    expected = f"−2.3 [−{-low:.1f}, −{-high:.1f}] points"
    assert rows(tab)["HFC(4)"] == [expected, "differs since step 6, paired"]
    assert "b uses more" in verdicts(tab)[0]
    assert "they are compared image by image" in short(tab.text())
    # Outcomes whose tags have no labels are of an earlier version: they are not paired.
    pair(runs=["a", "old"])
    assert rows(tab)["HFC(4)"][1] == "no clear difference"


@pytest.mark.parametrize(
    ("settings", "provenance", "said", "low"),
    [
        ({"topk": [5], "closed": False}, {}, "topk 1 against 5; closed true against false", 0),
        ({"units": "nyquist"}, {}, "units cycles against nyquist", 0),
        ({"rescale": "max"}, {}, "rescale none against max", 0),
        ({"axes": 3}, {}, "axes 2 against 3", 0),
        ({"hfc_background": "mean"}, {}, "hfc_background zero against mean", 1),
        ({}, {"data": "SVHN", "images": "2"}, "data CIFAR-10 against SVHN", 0),
        ({}, {"classes": 100}, "classes 10 against 100", 0),
        ({}, {"resampling": "to 37"}, "resampling none against to 37", 0),
    ],
)
def test_what_was_measured_differently_gets_no_verdict(tab, pair, settings, provenance, said, low):
    accuracies(pair.folder / "a", FEW)
    accuracies(pair.folder / "b", 300, settings=settings, provenance=provenance)
    pair()
    assert verdicts(tab) == [
        f"a and b were measured differently ({said}): not the same quantity, so no verdict."
    ]
    found = rows(tab)
    assert found["HFC(4)"] == ["", "measured differently"]
    assert (found["LFC(4)"][1] == "no clear difference") == bool(low)


def test_each_run_is_labelled_with_how_it_was_measured(tab, pair):
    accuracies(pair.folder / "a", FEW)
    accuracies(pair.folder / "b", 300, settings={"topk": [5], "closed": False})
    pair(f"{CURVES}&p.hfc.mode=radius")
    names = [f"{pair.folder.name}/{run}" for run in "ab"]
    legend = json.loads(tab.run(LEGEND, names))
    assert legend == ["LFC, d ≤ r or d < r", "HFC, d > r or d ≥ r"]
    pair(f"{CURVES}&p.hfc.mode=radius", runs=["b"])
    assert json.loads(tab.run(LEGEND, names[1:])) == ["LFC, d < r", "HFC, d ≥ r"]
    label = tab.plot("curves").locator("canvas").get_attribute("aria-label")
    assert "top 5, LFC d < r, HFC on zero background" in label


LEGEND = """async (runs) => {
  const { signs } = await import('./static/alike.js');
  const { contents, tensors } = await (await fetch('index')).json();
  return JSON.stringify(signs(runs.map((run) => {
    return contents[tensors[run]['frequency_accuracy/hfc'][0]];
  })));
}"""


def test_a_setting_that_earlier_versions_lack_is_no_difference(tab, pair):
    accuracies(pair.folder / "a", FEW)
    accuracies(pair.folder / "b", 300, settings={"axes": 2})
    pair()
    assert "b uses more" in verdicts(tab)[0]


def test_a_run_at_chance_gets_no_verdict(tab, pair):
    accuracies(pair.folder / "a", MANY)
    accuracies(pair.folder / "b", 20, original=60, provenance={"images": "2222"})
    pair()
    assert verdicts(tab) == [
        "b gets 12 % [9, 15] of the original images right, which is not above chance (10 %): "
        "nothing is said about frequencies. Check weights, labels and normalisation."
    ]
    assert rows(tab)["HFC(4)"][1] == "not above chance"


@pytest.mark.skipif(not hasattr(Result, "per_image"), reason="results keep no outcomes by image")
def test_what_the_library_writes_is_what_the_tab_reads(tab, pair):
    first = np.arange(400) % 2 == 0
    second = first.copy()
    second[1:24:2] = True
    for name, right in (("a", first), ("b", second)):
        result = accuracy_result([0.5] * 4, [0.5] * 4)
        own = np.repeat(right[None, None], 9, 0)
        object.__setattr__(result, "right", own)
        for part in ("lfc", "hfc"):
            result.counts[part][:, 0, :] = 0
            result.counts[part][:, 0, 0] = right.sum()
        object.__setattr__(result, "provenance", PROVENANCE)
        with SummaryWriter(str(pair.folder / name)) as writer:
            event_file._log_tensors(result, writer, 1)
    low, high = (100 * float(bound) for bound in paired_difference(first, second))
    pair()
    expected = f"−3.0 [−{-low:.1f}, −{-high:.1f}] points"
    for radius in (4, 8, 12, 16):
        assert rows(tab)[f"HFC({radius})"] == [expected, "differs since step 1, paired"]


def test_caveats_come_first_and_missing_provenance_is_said(tab, pair):
    evil = "dropout <b>stays</b> on"
    accuracies(pair.folder / "a", MANY, provenance=None)
    accuracies(pair.folder / "b", FEW, provenance={"caveats": [evil]})
    for view in ("curves", "heatmap", "cost"):
        pair(f"p.hfc.view={view}")
        assert short(tab.find(".content > div").first.inner_text()).split("\n") == [
            "Not to be trusted as they are",
            f"b: {evil}",
        ]
    pair()
    assert "No provenance in a (logged by an earlier version)" in short(tab.text())
    assert "a uses more" in verdicts(tab)[0]


def test_heatmaps_of_two_estimators_are_not_subtracted(tab, pair):
    for name, estimator in (("a", "exhaustive"), ("b", "model")):
        result = heatmap_result(8, (0, 2), 0.5)
        object.__setattr__(result, "estimator", estimator)
        result.settings["estimator"] = estimator
        with SummaryWriter(str(pair.folder / name)) as writer:
            event_file._log_tensors(result, writer, 1)
    pair("p.hfc.view=heatmap")
    assert "a and b were measured differently (estimator exhaustive against model)" in short(
        tab.text()
    )
    label = tab.plot("heatmap").locator("canvas").get_attribute("aria-label")
    assert label.endswith("A − B")
    assert "A − B, error rate" not in label


def test_kernels_of_two_layers_are_named(tab, pair):
    for name, layer in (("a", "conv1"), ("b", "stem.conv")):
        with SummaryWriter(str(pair.folder / name)) as writer:
            event_file._log_tensors(kernel_result(4, 0.3, 0, layer), writer, 1)
    pair("p.hfc.view=kernels")
    text = short(tab.text())
    assert "Different layers" in text
    assert "conv1" in text.split("Different layers")[1]
    assert "stem.conv" in text.split("Different layers")[1]
    label = tab.plot("kernels").locator("canvas").get_attribute("aria-label")
    assert label.count("stem.conv (5×5)") == 2


def detections(path, images=30, steps=(1,), **settings):
    """AP on original images and on LFC(64), as an audit of that many images logs it."""
    labels = [accuracy_label("original", quantity="AP"), accuracy_label("lfc", 64, quantity="AP")]
    labels += [Label("images that gain on LFC(64) by any margin", "count", "lfc", 64)]
    tag = {"name": "tag", "values": list("abc"), "labels": [label.plain() for label in labels]}
    axes = [tag, {"name": "value", "values": ["value", "lower", "upper"]}]
    what = {"version": 1, "measurement": "detection_audit", "array": "scalars", "unit": ""}
    what |= {"axes": axes, "samples": images, "settings": {"hfc_background": "zero", **settings}}
    values = {}
    for step in steps:
        array = np.full((3, 3), np.nan, np.float32)
        array[:, 0] = 0.4, 0.1 * step, 17
        content = json.dumps(what).encode()
        values[step] = [hfc_value("detection_audit/scalars", array, [], content=content)]
    write_values(path, values)


def test_detections_made_differently_are_said(tab, pair):
    detections(pair.folder / "a", closed=True)
    detections(pair.folder / "b", closed=False)
    pair("p.hfc.view=detections")
    text = short(tab.text())
    assert "not to be compared: a and b: closed true against false." in text
    table = tab.find("table").locator("tbody tr").all_inner_texts()
    assert [row.split("\t")[2:4] for row in table if "LFC" in row] == [["64", "10.0 %"]] * 2


def test_a_detector_s_audits_of_an_earlier_and_of_this_version_are_compared(tab, pair):
    detections(pair.folder / "a")
    detections(pair.folder / "b", control=True, iou_type="bbox")
    pair("p.hfc.view=detections")
    assert "LFC" in tab.text()
    assert "not to be compared" not in tab.text()


SPECTRA = """async (all) => {
  const { powerSpectrum } = await import('./static/spectra.js');
  return all.map(([weights, shape, size, dilation]) => [
    ...powerSpectrum(weights.flat(3), shape, size, dilation)]);
}"""


def test_the_tab_derives_spectra_as_the_library_does(tab, server):
    tab.open(server, CURVES)
    rng = np.random.default_rng(0)
    asked, expected = [], []
    for shape, size, dilation in (
        ((3, 5, 5), 32, (1, 1)),
        ((1, 3, 4), 9, (2, 1)),
        ((2, 7, 7), 7, (1, 1)),
    ):
        weight = rng.normal(size=shape)
        asked.append([weight.tolist(), shape, size, dilation])
        expected.append(
            kernels.spectrum(torch.from_numpy(weight)[None], size, dilation=dilation)[0]
        )
    for found, known in zip(tab.run(SPECTRA, asked), expected, strict=True):
        assert np.array(found) == pytest.approx(known.numpy().ravel(), rel=1e-5, abs=1e-6)
