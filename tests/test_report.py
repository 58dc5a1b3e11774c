"""Measurements by name on the command line, and two runs on one page."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
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
from hfc_probe.cli import main
from hfc_probe.detection.variants import variant_names
from hfc_probe.measurements.calibration import CalibrationResult
from hfc_probe.measurements.component_examples import ComponentExamplesResult
from hfc_probe.measurements.registry import MEASUREMENTS, build
from hfc_probe.report import Change, Run, compare, page, read_run

from .conftest import needs_torchmetrics

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


@needs_torchmetrics
def test_every_measurement_runs_by_name(here):
    names = [n for n in MEASUREMENTS if n != "fourier_heatmap"]
    options = [part for name in names for part in ("--measure", name)]
    result = audit("net", "a", "--limit", "12", *options)
    assert result.exit_code == 0, result.output
    for name in names:
        written = json.loads((here / "a" / f"{name}.json").read_text())
        assert written["measurement"] == name
        assert written["summary"] in result.output
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


def run(name, value, interval):
    result = {
        "measurement": "m",
        "settings": {"k": 1},
        "samples": 5,
        "summary": "<b>words</b>",
        "scalars": {"x": value, "alone": 1.0},
        "intervals": {} if interval is None else {"x": list(interval)},
    }
    return Run(name, {"m": result}, {})


@pytest.mark.parametrize(
    ("after", "interval", "judged"),
    [
        (0.9, (0.8, 0.95), "more"),
        (0.1, (0.05, 0.2), "less"),
        (0.6, (0.55, 0.7), "not told apart"),
        (0.9, None, "no interval"),
    ],
)
def test_more_is_said_only_where_intervals_do_not_overlap(after, interval, judged):
    a, b = run("A & co", 0.5, (0.4, 0.6)), run("B", after, interval)
    change = compare(a, b)[0]
    assert change == Change("x", 0.5, after, (0.4, 0.6), interval)
    assert change.judged == judged
    text = page(a, b, [change])
    assert "&lt;b&gt;words" in text
    assert "A &amp; co" in text
    said = re.findall(r"<li>(.*?)</li>", text)
    if change.told_apart:
        word = "higher" if judged == "more" else "lower"
        assert said == [f"X is {word} in B ({after:.3f}) than in A &amp; co (0.500)."]
    else:
        assert said == ["No number is told apart by its 95 % interval."]


def test_hfc_on_two_backgrounds_is_shown_and_not_judged(here):
    def frequencies(name, background, value):
        tags = ("hfc_lfc/r04", "hfc_hfc/r04", "hfc_gap/r04")
        result = {
            "settings": {"hfc_background": background, "radii": [4]},
            "samples": 512,
            "scalars": dict.fromkeys(tags, value),
            "intervals": {tag: [value - 0.05, value + 0.05] for tag in tags[:2]},
        }
        return Run(name, {"frequency_accuracy": result}, {})

    a, b = frequencies("A", "zero", 0.4), frequencies("B", "mean", 0.8)
    changes = compare(a, b)
    judged = {change.tag: change.judged for change in changes}
    assert judged["hfc_lfc/r04"] == "more"  # no HFC in it
    assert judged["hfc_hfc/r04"] == judged["hfc_gap/r04"] == "measured differently"
    text = page(a, b, changes)
    assert "LFC(4) is higher in B" in text
    assert "HFC(4) is" not in text
    assert "hfc_background zero against mean" in text
    assert {c.judged for c in compare(a, frequencies("B", "zero", 0.8))} == {"more", "no interval"}

    assert audit("net", "a").exit_code == 0
    assert audit("other", "b", "--hfc-background", "mean").exit_code == 0
    said = CliRunner().invoke(main, ["report", "a", "b"]).output
    assert "Not judged, since measured differently (frequency_accuracy: hfc_background" in said
    assert "HFC(" not in said


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
        compare(run("A", 1, None), Run("B", {"n": {"scalars": {}}}, {}))


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
        (BandAttribution, {"edges": (8, 99)}, {"edges": (8, 100)}, ["hfc_bands/r08"]),
        # Rounded, these two would have shared a tag, and one number would have been lost.
        (BandAttribution, {"edges": 1.2}, {"edges": (1.2, 1.4)}, ["hfc_bands/r01.2"]),
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
