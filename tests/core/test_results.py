"""What every result can do: print, JSON, HTML, figures."""

from __future__ import annotations

import dataclasses
import io
import json
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.tensorboard import SummaryWriter

import hfc_probe
from hfc_probe import FourierHeatmap, FrequencyAccuracy, InputError, KernelSpectra, Samples
from hfc_probe.core.drawing import png
from hfc_probe.measurements.overview import overview_figure


@pytest.fixture(scope="module")
def results():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    samples = Samples(torch.rand(24, 3, 12, 12), torch.arange(24) % 5)
    measurements = (
        FrequencyAccuracy(topk=(1, 2)),
        KernelSpectra(),
        FourierHeatmap(norm=1.0, samples=6),
    )
    return [m.measure(model, samples) for m in measurements], samples


def test_json_holds_everything_and_nothing_that_is_not_json(results, tmp_path):
    for result in results[0]:
        path = result.save(tmp_path / "deep" / f"{result.name}.json")
        loaded = json.loads(path.read_text(), parse_constant=pytest.fail)
        assert loaded["measurement"] == result.name
        assert loaded["summary"] == result.sentence()
        assert loaded["scalars"] == pytest.approx(result.scalars())
        for name, array in result.arrays().items():
            np.testing.assert_allclose(np.array(loaded["arrays"][name], dtype=float), array)
    assert loaded["settings"]["norm"] == 1.0
    assert [p.name for p in tmp_path.rglob(".*")] == []  # no temporary file stays


def test_what_is_not_finite_becomes_null(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 2, 3))
    nn.init.zeros_(model[0].weight)
    path = KernelSpectra().measure(model).save(tmp_path / "k.json")
    loaded = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert loaded["arrays"]["smoothness"] == [None, None]


def test_saving_where_nothing_can_be_written_is_told(results, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="a place that can be written"):
        results[0][0].save(tmp_path / "file" / "x.json")


def test_text_and_html_show_the_numbers(results):
    accuracy, spectra, heatmap = results[0]
    text = str(accuracy)
    assert f"{100 * float(accuracy.arrays()['lfc'][1]):.1f} %" in text
    assert "background zero" in text
    assert "24 images" in text
    assert "smoothness" in str(spectra)
    assert "(i, j) in cycles/image" in str(heatmap)
    for result in results[0]:
        html = result._repr_html_()
        assert "<table>" in html
        assert "data:image/png;base64," in html


def test_figures_draw_and_say_their_units(results):
    expected = {
        "frequency_accuracy": ["radius r (cycles/image)", "accuracy"],
        "kernel_spectra": ["frequency (cycles/pixel)"],
        "fourier_heatmap": [
            "j, horizontal (cycles/image)",
            "i, vertical (cycles/image)",
            "error rate",
        ],
    }
    for result in results[0]:
        figure = result.figure()
        labels = {text for a in figure.axes for text in (a.get_xlabel(), a.get_ylabel())}
        assert set(expected[result.name]) <= labels
        picture = np.asarray(Image.open(io.BytesIO(png(figure))))
        assert picture.std() > 10
        assert min(picture.shape[:2]) > 400


def test_the_background_is_written_into_the_figure(results):
    legend = results[0][0].figure().axes[0].get_legend()
    assert any("zero background" in text.get_text() for text in legend.get_texts())


def test_the_heatmap_picture_has_dc_in_the_middle_and_a_fixed_scale():
    samples = Samples(torch.full((8, 3, 9, 9), 0.5), torch.arange(8) % 2)

    class Brightness(nn.Module):
        def forward(self, x):
            shift = (x.mean((1, 2, 3)) - 0.5).abs()
            return torch.stack([0.01 - shift, shift], 1)

    result = FourierHeatmap(norm=1.0).measure(Brightness(), samples)
    image = result.figure().axes[0].get_images()[0]
    error = image.get_array()
    assert image.get_clim() == (0, 1)
    left, right, bottom, top = image.get_extent()
    assert (left + right) / 2 == 0
    assert (bottom + top) / 2 == 0
    others = np.delete(error.ravel(), 40)
    assert (others == 0.5).all()
    assert error[4, 4] != 0.5 or result.wrong[4, 4] == 4


def test_the_overview_shows_what_there_is(results):
    both, samples = results
    assert len(png(overview_figure(both, samples, "all"))) > 10_000
    assert len(png(overview_figure(both[1:2], None, "kernels alone"))) > 5_000
    with pytest.raises(InputError, match="expected results to draw"):
        overview_figure([], samples, "nothing")


def test_drawing_does_not_touch_the_callers_plotting_state(results):
    import matplotlib

    matplotlib.rcParams["font.size"] = 23
    try:
        before = dict(matplotlib.rcParams)
        results[0][0].figure()
        assert dict(matplotlib.rcParams) == before
    finally:
        matplotlib.rcdefaults()


@dataclasses.dataclass(frozen=True, eq=False)
class Counted(hfc_probe.measurements.FrequencyAccuracyResult):
    """A user's own result, which adds an array to its parent's and counts how often."""

    calls = 0

    def arrays(self):
        type(self).calls += 1
        return super().arrays() | {"twice": 2 * self.radii}


def test_arrays_are_computed_once_however_much_of_a_result_is_asked_for(tmp_path):
    samples = hfc_probe.Samples(torch.rand(6, 3, 8, 8), torch.arange(6) % 3)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 3))
    found = hfc_probe.FrequencyAccuracy(radii=(1, 2)).measure(model, samples)
    fields = {f.name: getattr(found, f.name) for f in dataclasses.fields(found)}
    result = Counted(**fields)
    with SummaryWriter(tmp_path) as writer:
        result.log(writer, step=1)
    result.to_dict(), result.figure(), result.intervals(), str(result)
    assert Counted.calls == 1
    result.arrays().clear()  # the dictionary is the caller's own
    assert result.arrays()["twice"].tolist() == [2, 4]
    again = pickle.loads(pickle.dumps(result))
    assert again.arrays().keys() == result.arrays().keys()
    assert dataclasses.replace(result, radii=2 * result.radii).arrays()["twice"].tolist() == [4, 8]
    assert Counted.calls == 3


def test_a_notebook_shows_the_figure_and_one_line_for_results_and_samples():
    samples = Samples(torch.zeros(6, 3, 8, 8), torch.tensor([0, 1, 2, 0, 1, 2]))
    assert repr(samples) == "<Samples, 6 images of 3×8×8 (torch.float32), 3 classes>"
    result = FrequencyAccuracy(radii=(2,)).measure(
        torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 3)), samples
    )
    said = repr({result.name: result})
    assert "\n" not in said
    assert f"<FrequencyAccuracyResult, 6 images: {result.sentence()}>" in said
    figure = result.figure()
    assert Image.open(io.BytesIO(figure._repr_png_())).size[0] > 600
    copied = pickle.loads(pickle.dumps(figure))
    assert copied._repr_png_().startswith(b"\x89PNG")
