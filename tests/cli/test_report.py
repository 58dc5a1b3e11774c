"""Measurements by name on the command line, and two runs on one page.

Long because what may be said of a difference is judged case by case on one pair of runs.
"""

from __future__ import annotations

import base64
import html
import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorboard_plugin_hfc
import torch
from click.testing import CliRunner
from torch import nn

from hfc_probe import (
    AdversarialAccuracy,
    BandAttribution,
    FrequencyAccuracy,
    InputError,
    Samples,
    TruncatedSVD,
)
from hfc_probe.cli.common import left_behind
from hfc_probe.cli.comparison import compare
from hfc_probe.cli.main import main
from hfc_probe.cli.page import page
from hfc_probe.cli.seeds import SEED, by_seed, mean_of
from hfc_probe.cli.stored import StoredRun, read_run
from hfc_probe.core.intervals import paired_difference, wilson
from hfc_probe.detection.variants import variant_names
from hfc_probe.measurements.calibration import CalibrationResult
from hfc_probe.measurements.component_examples import ComponentExamplesResult
from hfc_probe.measurements.frequency_accuracy import FrequencyAccuracyResult
from hfc_probe.measurements.registry import MEASUREMENTS, build

from ..conftest import needs_captum

MODEL = """
import torch
from torch import nn

def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())

def other():
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.py").write_text(MODEL)
    generator = torch.Generator().manual_seed(0)
    images = (255 * torch.rand(24, 3, 16, 16, generator=generator)).to(torch.uint8).numpy()
    np.savez(tmp_path / "data.npz", images=images, labels=np.arange(24) % 4)
    return tmp_path


def audit(model, out, *options):
    arguments = ["audit", "--model", f"model.py:{model}", "--data", "npz:data.npz"]
    arguments += ["--normalize", "none", "--device", "cpu", "--out", out, *options]
    return CliRunner().invoke(main, arguments)


@pytest.mark.slow
@needs_captum
def test_every_measurement_runs_by_name(here):
    names = [n for n in MEASUREMENTS if n != "fourier_heatmap"]
    options = [part for name in names for part in ("--measure", name)]
    result = audit("net", "a", "--limit", "12", *options)
    assert result.exit_code == 0, result.output
    for name in names:
        written = json.loads((here / "a" / f"{name}.json").read_text())
        assert written["measurement"] == name
        assert written["summary"] in result.output
        assert written["scalars"].keys() <= written["labels"].keys()
        assert (here / "a" / f"{name}.png").stat().st_size > 5000


def test_settings_go_by_name_and_values():
    measurement = build("adversarial_accuracy:epsilons=0.01+0.02,steps=3,random_start=false")
    assert measurement == AdversarialAccuracy(epsilons=(0.01, 0.02), steps=3, random_start=False)
    assert build("frequency-accuracy:radii=4").radii == (4,)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("adversarial", "did you mean adversarial_accuracy"),
        ("amplitude_phase:pair=any", "with a setting of amplitude_phase \\(pairing"),
        ("amplitude_phase:pairing=other", "pairing: expected"),
        ("truncated_svd:ranks=0", "ranks: expected a whole number"),
    ],
)
def test_mistakes_in_a_measure_option(here, text, words):
    result = audit("net", "a", "--measure", text)
    assert result.exit_code == 2
    assert re.search(words, result.output)
    assert not (here / "a").exists()


@pytest.mark.parametrize("others", [[], ["--model", "model.py:net"]])
def test_help_lists_every_measurement_and_needs_no_model(others):
    result = CliRunner().invoke(main, ["audit", *others, "--measure", "help"])
    assert result.exit_code == 0
    assert all(name in result.output for name in MEASUREMENTS)


def test_report_of_two_runs_is_one_page_with_everything_in_it(here):
    assert audit("net", "a", "--limit", "16").exit_code == 0
    assert audit("other", "b", "--measure", "input_spectrum").exit_code == 0
    result = CliRunner().invoke(main, ["report", "a", "b", "--out", "page.html"])
    assert result.exit_code == 0, result.output
    text = (here / "page.html").read_text()
    assert len(re.findall(r'src="data:image/png;base64,', text)) == 4
    assert not re.search(r'(src|href)="(?!data:)', text)
    first = json.loads((here / "a" / "frequency_accuracy.json").read_text())
    assert first["scalars"]["hfc_gap/area"] is not None
    assert f"{first['scalars']['hfc_lfc/r04']:.4g}" in text
    assert "samples looked at 16 against 24" in text
    assert "input_spectrum" in text.split("In one run only:")[1]


def frequencies(name, counts, n=512, bits=None, settings=(), provenance=(), **more):
    """A run with right answers of ``n`` images by tag; provenance None as of old."""
    result = {
        "settings": {"closed": True, "topk": [1], "hfc_background": "zero", **dict(settings)},
        "samples": n,
        "scalars": {tag: k / n for tag, k in counts.items()},
        "intervals": {tag: [float(x) for x in wilson(k, n)] for tag, k in counts.items()},
        "per_image": bits or {},
        "provenance": {} if provenance is None else {**KNOWN, **dict(provenance)},
        "labels": LABELS,
        "summary": "<b>words</b>",
        **more,
    }
    return StoredRun(name, {"frequency_accuracy": result}, {})


LABELS = FrequencyAccuracyResult(
    settings={},
    samples=1,
    radii=np.array([4.0]),
    topk=(1,),
    counts={},
    agreement={},
    class_counts=np.zeros(1, np.int64),
).labels()
KNOWN = {
    "data": "CIFAR-10",
    "images": "1111",
    "weights": "aaaa",
    "classes": 10,
    "chance": 0.1,
    "mean": [0, 0, 0],
    "std": [1, 1, 1],
    "caveats": [],
}
OTHER = {"images": "2222", "weights": "bbbb"}  # another model, other images of the same data
FIRST = {"hfc_accuracy/original": 400, "hfc_lfc/r04": 300, "hfc_hfc/r04": 104}
SECOND = {"hfc_accuracy/original": 402, "hfc_lfc/r04": 305, "hfc_hfc/r04": 139}


def judged(found):
    return {change.tag: change.judged for change in found.changes}


def said(found):
    """The sentences on the page about what changed."""
    text = page(found).split("<h2>What changed</h2>")[1].split("</ul>")[0]
    return [html.unescape(one) for one in re.findall(r"<li>(.*?)</li>", text)]


def test_a_difference_is_judged_by_its_interval_though_the_two_intervals_overlap():
    """The two runs of 27.1 and 20.3 % of 512 images differ by 1.6 to 12.0 points."""
    found = compare(frequencies("A & co", FIRST), frequencies("B", SECOND, provenance=OTHER))
    assert judged(found) == {
        "hfc_accuracy/original": "no clear difference",
        "hfc_lfc/r04": "no clear difference",
        "hfc_hfc/r04": "more",
    }
    change = found.changes[-1]
    assert change.before_interval[1] > change.after_interval[0]
    assert change.difference == pytest.approx((0.016, 0.120), abs=5e-4)
    assert said(found) == [
        "Accuracy on HFC(4) is higher in B (0.271) than in A & co (0.203): +0.068 [+0.016, +0.120]."
    ]
    back = compare(frequencies("B", SECOND, provenance=OTHER), frequencies("A", FIRST))
    assert judged(back)["hfc_hfc/r04"] == "less"
    assert "1 of 3 judged differences" in found.count()
    assert "&lt;b&gt;words" in page(found)


def test_seeds_are_compared_by_mean_and_spread():
    """Means 0.2 and 0.3; SD 0.01 over 3 seeds gives 4.303 · 0.01 / √3 = 0.02484."""
    n, tag = 1000, "hfc_hfc/r04"
    runs = {
        name: [frequencies(f"{name}_seed{k}", {tag: at + d}, n) for k, d in enumerate((-10, 0, 10))]
        for name, at in (("a", 200), ("b", 300))
    }
    found = compare(*(mean_of(name, group) for name, group in runs.items()))
    (change,) = found.changes
    assert (change.before, change.after) == pytest.approx((0.2, 0.3))
    assert change.spread == pytest.approx((0.01, 0.01))
    below = np.mean([k / n - wilson(k, n)[0] for k in (190, 200, 210)])
    assert change.before_interval[0] == pytest.approx(0.2 - np.hypot(0.02484, below), abs=1e-4)
    assert change.judged == "more"
    assert not change.paired
    text = html.unescape(page(found))
    assert "0.2 ± 0.01" in text
    assert "a (3 seeds) (A)" in re.sub(r"<[^>]*>", "", text)
    assert "image by image" not in text
    assert not found.cautions


def test_one_seed_against_several_is_said_to_have_no_spread():
    several = [frequencies(f"b_seed{k}", FIRST) for k in range(2)]
    found = compare(frequencies("a_seed0", FIRST), mean_of("b", several))
    (caution,) = found.cautions
    assert caution.startswith("A: one seed, which has no spread")
    assert caution in html.unescape(page(found))
    assert not compare(frequencies("a", FIRST), several[0]).cautions


def test_seeds_that_were_measured_differently_are_no_group():
    runs = [
        frequencies("a_seed0", FIRST),
        frequencies("a_seed1", FIRST, settings={"closed": False}),
    ]
    with pytest.raises(InputError, match=r"runs of a to be measured alike, got .*closed"):
        mean_of("a", runs)


def test_seeds_are_grouped_as_the_tab_groups_them():
    static = Path(tensorboard_plugin_hfc.__file__).parent / "static"
    (pattern,) = re.findall(r"name\.replace\(/(.*)/i, ", (static / "names.js").read_text())
    assert pattern == SEED.pattern
    names = ["resnet18", "resnet50", "vit/seed=1", "vit/seed=2", "a_s0", "a_s1", "classes10"]
    assert by_seed(names) == {
        **{name: [name] for name in ("resnet18", "resnet50")},
        "vit": ["vit/seed=1", "vit/seed=2"],
        "a": ["a_s0", "a_s1"],
        "classes10": ["classes10"],
    }


@pytest.mark.slow
def test_a_report_of_seeds_by_the_command(here):
    for k in range(2):
        assert audit("net", f"a_seed{k}", "--limit", "12").exit_code == 0
        assert audit("other", f"b_seed{k}", "--limit", "12").exit_code == 0
    runs = ["a_seed0", "a_seed1", "b_seed0", "b_seed1"]
    result = CliRunner().invoke(main, ["report", *runs])
    assert result.exit_code == 0, result.output
    assert "a (2 seeds)" in (here / "b_seed1" / "report.html").read_text()
    refused = CliRunner().invoke(main, ["report", *runs, "c"])
    assert refused.exit_code == 2
    assert "expected two runs, or seeds of two" in refused.output
    assert "got 3: a, b, c" in refused.output


def test_one_run_is_not_two_seeds():
    result = CliRunner().invoke(main, ["report", "a_seed0", "a_seed0", "b_seed0", "b_seed1"])
    assert result.exit_code == 2
    assert "got a_seed0 twice" in result.output


def test_a_directory_with_results_of_two_models_is_said_and_refused(tmp_path):
    def result(weights, date):
        return {"weights": weights, "date": date}

    for name, said in (("old", result("v", "2026-01")), ("frequencies", result("w", "2026-02"))):
        content = {"measurement": name, "scalars": {}, "provenance": said}
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    (tmp_path / "results.json").write_text("[]")  # of somebody else
    written = SimpleNamespace(name="frequencies", provenance=result("w", "2026-02"))
    assert left_behind(tmp_path, [written]) == ["old.json"]
    with pytest.raises(InputError, match=r"results of one model in .*, got old.json of other"):
        read_run(tmp_path)
    (tmp_path / "old.json").unlink()
    assert list(read_run(tmp_path).results) == ["frequencies"]
    assert left_behind(tmp_path, [written]) == []


def test_the_same_images_are_compared_image_by_image():
    n, rng = 512, np.random.default_rng(0)
    first = rng.random(n) < 0.5
    second = first.copy()
    second[np.flatnonzero(~first)[:12]] = True  # twelve more, none lost
    runs = []
    for name, right, weights in (("A", first, "a"), ("B", second, "b")):
        bits = {"hfc_hfc/r04": right}
        counts = {"hfc_hfc/r04": int(right.sum())}
        runs.append(frequencies(name, counts, n, bits, provenance={"weights": weights}))
    found = compare(*runs)
    (change,) = found.changes
    assert (change.judged, change.paired) == ("more", True)
    assert change.difference == pytest.approx([float(x) for x in paired_difference(second, first)])
    assert change.difference[0] > 0.01
    assert any("same images" in note for note in found.notes)
    assert "more, paired" in page(found)
    # Without the bits, or of other images, 12 of 512 are not enough.
    other = frequencies("B", {"hfc_hfc/r04": int(second.sum())}, n, provenance=OTHER)
    assert judged(compare(runs[0], other))["hfc_hfc/r04"] == "no clear difference"


def test_a_run_against_itself_differs_in_nothing():
    right = np.arange(512) % 3 == 0
    one = frequencies("A", {"hfc_hfc/r04": int(right.sum())}, bits={"hfc_hfc/r04": right})
    found = compare(one, one)
    assert not found.clear
    assert not found.differing
    assert "Both runs measured the same weights." in found.notes


@pytest.mark.parametrize(
    ("settings", "provenance", "refused"),
    [
        ({"closed": False}, {}, "lfc hfc"),
        ({"topk": [5]}, {}, "original lfc hfc"),
        ({"topk": [1, 5]}, {}, ""),  # the first k is the same
        ({"rescale": "max"}, {}, "original lfc hfc"),  # the original images are rescaled, too
        ({"units": "nyquist"}, {}, "lfc hfc"),
        ({"hfc_background": "mean"}, {}, "hfc"),
        ({"seed": 3, "radii": [4, 8]}, {}, ""),
        ({}, {"data": "CIFAR-10.1"}, "original lfc hfc"),
        ({}, {"data": "its other name", "images": "1111"}, ""),
        ({}, {"classes": 100}, "original lfc hfc"),
        ({"axes": 3}, {}, "lfc hfc"),
        ({}, {"resampling": "bilinear to 37, centre crop"}, "original lfc hfc"),
        ({}, {"mean": [0.5] * 3}, ""),  # another model may want other statistics
        ({}, {"mean": [0.5] * 3, "weights": "aaaa"}, "original lfc hfc"),  # the same may not
        ({}, {"epoch": 3}, ""),
    ],
)
def test_what_was_measured_differently_is_not_judged(settings, provenance, refused):
    a = frequencies("A", FIRST)
    b = frequencies("B", SECOND, settings=settings, provenance={**OTHER, **provenance})
    found = compare(a, b)
    tags = [tag for tag, word in judged(found).items() if word == "measured differently"]
    short = {"original": "hfc_accuracy/original", "lfc": "hfc_lfc/r04", "hfc": "hfc_hfc/r04"}
    assert tags == [short[part] for part in refused.split()]
    key = [*settings, *provenance][0]
    if provenance.get("images") != "1111":
        assert any(one.what == key for one in found.differing)
        assert f"frequency_accuracy: {key} " in page(found)
    if "hfc" in refused:
        assert not any("HFC(4)" in sentence for sentence in said(found))
        assert "Numbers marked “measured differently”" in page(found)


def test_a_setting_that_earlier_versions_lack_is_no_difference():
    a = frequencies("A", FIRST)
    b = frequencies("B", SECOND, settings={"axes": 2}, provenance=OTHER)
    assert not compare(a, b).differing


def test_the_area_between_curves_depends_on_the_radii():
    a = frequencies("A", {"hfc_gap/area": 100, "hfc_lfc/r04": 90})
    b = frequencies("B", {"hfc_gap/area": 300, "hfc_lfc/r04": 95}, settings={"radii": [4]})
    assert judged(compare(a, b))["hfc_gap/area"] == "measured differently"
    assert judged(compare(a, b))["hfc_lfc/r04"] == "no clear difference"


def test_a_model_at_chance_gets_no_verdict_about_frequencies():
    guess = {"hfc_accuracy/original": 60, "hfc_lfc/r04": 51, "hfc_hfc/r04": 10}
    found = compare(frequencies("A", FIRST), frequencies("B", guess, provenance=OTHER))
    assert judged(found) == {
        "hfc_accuracy/original": "less",
        "hfc_lfc/r04": "not above chance",
        "hfc_hfc/r04": "not above chance",
    }
    assert found.cautions == (
        "B: the accuracy on original images, 11.7 % [9.2, 14.8], is not above chance (10.0 %), so "
        "nothing is said about frequencies; check weights, labels and normalisation.",
    )
    # Chance is the larger of 1/K and the largest class's share, as the run says.
    skewed = frequencies("B", SECOND, provenance={**OTHER, "chance": 0.8})
    assert judged(compare(frequencies("A", FIRST), skewed))["hfc_hfc/r04"] == "not above chance"


def test_caveats_come_first():
    a = frequencies("A", FIRST, provenance={"caveats": ["images <change> at each reading"]})
    b = frequencies("B", SECOND, provenance={**OTHER, "caveats": ["dropout stays on"]})
    found = compare(a, b)
    assert found.cautions == ("A: images <change> at each reading", "B: dropout stays on")
    text = page(found)
    assert (
        text.index("images &lt;change&gt; at") < text.index("dropout") < text.index("What changed")
    )


def test_results_without_labels_are_shown_by_their_tags():
    old = [frequencies(name, FIRST, labels={}) for name in "AB"]
    found = compare(*old)
    assert [change.label for change in found.changes] == list(FIRST)
    assert set(judged(found).values()) == {"no clear difference"}
    # What one of the two knows of its numbers holds for the other's.
    half = compare(old[0], frequencies("B", SECOND, provenance=OTHER))
    assert said(half)[0].startswith("Accuracy on HFC(4) is higher in B")
    # Nothing is judged of numbers that may depend on any setting.
    other = frequencies("B", FIRST, settings={"hfc_background": "mean"}, labels={})
    assert set(judged(compare(old[0], other)).values()) == {"measured differently"}


def test_results_without_provenance_are_judged_with_a_note():
    found = compare(frequencies("old", FIRST, provenance=None), frequencies("B", SECOND))
    assert judged(found)["hfc_hfc/r04"] == "more"
    assert [note for note in found.notes if "No provenance in old (" in note]
    assert "No provenance in old (" in page(found)


def test_a_number_that_one_run_lacks_is_shown():
    a, b = frequencies("A", FIRST), frequencies("B", SECOND, provenance=OTHER)
    b.results["frequency_accuracy"]["scalars"]["hfc_hfc/r04"] = None
    b.results["frequency_accuracy"]["intervals"]["hfc_hfc/r04"] = [0, 1]
    del b.results["frequency_accuracy"]["scalars"]["hfc_lfc/r04"]
    found = compare(a, b)
    assert judged(found)["hfc_hfc/r04"] == "no number"
    assert found.alone == ("hfc_lfc/r04",)
    assert "In one run only: hfc_lfc/r04." in page(found)


def test_old_tags_and_outcomes_are_read(tmp_path):
    right = np.arange(13) % 3 == 0
    packed = base64.b64encode(np.packbits(right).tobytes()).decode()
    result = {
        "measurement": "frequency_accuracy",
        "samples": 13,
        "scalars": {"hfc_lfc/r064": 0.5, "hfc_svd/hfc_k004": 0.1, "hfc_hfc/r00.25": 0.1},
        "intervals": {"hfc_lfc/r064": [0.4, 0.6]},
        "per_image": {"hfc_lfc/r064": packed},
    }
    (tmp_path / "frequency_accuracy.json").write_text(json.dumps(result))
    found = read_run(tmp_path).results["frequency_accuracy"]
    assert list(found["scalars"]) == ["hfc_lfc/r64", "hfc_svd/hfc_k04", "hfc_hfc/r00.25"]
    assert found["intervals"] == {"hfc_lfc/r64": [0.4, 0.6]}
    assert found["per_image"]["hfc_lfc/r64"].tolist() == right.tolist()
    for wrong in ({**result, "samples": 99}, {**result, "per_image": {"x": 3}}):
        (tmp_path / "frequency_accuracy.json").write_text(json.dumps(wrong))
        with pytest.raises(InputError, match="a damaged file; measure again"):
            read_run(tmp_path)


def test_two_real_audits_measured_differently_are_not_judged(here):
    assert audit("net", "a").exit_code == 0
    assert audit("other", "b", "--hfc-background", "mean").exit_code == 0
    done = CliRunner().invoke(main, ["report", "a", "b"])
    assert done.exit_code == 0, done.output
    assert (
        "Not judged, since measured differently (frequency_accuracy: hfc_background" in done.output
    )
    assert "accuracy on HFC(4), " in done.output.split("Not judged")[1]
    assert " than in " not in done.output


def test_bad_runs_are_one_sentence(here):
    (here / "empty").mkdir()
    with pytest.raises(InputError, match="expected results"):
        read_run(here / "empty")
    with pytest.raises(InputError, match="expected a directory"):
        read_run(here / "nowhere")
    (here / "empty" / "x.json").write_text("{")
    with pytest.raises(InputError, match=r"expected a result in x\.json, got a damaged file"):
        read_run(here / "empty")
    result = CliRunner().invoke(main, ["report", "nowhere", "empty"])
    assert result.exit_code == 2
    assert "nowhere" in result.output
    with pytest.raises(InputError, match="a measurement that both runs have"):
        compare(frequencies("A", FIRST), StoredRun("B", {"n": {"scalars": {}}}, {}))


def test_intervals_belong_to_scalars_and_hold_them(resnet20, cifar):
    result = FrequencyAccuracy(radii=(8,)).measure(resnet20, cifar.subset(32))
    scalars = result.scalars()
    assert set(result.intervals()) == {"hfc_accuracy/original", "hfc_lfc/r08", "hfc_hfc/r08"}
    for tag, (low, high) in result.intervals().items():
        assert low <= scalars[tag] <= high


@pytest.mark.parametrize(
    ("measurement", "one", "many", "tags"),
    [
        (FrequencyAccuracy, {"radii": 64}, {"radii": (32, 64, 128)}, ["hfc_lfc/r64"]),
        (FrequencyAccuracy, {"radii": 0.25}, {"radii": (0.25, 100)}, ["hfc_hfc/r00.25"]),
        (TruncatedSVD, {"ranks": 4}, {"ranks": (4, 100)}, ["hfc_svd/hfc_k04"]),
        pytest.param(
            BandAttribution,
            {"edges": (8, 99)},
            {"edges": (8, 100)},
            ["hfc_bands/r08"],
            marks=needs_captum,
        ),
        # Rounded, these two would have shared a tag, and one number would have been lost.
        pytest.param(
            BandAttribution,
            {"edges": 1.2},
            {"edges": (1.2, 1.4)},
            ["hfc_bands/r01.2"],
            marks=needs_captum,
        ),
    ],
)
def test_a_radius_has_one_tag_whatever_else_is_measured(measurement, one, many, tags):
    model = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16, 3))
    images = torch.rand(4, 1, 202, 202, generator=torch.Generator().manual_seed(0))
    samples = Samples(images, torch.tensor([0, 1, 2, 0]))
    for settings in (one, many):
        assert set(tags) <= set(measurement(**settings).measure(model, samples).scalars())


@pytest.mark.parametrize("radii", [(8.0,), (8.0, 128.0)])
def test_examples_calibration_and_detections_name_a_radius_alike(radii):
    known = SimpleNamespace(radii=np.array(radii), others=[])
    examples = {tag for tag, _, _ in ComponentExamplesResult.cells(known)}
    assert {"hfc_examples/high_only_r08", "hfc_examples/low_only_r08"} <= examples
    calibration = {tag for tag, _, _ in CalibrationResult.cells(known)}
    assert {"hfc_calibration/ece_lfc_r08", "hfc_calibration/auroc_hfc_r08"} <= calibration
    assert variant_names((64,)) == ("original", "lfc_r64", "hfc_r64")
    assert variant_names((32, 64, 128))[2:4] == ("lfc_r64", "lfc_r128")
