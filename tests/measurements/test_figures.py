"""What a reader sees in a figure is what the arrays say: curves, bands, maps, labels, units."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
import torch
from torch import nn

import hfc_probe as h
from hfc_probe import fourier
from hfc_probe.core.intervals import percent
from hfc_probe.measurements.overview import overview_figure

from ..conftest import needs_captum

LOW_BLUE, HIGH_ORANGE = "#0072B2", "#D55E00"
SIDE, COUNT, CLASSES = 8, 24, 4


def model():
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(5 * SIDE**2, CLASSES)
    )


@functools.cache
def samples():
    """Images that the model is right about, half of the time on each component."""
    torch.manual_seed(1)
    images = torch.rand(COUNT, 3, SIDE, SIDE)
    with torch.no_grad():
        targets = model()(images).argmax(1)
    targets[::6] = (targets[::6] + 1) % CLASSES
    return h.Samples(images, targets)


def measured(measurement):
    return measurement.measure(model(), samples())


def line(axes, start):
    """The one line whose label starts so."""
    found = [one for one in axes.lines if str(one.get_label()).startswith(start)]
    exact = [one for one in found if one.get_label() == start]
    (one,) = exact or found
    return one


def bands(axes):
    """Colour, x, lower and upper ends of every band between curves."""
    from matplotlib.colors import to_hex

    for one in axes.collections:
        if type(one).__name__ in ("PolyCollection", "FillBetweenPolyCollection"):
            points = one.get_paths()[0].vertices
            x = np.unique(points[:, 0])
            ends = [points[np.isclose(points[:, 0], at), 1] for at in x]
            low, high = ([end(part) for part in ends] for end in (np.min, np.max))
            yield to_hex(one.get_facecolor()[0]).upper(), x, np.array(low), np.array(high)


def assert_curve(axes, label, x, arrays, name, at=(), colour=None, *, offset=0):
    """A line with that label shows an array, in its band of the interval."""
    found = line(axes, label)
    np.testing.assert_allclose(found.get_xdata(), x)
    np.testing.assert_allclose(found.get_ydata()[offset:], arrays[name][at])
    if colour:
        assert found.get_color().upper() == colour
    wanted = [arrays[f"{name}_{end}"][at] for end in ("lower", "upper")]
    assert any(
        shade == found.get_color().upper()
        and np.allclose(where, x)
        and np.allclose(low[offset:], wanted[0])
        and np.allclose(high[offset:], wanted[1])
        for shade, where, low, high in bands(axes)
    ), f"no band of {name}"


def shown_at(axes, i, j):
    """What the picture shows where the axes say (i, j): i down, j to the right."""
    picture = axes.images[0]
    data = np.asarray(picture.get_array())
    left, right, bottom, top = picture.get_extent()
    if picture.origin == "lower":
        data = data[::-1]
    row = int((i - top) / (bottom - top) * data.shape[0])
    column = int((j - left) / (right - left) * data.shape[1])
    return data[row, column]


def assert_map(axes, values):
    """A map with DC in the middle, each cell where its frequency is on the axes."""
    rows, columns = values.shape
    for row in range(rows):
        for column in range(columns):
            found = shown_at(axes, row - rows // 2, column - columns // 2)
            assert float(found) == pytest.approx(float(values[row, column]), abs=1e-6)
    low, high = axes.get_ylim()
    assert low > high  # i grows downwards, as the rows of an image do
    assert axes.get_xlim()[0] < axes.get_xlim()[1]
    assert axes.get_xlabel() == "j, horizontal (cycles/image)"
    assert axes.get_ylabel() == "i, vertical (cycles/image)"


def bars_of(axes):
    """Label, centre, height (or width) and error bar of every bar, in order."""
    found = []
    for container in axes.containers:
        if type(container).__name__ != "BarContainer":
            continue
        segments = container.errorbar.lines[2][0].get_segments() if container.errorbar else []
        for k, bar in enumerate(container):
            ends = sorted(segments[k][:, 1]) if len(segments) else None
            found.append((bar.get_x() + bar.get_width() / 2, bar.get_y(), bar.get_height(), ends))
    return found


def texts(figure):
    found = figure.findobj(match=lambda artist: hasattr(artist, "get_text"))
    return [artist.get_text() for artist in found if artist.get_text()]


def grows_up(axes):
    low, high = axes.get_ylim()
    return low < high


def test_accuracy_by_frequency():
    result = measured(h.FrequencyAccuracy(radii=(1, 2, 3)))
    arrays = result.arrays()
    assert not np.allclose(arrays["lfc"], arrays["hfc"])
    (axes,) = result.figure().axes
    assert_curve(axes, "LFC, d ≤ r", (1, 2, 3), arrays, "lfc", colour=LOW_BLUE)
    assert_curve(axes, "HFC, d > r", (1, 2, 3), arrays, "hfc", colour=HIGH_ORANGE)
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert legend[0].startswith("LFC")
    assert legend[1].startswith("HFC")
    assert "zero" in legend[1]
    (original,) = (one for one in axes.lines if str(one.get_label()).startswith("_child"))
    assert set(original.get_ydata()) == {float(arrays["original"])}
    assert f"original {percent(float(arrays['original']))}" in texts(axes.figure)
    assert axes.get_xlabel() == "radius r (cycles/image)"
    assert axes.get_ylabel() == "accuracy"
    assert str(COUNT) in axes.get_title()
    assert "95 %" in axes.get_title()
    assert axes.get_ylim()[0] == 0
    assert axes.get_ylim()[1] > 1
    assert list(axes.get_xticks()) == [1, 2, 3]


def test_accuracy_says_what_was_measured():
    options = {"closed": False, "units": "nyquist", "topk": 2, "hfc_background": "mean"}
    (axes,) = measured(h.FrequencyAccuracy(radii=(0.5, 1), **options)).figure().axes
    assert line(axes, "LFC, d < r")
    assert "mean" in line(axes, "HFC, d ≥ r").get_label()
    assert axes.get_xlabel() == "radius r (× Nyquist)"
    assert axes.get_ylabel() == "top-2 accuracy"


def test_fourier_heatmap():
    result = measured(h.FourierHeatmap(norm=1.5))
    arrays = result.arrays()
    left, right, bar = result.figure().axes
    assert arrays["error"].std() > 0.01
    assert not np.allclose(arrays["error"][1:], arrays["error"][1:][::-1])
    assert_map(left, arrays["error"])
    assert left.images[0].get_clim() == (0, 1)  # so that maps of two models can be compared
    assert "norm 1.5" in left.get_title()
    assert bar.get_ylabel().endswith(f"(no noise: {float(arrays['clean_error']):.2f})")
    i, j = result.frequencies()
    ring = np.floor(np.hypot(i[:, None], j[None]) + 0.5).astype(int)
    mean = line(right, "mean over ring")
    np.testing.assert_allclose(mean.get_xdata(), range(ring.max() + 1))
    expected = [arrays["error"][ring == k].mean() for k in range(ring.max() + 1)]
    np.testing.assert_allclose(mean.get_ydata(), expected)
    assert set(line(right, "no noise").get_ydata()) == {float(arrays["clean_error"])}
    assert right.get_xlabel() == "distance from DC (cycles/image)"
    assert right.get_ylabel() == result.unit
    assert f"{COUNT} of {COUNT} images" in right.get_title()
    assert grows_up(right)
    span = next(patch for patch in right.patches if patch.get_alpha())
    ends = span.get_extents().transformed(right.transData.inverted())
    wanted = [float(arrays[f"clean_error_{end}"]) for end in ("lower", "upper")]
    np.testing.assert_allclose([ends.y0, ends.y1], wanted)


def test_fourier_sensitivity():
    result = measured(h.FourierSensitivity())
    left, right, bar = result.figure().axes
    assert_map(left, np.maximum(result.sensitivity, result.sensitivity.max() / 1e4))
    assert bar.get_ylabel().endswith("(loss per unit L2 norm)")
    assert f"({COUNT} images)" in left.get_title()
    (profile,) = right.lines
    np.testing.assert_allclose(profile.get_xdata(), result.arrays()["radius"])
    np.testing.assert_allclose(profile.get_ydata(), result.arrays()["radial_profile"])
    assert right.get_xlabel() == "distance from DC (cycles/image)"
    assert f"{result.centroid():.1f} cycles/image" in right.get_title()
    assert grows_up(right)


def test_kernels_and_their_spectra():
    layer = nn.Conv2d(3, 2, 3, bias=False)
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[0] += 1 / 9  # a mean: all of its power is about DC
        layer.weight[1, 0, 0, 2] = 1.0  # red, top right
        layer.weight[1, :, 2, 0] = -1.0  # black, bottom left
    result = h.KernelSpectra(size=8).measure(nn.Sequential(layer))
    kernels, spectra, profile = result.figure().axes
    picture = np.asarray(kernels.images[0].get_array())
    assert kernels.images[0].get_clim() == (0, 255)
    height, width = picture.shape[:2]
    second = picture[:, width // 2 :]
    inner = second[2:-2, 2:-2]
    red = np.argwhere((inner == (255, 128, 128)).all(-1)).mean(0)
    black = np.argwhere((inner == (1, 1, 1)).all(-1)).mean(0)
    assert red[0] < height / 2 < black[0]  # rows go downwards
    assert black[1] < red[1]
    assert kernels.get_ylim()[0] > kernels.get_ylim()[1]
    power = np.asarray(spectra.images[0].get_array()).astype(int).sum(-1)
    assert power[power < 765].max() > 0
    first = np.where(power == 765, 0, power)[:, : power.shape[1] // 2]
    brightest = np.argwhere(first == first.max()).mean(0)
    middle = np.array(first.shape) / 2
    assert np.abs(brightest - middle).max() < 0.1 * first.shape[0]
    assert "DC in the middle" in spectra.get_xlabel()
    assert "cycles/pixel" in spectra.get_xlabel()
    arrays = result.arrays()
    mean = line(profile, "mean over kernels")
    np.testing.assert_allclose(mean.get_xdata(), arrays["radial_frequency"])
    relative = arrays["radial_profile"] / arrays["radial_profile"].max(1, keepdims=True)
    np.testing.assert_allclose(mean.get_ydata(), relative.mean(0))
    ((_, _, low, high),) = bands(profile)
    np.testing.assert_allclose(low, np.percentile(relative, 10, axis=0))
    np.testing.assert_allclose(high, np.percentile(relative, 90, axis=0))
    assert profile.get_xlabel() == "frequency (cycles/pixel)"
    smoothness = result.scalars()[f"{result.section}/smoothness_mean"]
    assert f"smoothness {smoothness:.2f}" in profile.get_title()
    assert "0" in kernels.get_title()  # the layer's name


def test_adversarial_accuracy():
    settings = {"epsilons": (0.01, 0.05), "rhos": (0.0, 0.5), "perturbation_radii": (1, 3)}
    result = measured(h.AdversarialAccuracy(steps=2, step_size=0.002, **settings))
    arrays = result.arrays()
    assert not np.allclose(arrays["fgsm"], arrays["pgd"])
    fgsm, pgd, spectrum, filtered = result.figure().axes[:4]
    for axes, name in ((fgsm, "fgsm"), (pgd, "pgd")):
        assert axes.get_title().startswith(name.upper())
        assert f"({COUNT} images)" in axes.get_title()
        assert axes.get_xlabel().startswith("ε, L∞ in pixel values")
        assert axes.get_ylim()[0] == 0
        for row, rho in enumerate((0, 0.5)):
            label, x = f"ρ = {rho:g}", (0, 0.01, 0.05)
            assert_curve(axes, label, x, arrays, name, (row,), offset=1)
            assert line(axes, label).get_ydata()[0] == arrays["clean"][row]
    log = np.log10(arrays["pgd_spectrum"][-1])
    assert_map(spectrum, log)
    assert "0.05" in spectrum.get_title()
    assert_curve(filtered, "only d ≤ r", (1, 3), arrays, "pgd_lfc", (-1,), LOW_BLUE)
    assert_curve(filtered, "only d > r", (1, 3), arrays, "pgd_hfc", (-1,), HIGH_ORANGE)
    assert filtered.get_xlabel() == "radius r (cycles/image)"


def test_component_examples():
    result = measured(h.ComponentExamples(radii=(1, 2), group="both", examples=3))
    arrays = result.arrays()
    figure = result.figure()
    groups = next(axes for axes in figure.axes if axes.get_xlabel().startswith("radius"))
    handles, labels = groups.get_legend_handles_labels()
    bottom = np.zeros(2)
    names = {"both": "both", "LFC only": "low_only", "HFC only": "high_only", "neither": "neither"}
    for handle, label in zip(handles, labels, strict=True):
        np.testing.assert_allclose([bar.get_height() for bar in handle], arrays[names[label]])
        np.testing.assert_allclose([bar.get_y() for bar in handle], bottom)
        bottom = bottom + arrays[names[label]]
    assert [tick.get_text() for tick in groups.get_xticklabels()] == ["1", "2"]
    assert f"{result.original_right} images" in groups.get_ylabel()
    pictures = [axes for axes in figure.axes if axes.images]
    assert len(pictures) == 3 * len(result.example_index)
    for axes in pictures:
        name = axes.get_title().split()[0]
        row = ("original", "LFC", "HFC").index(name)
        shown = np.moveaxis(np.asarray(axes.images[0].get_array()), -1, 0)
        gain = float(axes.get_title().split()[2]) if name == "HFC" else 1.0
        expected = [gain * e[row] + (0.5 if row == 2 else 0) for e in result.example_images]
        assert any(np.allclose(shown, e.clip(0, 1), atol=1e-6) for e in expected), name


def test_amplitude_and_phase():
    result = measured(h.AmplitudePhase(examples=2))
    axes = next(a for a in result.figure().axes if a.get_ylabel() == "accuracy against")
    names = [
        "original",
        *("phase_kept_own", "phase_kept_other"),
        *("amplitude_kept_other", "amplitude_kept_own"),
    ]
    for (_, _, height, ends), name in zip(bars_of(axes), names, strict=True):
        np.testing.assert_allclose([height, *ends], result.of(name))
    legend = dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
    colours = {label: handle[0].get_facecolor() for label, handle in legend.items()}
    assert colours["the phase's label"] == axes.patches[1].get_facecolor()
    assert f"({result.samples} images" in axes.get_title()
    assert grows_up(axes)


def test_truncated_svd():
    result = measured(h.TruncatedSVD(ranks=(1, 3)))
    arrays = result.arrays()
    left, right = result.figure().axes
    assert_curve(left, "leading", (0, 1), arrays, "leading")
    assert_curve(left, "LFC", (0, 1), arrays, "lfc", colour=LOW_BLUE)
    assert_curve(right, "trailing", (0, 1), arrays, "trailing")
    assert_curve(right, "HFC", (0, 1), arrays, "hfc", colour=HIGH_ORANGE)
    ticks = [tick.get_text() for tick in left.get_xticklabels()]
    assert ticks[1].startswith(f"k = 3\nr = {result.radii[1]:.1f}\n{100 * result.energy[1]:.1f} %")
    assert left.get_ylabel() == "accuracy"
    assert left.get_ylim() == right.get_ylim() == (0, 1.02)


def test_input_spectrum():
    result = measured(h.InputSpectrum())
    result = dataclasses.replace(result, adcs=result.adcs.clip(-1, 1))  # below the scale's ends
    figure = result.figure()
    spectrum, profile = figure.axes[:2]
    assert_map(spectrum, np.log10(result.power))
    mean = line(profile, "mean over rings")
    np.testing.assert_allclose(mean.get_xdata(), range(1, SIDE // 2 + 1))
    np.testing.assert_allclose(mean.get_ydata(), result.radial[1 : SIDE // 2 + 1])
    assert f"1/f^{result.slope:.2f}" in line(profile, "fit").get_label()
    assert profile.get_xlabel() == "frequency (cycles/image)"
    assert f"({COUNT} images)" in profile.get_title()
    maps = {a.get_title(): a.images[0] for a in figure.axes if a.get_title().startswith("class")}
    for k, label in enumerate(result.classes):
        picture = maps[f"class {label}"]
        np.testing.assert_allclose(picture.get_array(), result.adcs[k])
        assert picture.origin == "upper"
    most = len(result.classes) - 1
    assert {picture.get_clim() for picture in maps.values()} == {(-most, most)}  # one for all


def test_critical_band():
    result = measured(h.CriticalBand(strengths=(0.05, 0.3), centres=(1, 2, 4)))
    accuracy = result.arrays()["accuracy"]
    left, right = result.figure().axes[:2]
    rows = [tick.get_text() for tick in left.get_yticklabels()]
    columns = [tick.get_text() for tick in left.get_xticklabels()]
    picture = np.asarray(left.images[0].get_array())
    written = {t.get_position(): t.get_text() for t in left.texts}
    for row, strength in enumerate((0.05, 0.3)):
        for column, centre in enumerate((1, 2, 4)):
            at = columns.index(f"{centre:g}"), rows.index(f"{strength:g}")
            assert picture[at[1], at[0]] == accuracy[row, column]
            assert written[at] == f"{accuracy[row, column]:.2f}"
    assert left.images[0].get_clim() == (0, 1)
    assert left.get_xlabel() == "centre of the noise's octave (cycles/image)"
    points = line(right, "model, measured")
    np.testing.assert_allclose(points.get_xdata(), (1, 2, 4))
    np.testing.assert_allclose(points.get_ydata(), result.sensitivity)
    people = line(right, "people")
    peak = people.get_xdata()[np.argmax(people.get_ydata())]
    assert peak == pytest.approx(result.human_centre, rel=0.05)


@needs_captum
def test_band_attribution():
    result = measured(h.BandAttribution(permutations=3, samples=6))
    arrays = result.arrays()
    figure = result.figure()
    axes = next(a for a in figure.axes if a.get_ylabel() == "attribution (logits)")
    found = bars_of(axes)
    np.testing.assert_allclose([height for _, _, height, _ in found], arrays["mean"])
    ends = np.array([ends for *_, ends in found]).T
    np.testing.assert_allclose(ends, [arrays["mean_lower"], arrays["mean_upper"]], atol=1e-9)
    assert [tick.get_text() for tick in axes.get_xticklabels()] == list(result.bands)
    assert axes.get_xlabel() == "band (cycles/image)"
    assert "6 images" in axes.get_title()
    singles = [a for a in figure.axes if a.patches and a is not axes]
    assert len({a.get_ylim() for a in singles}) == 1  # compared, so on one scale
    for k, one in enumerate(singles):
        np.testing.assert_allclose([bar.get_height() for bar in one.patches], result.attribution[k])


def test_corruption_accuracy():
    result = measured(h.CorruptionAccuracy(severities=(1, 5)))
    error = result.arrays()["error"]
    left, right = result.figure().axes[:2]
    np.testing.assert_allclose(left.images[0].get_array(), error)
    assert left.images[0].origin == "upper"
    assert left.images[0].get_clim() == (0, 1)
    names = [tick.get_text() for tick in left.get_yticklabels()]
    assert names == [name.replace("_", " ") for name in result.corruptions]
    assert [tick.get_text() for tick in left.get_xticklabels()] == ["1", "5"]
    np.testing.assert_allclose([bar.get_width() for bar in right.patches], error.mean(1))
    segments = right.containers[-1].errorbar.lines[2][0].get_segments()
    tags = {tag.split("/")[1]: ends for tag, ends in result.intervals().items()}
    for name, segment in zip(result.corruptions, segments, strict=True):
        np.testing.assert_allclose(sorted(segment[:, 0]), tags[name], atol=1e-9)
    clean = float(result.arrays()["clean_error"])
    assert set(line(right, "clean").get_xdata()) == {clean}
    assert percent(clean) in line(right, "clean").get_label()
    assert right.get_xlabel() == "mean error over severities"


def test_calibration():
    result = measured(h.Calibration(radii=(1, 3), resamples=20))
    arrays = result.arrays()
    for axes, kind in zip(result.figure().axes, ("ece", "auroc"), strict=True):
        assert_curve(axes, "LFC", (1, 3), arrays, f"{kind}_lfc", colour=LOW_BLUE)
        assert_curve(axes, "HFC", (1, 3), arrays, f"{kind}_hfc", colour=HIGH_ORANGE)
        assert axes.get_xlabel() == "radius r (cycles/image)"
        assert axes.get_ylim() == (0, 1.02)
    original = float(arrays["ece_original"])
    assert set(line(result.figure().axes[0], "original").get_ydata()) == {original}


class Numbers(h.Result):
    name = "numbers"

    def scalars(self):
        return {"a/first": 0.25, "b/second": 0.75}

    def intervals(self):
        return {"b/second": (0.5, 0.875)}


def test_a_result_of_ones_own():
    (axes,) = Numbers(settings={}, samples=3).figure().axes
    for k, (tag, value) in enumerate({"a/first": 0.25, "b/second": 0.75}.items()):
        assert axes.get_yticklabels()[k].get_text() == tag
        assert axes.patches[k].get_width() == value
        assert axes.patches[k].get_y() + axes.patches[k].get_height() / 2 == pytest.approx(k)
    np.testing.assert_allclose(axes.lines[1].get_xdata(), [0.5, 0.875])
    assert axes.get_xlabel() == "value (95 % interval)"


def test_axes_of_ones_own_are_drawn_into():
    from matplotlib.figure import Figure

    figure = Figure()
    left, right = figure.subplots(1, 2)
    result = measured(h.FrequencyAccuracy(radii=(1, 2, 3)))
    assert result.figure(ax=right) is figure
    assert_curve(right, "LFC, d ≤ r", (1, 2, 3), result.arrays(), "lfc", colour=LOW_BLUE)
    assert not left.lines
    assert Numbers(settings={}, samples=3).figure(ax=left) is figure
    assert [patch.get_width() for patch in left.patches] == [0.25, 0.75]
    with pytest.raises(
        h.InputError, match=r"one figure or subfigure or axes, got ndarray; pass one"
    ):
        result.figure(ax=Figure().subplots(1, 2))


def test_a_result_of_several_panels_takes_a_subfigure_and_says_so():
    from matplotlib.figure import Figure

    figure = Figure()
    above, below = figure.subfigures(2, 1)
    result = measured(h.TruncatedSVD(ranks=(1, 3)))
    with pytest.raises(
        h.InputError,
        match=r"one figure or subfigure \(truncated_svd has several panels\), got Axes",
    ):
        result.figure(ax=above.subplots())
    assert result.figure(ax=below) is figure
    left, _ = below.axes
    assert_curve(left, "leading", (0, 1), result.arrays(), "leading")


def test_a_log_draws_no_figure_unless_asked_and_its_maps_are_the_arrays():
    from matplotlib import colormaps

    class Writer:
        def __init__(self):
            self.images, self.figures = {}, {}

        def add_scalar(self, tag, value, step):
            pass

        def add_image(self, tag, image, step, dataformats):
            self.images[tag] = image

        def add_figure(self, tag, figure, step):
            self.figures[tag] = figure

    heatmap, writer = measured(h.FourierHeatmap(norm=1.5)), Writer()
    for result in (heatmap, measured(h.TruncatedSVD(ranks=(1,))), measured(h.AmplitudePhase())):
        result.log(writer, 0)
    assert not writer.figures
    assert set(writer.images) == {"hfc_heatmap/1.5", "hfc_phase/pictures"}
    picture = writer.images["hfc_heatmap/1.5"]
    zoom = len(picture) // SIDE
    expected = colormaps["viridis"](heatmap.arrays()["error"], bytes=True)[..., :3]
    np.testing.assert_array_equal(picture[zoom // 2 :: zoom, zoom // 2 :: zoom], expected)
    heatmap.log(writer, 1, figure=True)
    assert set(writer.figures) == {"hfc_fourier_heatmap/figure"}


def test_overview():
    accuracy = measured(h.FrequencyAccuracy(radii=(1, 2)))
    spectra, heatmap = measured(h.KernelSpectra()), measured(h.FourierHeatmap())
    figure = overview_figure([accuracy, heatmap, spectra], samples(), "a title")
    assert "a title" in texts(figure)
    by_title = {axes.get_title(): axes for axes in figure.axes}
    assert_curve(
        by_title["Accuracy by frequency"], "LFC", (1, 2), accuracy.arrays(), "lfc", (), LOW_BLUE
    )
    image = samples().pixels(slice(0, 1))
    for radius, lfc, hfc in zip(
        (1, 2), accuracy.arrays()["lfc"], accuracy.arrays()["hfc"], strict=True
    ):
        low, high = fourier.split(image, radius)
        for name, rate, part in (("LFC", lfc, low), ("HFC", hfc, 0.5 + high)):
            axes = by_title[f"{name}, r = {radius}\n{percent(float(rate))}"]
            shown = np.moveaxis(np.asarray(axes.images[0].get_array()), -1, 0)
            np.testing.assert_allclose(shown, part[0].clamp(0, 1), atol=1e-6)
    maps = next(axes for title, axes in by_title.items() if "Fourier noise" in title)
    assert_map(maps, heatmap.arrays()["error"])
    assert any("accuracy on\n24 images" in text for text in texts(figure))
