"""Results that are saved, brought back and turned into tables."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest
import torch
from torch import nn

import hfc_probe
from hfc_probe import FrequencyAccuracy, InputError, Samples
from hfc_probe.core.drawing import png
from hfc_probe.measurements.loading import StoredResult
from hfc_probe.measurements.registry import MEASUREMENTS


@pytest.fixture(scope="module")
def run():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return model, Samples(torch.rand(24, 3, 16, 16), torch.arange(24) % 5)


CASES = {name: (name, {}) for name in MEASUREMENTS} | {
    "modelled heatmap": ("fourier_heatmap", {"norm": 1.0, "crop": 5, "forwards": 200}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_saved_result_comes_back_whole(run, case, tmp_path):
    name, settings = CASES[case]
    if name == "band_attribution":
        pytest.importorskip("captum", reason="captum is not installed")
    result = MEASUREMENTS[name](**settings).measure(*run)
    loaded = hfc_probe.load(result.save(tmp_path / "r.json"))
    assert type(loaded) is type(result)
    assert str(loaded) == str(result)
    assert png(loaded.figure()) == png(result.figure())
    assert loaded.per_image().keys() == result.per_image().keys()
    for tag, array in result.arrays().items():
        np.testing.assert_array_equal(loaded.arrays()[tag], array)
        assert loaded.arrays()[tag].dtype == array.dtype
    assert loaded.to_dict() == result.to_dict()


def test_a_file_without_fields_or_labels_has_its_numbers_figure_and_table(run, tmp_path):
    result = FrequencyAccuracy(radii=(2, 4)).measure(*run)
    content = result.to_dict()
    del content["fields"]
    path = tmp_path / "old.json"
    path.write_text(json.dumps(content))
    old = hfc_probe.load(path)
    assert isinstance(old, StoredResult)
    assert (old.name, old.sentence()) == ("frequency_accuracy", result.sentence())
    assert old.scalars() == result.scalars()
    assert old.intervals() == result.intervals()
    axes = old.figure().axes[0]
    assert [line.get_label() for line in axes.lines] == ["LFC", "HFC", "original"]
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), result.arrays()["lfc"])
    for part in ("labels", "intervals", "arrays", "per_image", "provenance"):
        del content[part]  # as the first version wrote it
    path.write_text(json.dumps(content))
    oldest = hfc_probe.load(path)
    assert oldest.scalars() == result.scalars()
    assert "hfc_lfc/r02" in str(oldest)
    assert len(oldest.figure().axes[0].patches) == len(result.scalars())


def test_what_is_no_result_is_told(tmp_path):
    path = tmp_path / "x.json"
    with pytest.raises(InputError, match=r"a file that Result\.save wrote, got .*No such file"):
        hfc_probe.load(path)
    for text, sentence in (
        ("{", "a damaged file"),
        ("[]", "without measurement and scalars"),
        ('{"measurement": "a", "scalars": {"b": "c"}}', "parts that do not fit"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=sentence):
            hfc_probe.load(path)


def test_tables_have_a_row_for_each_number(run, tmp_path):
    result = FrequencyAccuracy(radii=(2, 4)).measure(*run)
    text = result.to_csv(tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text() == text
    rows = {row["tag"]: row for row in csv.DictReader(io.StringIO(text))}
    assert {tag: float(row["value"]) for tag, row in rows.items()} == result.scalars()
    low, high = result.intervals()["hfc_lfc/r04"]
    row = rows["hfc_lfc/r04"]
    assert (float(row["lower"]), float(row["upper"]), float(row["radius"])) == (low, high, 4.0)
    assert (row["text"], row["part"]) == ("accuracy on LFC(4)", "lfc")
    latex = result.to_latex()
    assert latex.startswith("\\begin{tabular}{lrr}")
    assert f"{100 * result.scalars()['hfc_lfc/r02']:.1f} \\%" in latex


def test_a_data_frame_has_the_same_rows_or_one_sentence(run, monkeypatch):
    result = FrequencyAccuracy(radii=(2, 4)).measure(*run)
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(InputError, match=r"pandas to be installed.*pip install pandas"):
        result.to_frame()
    monkeypatch.undo()
    pytest.importorskip("pandas", reason="pandas is not installed")
    frame = result.to_frame().set_index("tag")
    assert frame["value"].to_dict() == result.scalars()
    assert frame.loc["hfc_hfc/r02", "radius"] == 2.0
