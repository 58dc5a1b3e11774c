"""What results say of planted models whose right sentence is known, and where they come from."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray
from torch import nn

import hfc_probe
from hfc_probe import Every, FourierHeatmap, FrequencyAccuracy, KernelSpectra, Samples
from hfc_probe.core.event_file import MOMENTARY
from hfc_probe.core.provenance import weights_hash
from hfc_probe.measurements import FrequencyAccuracyResult, registry

from ..measurements.planted import ReadsFrequencies, coded

CHANCE = "Accuracy on the original images is not above chance"
SMALL = {
    "adversarial_accuracy": {"epsilons": (0.01,), "steps": 1},
    "band_attribution": {"permutations": 1, "edges": (2, 4)},
    "corruption_accuracy": {"severities": (1,), "corruptions": ("fourier_wave_low",)},
    "component_examples": {"group": "both"},
    "critical_band": {"strengths": (0.1,)},
    "fourier_heatmap": {"norm": 1.0, "crop": 3},
    "truncated_svd": {"ranks": (2, 4)},
}
OF_ACCURACY = sorted(set(registry.MEASUREMENTS) - {"input_spectrum", "kernel_spectra"})


class Constant(nn.Module):
    """Always the same class, by a large margin; the images move the logits a little."""

    def __init__(self, classes=4, says=1):
        super().__init__()
        self.register_buffer("logits", nn.functional.one_hot(torch.tensor(says), classes).float())

    def forward(self, x):
        return self.logits * (3 + x.mean((1, 2, 3))[:, None])


def random_samples(targets, size=16):
    generator = torch.Generator().manual_seed(0)
    return Samples(torch.rand(len(targets), 3, size, size, generator=generator), targets)


@pytest.mark.parametrize("name", OF_ACCURACY)
def test_no_measurement_judges_a_constant_predictor(name):
    if name == "band_attribution":
        pytest.importorskip("captum", reason="pip install 'hfc_probe[attribution]'")
    # 3 of 12 images are of the class that is always said: right in 25 %, as a guess is.
    samples = random_samples(torch.arange(12) % 4)
    result = registry.MEASUREMENTS[name](**SMALL.get(name, {})).measure(Constant(), samples)
    assert result.original() == (3, 12, 1)
    assert result.sentence().startswith(f"{CHANCE} (25.0 %, 1 of 4 classes): 25.0 % [")
    assert result.sentence().endswith("check weights, labels and normalisation.")
    assert result.provenance["chance"] == 0.25
    assert result.provenance["classes"] == 4
    assert result.provenance["passes"] > 0
    text = str(result)
    assert text.index(CHANCE) < text.index("hfc_probe 0")


@pytest.mark.parametrize("name", ["frequency_accuracy", "fourier_sensitivity", "truncated_svd"])
def test_a_model_above_chance_is_judged(name):
    model, samples = ReadsFrequencies([(3, 0)], 16, 16), coded(3, 0, 16, 16)
    result = registry.MEASUREMENTS[name](**SMALL.get(name, {})).measure(model, samples)
    assert CHANCE not in result.sentence()


def measured(model, samples, **settings):
    return FrequencyAccuracy(**{"radii": (2, 6), **settings}).measure(model, samples)


def band_model():
    return ReadsFrequencies([(4, 0)], 16, 16), coded(4, 0, 16, 16)


def test_a_model_that_reads_one_band_is_said_to():
    model, samples = band_model()
    assert "relies most on frequencies between 2 and 6 cycles/image:" in (
        measured(model, samples).sentence()
    )
    assert "relies on high frequencies" in measured(model, samples, radii=(2, 3)).sentence()
    assert "relies on low frequencies" in measured(model, samples, radii=(5, 6)).sentence()


def test_one_class_alone_says_nothing():
    model, samples = band_model()
    one = samples.targets == 1
    result = measured(model, Samples(samples.images[one], samples.targets[one]))
    assert result.scalars()["hfc_accuracy/original"] == 1
    assert f"{CHANCE} (100.0 %, all images are of one class)" in result.sentence()


def test_shifted_labels_are_no_reliance_on_anything():
    model, samples = band_model()
    result = measured(model, Samples(samples.images, 1 - samples.targets))
    assert result.scalars()["hfc_accuracy/original"] == 0
    assert CHANCE in result.sentence()


def test_an_untrained_network_is_not_judged():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert CHANCE in measured(net, random_samples(torch.arange(160) % 8)).sentence()


def test_the_majority_class_counts_where_classes_are_unequal():
    # 90 of 100 are of class 1: the constant 90 % are no better than a guess, though K is 4.
    samples = random_samples(torch.tensor([1] * 90 + [0, 2, 3, 0, 2, 3, 0, 2, 3, 0]))
    sentence = measured(Constant(), samples).sentence()
    assert f"{CHANCE} (90.0 %, the share of the largest class): 90.0 %" in sentence


def test_a_few_images_are_too_few_to_tell_a_model_from_a_guess():
    model, samples = band_model()
    few = torch.tensor([0, 1])
    sentence = measured(model, Samples(samples.images[few], samples.targets[few])).sentence()
    assert f"{CHANCE} (50.0 %, 1 of 2 classes): 100.0 % [34.2, 100.0] of 2 images" in sentence
    assert "measure more images, or check weights" in sentence


class Offset(nn.Module):
    """Knows each image's class from its brightness, and ranks it second of ten."""

    def forward(self, x):
        wanted = (x.mean((1, 2, 3)) * 100).round().long() % 10
        first = nn.functional.one_hot((wanted + 1) % 10, 10)
        return 2.0 * first + nn.functional.one_hot(wanted, 10)


def test_the_chance_of_the_top_k_is_k_of_the_classes():
    targets = torch.arange(100) % 10
    images = (targets / 100 + 0.3).view(-1, 1, 1, 1).expand(-1, 3, 16, 16).contiguous()
    samples = Samples(images, targets)
    assert measured(Offset(), samples).provenance["chance"] == 0.1
    assert CHANCE in measured(Offset(), samples).sentence()  # never first
    two = measured(Offset(), samples, topk=(2,))
    assert two.provenance["chance"] == 0.2
    assert CHANCE not in two.sentence()
    assert "right within the top 2" in two.sentence()
    constant = measured(Constant(10), samples, topk=(2,))
    assert f"{CHANCE} (20.0 %, 2 of 10 classes): 20.0 %" in constant.sentence()
    every = measured(Offset(), samples, topk=(10,))
    assert f"{CHANCE} (100.0 %, any 10 classes hold the target)" in every.sentence()


def counts(low, high, clean, n=512, chance=0.1, **settings):
    """A result whose views are right on the first so many images each."""
    radii = (4, 8, 12, 16)[: len(low)]
    given = {"original": [clean], "lfc": low, "hfc": high}
    views = np.array([clean, *(x for pair in zip(low, high, strict=True) for x in pair)])
    return FrequencyAccuracyResult(
        settings={"hfc_background": "zero", "units": "cycles", "closed": True, **settings},
        samples=n,
        radii=np.array(radii, dtype=float),
        topk=settings.get("topk", (1,)),
        counts={k: np.array(v)[:, None, None] for k, v in given.items()},
        right=(np.arange(n) < views[:, None])[:, None],
        agreement={},
        class_counts=np.array([n]),
        provenance={"chance": chance, "classes": 10},
    )


def test_a_part_that_regains_the_accuracy_at_the_last_radius_alone_is_not_relied_on():
    # A linear classifier: 29.7 %, and 17.2 % from the frequencies up to 8.
    sentence = counts((55, 88, 105, 152), (50, 51, 50, 52), clean=152).sentence()
    assert "relies on" not in sentence
    assert sentence.startswith(
        "Neither low nor high frequencies alone are enough for this model below 16 cycles/image: "
        "frequencies up to 12 cycles/image alone give 20.5 %, those beyond alone 9.8 %; "
        "frequencies up to 16 cycles/image alone give 29.7 %, those beyond alone 10.2 %"
    )


@pytest.mark.parametrize(
    ("low", "high", "clean", "n", "words"),
    [
        # Never enough: the accuracy is beyond what any part gives.
        ((55, 88, 105, 120), (50, 51, 50, 52), 300, 512, "this model at any radius measured"),
        # High ones alone, from the first radius only.
        ((50, 50, 50, 50), (450, 90, 60, 50), 460, 512, "for this model above 4 cycles/image"),
        # Above the original: the LFC does better, and still it is low frequencies.
        ((500, 500, 500, 500), (50, 50, 50, 50), 400, 512, "relies on low frequencies"),
        # Saturated: everything is right.
        ((512,) * 4, (512,) * 4, 512, 512, "Low or high frequencies alone are enough"),
        # Ten images: 8 of 9 in either part prove nothing.
        ((8, 8, 8, 8), (8, 8, 8, 8), 9, 10, "do not clearly differ"),
        # ResNet-20 on CIFAR-10.
        ((80, 201, 401, 457), (283, 151, 100, 55), 470, 512, "are enough at 4 and 8"),
    ],
)
def test_what_is_enough(low, high, clean, n, words):
    assert words in counts(low, high, clean, n).sentence()


def test_a_sentence_names_what_is_not_the_usual_way():
    usual = counts((500,) * 4, (50,) * 4, 510)
    assert usual.sentence().endswith("(HFC on zero background).")
    other = counts((500,) * 4, (50,) * 4, 510, closed=False, topk=(5,), rescale="max")
    assert other.sentence().endswith(
        "(HFC on zero background, rescaled by max, LFC of d < r, right within the top 5)."
    )


def network():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )


def test_results_say_where_they_come_from_and_json_keeps_it(tmp_path):
    samples = Samples(
        torch.rand(20, 3, 12, 12),
        torch.arange(20) % 4,
        caveats=("images change at each reading",),
        provenance={"data": "planted", "normalization": "none", "resampling": "to 12 pixels"},
    )
    model = network()
    pixels = hfc_probe.PixelSpace((0.5,), (0.25,))
    result = FrequencyAccuracy(radii=(2, 4)).measure(model, samples, pixels=pixels)
    of = json.loads(result.save(tmp_path / "r.json").read_text())["provenance"]
    assert of == json.loads(json.dumps(dict(result.provenance)))
    assert (of["data"], of["normalization"], of["resampling"]) == (
        "planted",
        "given",
        "to 12 pixels",
    )
    assert (of["mean"], of["std"], of["classes"], of["chance"]) == ([0.5], [0.25], 4, 0.25)
    assert (of["samples"], of["selection"], of["passes"]) == (20, "all", 100)
    assert (of["model"], of["step"], of["device"]) == ("Sequential", None, "cpu")
    assert of["weights"] == weights_hash(model)
    assert of["caveats"] == ["images change at each reading"]
    text = str(result)
    assert text.index("Caution: images change") < text.index("original image")
    assert "Caution: images change" in result._repr_html_()
    again = FrequencyAccuracy(radii=(2, 4)).measure(model, samples, pixels=pixels)
    assert again.provenance["images"] == of["images"]
    images = samples.images.clone()
    images[0, 0, 0, 0] = 0
    other = FrequencyAccuracy(radii=(2, 4)).measure(model, Samples(images, samples.targets))
    assert other.provenance["images"] != of["images"]


def test_outcomes_by_image_add_up_to_the_counts(tmp_path):
    samples = random_samples(torch.arange(21) % 4)
    result = FrequencyAccuracy(radii=(2, 4), topk=(1, 2)).measure(network(), samples, batch_size=8)
    outcomes = result.per_image()
    assert set(outcomes) == {t for t in result.scalars() if not t.startswith("hfc_gap")}
    for tag, value in result.scalars().items():
        if tag in outcomes:
            assert outcomes[tag].shape == (21,)
            assert outcomes[tag].mean() == pytest.approx(value)
    import base64

    saved = json.loads(result.save(tmp_path / "r.json").read_text())["per_image"]
    for tag, outcome in outcomes.items():
        bits = np.unpackbits(np.frombuffer(base64.b64decode(saved[tag]), np.uint8), count=21)
        assert np.array_equal(bits.astype(bool), outcome)


def test_the_weights_hash_tells_any_change_and_nothing_else():
    model = network()
    before = weights_hash(model)
    assert weights_hash(model.double()) != before
    assert weights_hash(model.float()) == before
    assert weights_hash(model.to(memory_format=torch.channels_last)) == before
    with torch.no_grad():
        model[0].weight[1, 2, 0, 1] *= 1 + 1e-6
    assert weights_hash(model) != before
    before = weights_hash(model)
    model[1].running_mean[2] += 1
    assert weights_hash(model) != before
    wide = nn.Linear(300, 300)
    before = weights_hash(wide)
    wide.weight.data = wide.weight.data.flip(0)
    assert weights_hash(wide) != before
    lazy = nn.Sequential(nn.LazyLinear(3), nn.Linear(2, 2).to("meta"))
    assert weights_hash(lazy)


def read(path):
    events = EventAccumulator(str(path), size_guidance={"tensors": 0, "scalars": 0})
    events.Reload()
    return events


def test_event_files_say_where_every_point_comes_from(tmp_path):
    model, samples = network(), random_samples(torch.arange(20) % 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    plan = {
        FrequencyAccuracy(radii=(2, 4)): Every(epochs=1),
        KernelSpectra(): Every(steps=2, epochs=1),
        FourierHeatmap(norm=1.0, samples=4, crop=3): Every(epochs=2),
    }
    hashes = []
    with hfc_probe.attach(
        model, samples, optimizer=optimizer, log_dir=tmp_path, measurements=plan, budget=1.0
    ) as probe:
        for _ in range(2):
            for _ in range(3):
                model(torch.rand(2, 3, 16, 16)).square().sum().backward()
                optimizer.step()
            probe.end_epoch()
            hashes.append(weights_hash(model))
            of = {name: result.provenance for name, result in probe.results.items()}
            assert of["frequency_accuracy"]["epoch"] == probe.epochs
            # The kernels were measured at that very step, just before the epoch ended.
            for name in {*of} - {"fourier_heatmap"}:
                assert of[name]["step"] == probe.steps
                assert of[name]["weights"] == hashes[-1]
        results = dict(probe.results)
    events = read(tmp_path)
    said = events.Tensors("hfc_report/summary")
    texts = {e.step: e.tensor_proto.string_val[0].decode() for e in said}
    for epoch, step in ((1, 3), (2, 6)):
        assert f"step {step}, epoch {epoch};" in texts[step]
        assert f"weights {hashes[epoch - 1]}" in texts[step]
    result = results["frequency_accuracy"]
    content = json.loads(
        events.summary_metadata["frequency_accuracy/lfc"].plugin_data.content.decode()
    )
    lasting = {k: v for k, v in result.provenance.items() if k not in MOMENTARY}
    assert content["provenance"] == json.loads(json.dumps(lasting))
    assert content["settings"]["hfc_background"] == "zero"
    assert content["settings"]["closed"] is True
    content = json.loads(
        events.summary_metadata["frequency_accuracy/per_image"].plugin_data.content.decode()
    )
    tags, images = content["axes"]
    packed = make_ndarray(events.Tensors("frequency_accuracy/per_image")[-1].tensor_proto)
    assert packed.shape == (5, 3)
    bits = np.unpackbits(packed.astype(np.uint8), axis=1, count=images["count"])
    outcomes = result.per_image()
    assert tags["values"] == list(outcomes)
    assert np.array_equal(bits.astype(bool), np.stack(list(outcomes.values())))


def test_a_caveat_of_whoever_works_on_the_subject_comes_first_in_the_text():
    class Wary(FrequencyAccuracy):
        def compute(self, subject):
            subject.caveats.append("two looks at the same images differ")
            return super().compute(subject)

    result = Wary(radii=(2,)).measure(network(), random_samples(torch.arange(8) % 4))
    assert result.caveats == ("two looks at the same images differ",)
    assert str(result).splitlines()[1] == "Caution: two looks at the same images differ"


def test_radii_beyond_the_spectrum_say_nothing():
    model, samples = band_model()
    sentence = measured(model, samples, radii=(12, 64)).sentence()
    assert sentence.startswith(
        "No radius lies within the spectrum, which ends at 11.3 cycles/image"
    )
    nyquist = measured(model, samples, radii=(0.25, 0.75, 2), units="nyquist").sentence()
    assert "relies most on frequencies between 0.25 and 0.75 × Nyquist" in nyquist
    # From the last circle on nearly all frequencies are there: no reliance on a part of them.
    sentence = measured(model, samples, radii=(8, 64)).sentence()
    assert sentence.startswith("Frequencies up to 8 cycles/image, nearly all there are, are enough")


class Shaky(nn.Module):
    """Right by the wave (4, 0) for most images, whatever noise is added; else by chance."""

    def __init__(self):
        super().__init__()
        self.reads = ReadsFrequencies([(4, 0)], 16, 16)

    def forward(self, x):
        logits = self.reads(x)
        coin = (x.sum((1, 2, 3)) * 1e4).floor() % 10 < 3  # another throw for any change of a pixel
        return torch.where(coin[:, None], logits.flip(1), logits)


def test_the_extremes_of_many_equal_cells_are_not_called_different():
    samples = coded(4, 0, 16, 16, n=200)
    noisy = samples.images + 1e-3 * torch.rand(200, 3, 16, 16)
    result = FourierHeatmap(norm=0.05, samples=200).measure(
        Shaky(), Samples(noisy.clamp(0, 1), samples.targets)
    )
    (worst,), (best,) = result.extremes(1)
    assert result.lower[worst] > result.upper[best]  # two of 128 cells that differ by chance
    assert "images do not tell which frequency noise of norm" in result.sentence()


def test_a_map_of_one_harmful_frequency_still_names_it():
    model, samples = band_model()
    result = FourierHeatmap(norm=8.0).measure(model, samples)
    assert "harms most at (+4, +0)" in result.sentence()


def test_zero_kernels_are_said_to_be():
    model = nn.Sequential(nn.Conv2d(3, 2, 3))
    nn.init.zeros_(model[0].weight)
    result = KernelSpectra().measure(model)
    assert result.sentence() == "All 2 kernels of 0 are zero: it passes nothing of the image on."
    assert "nan" not in str(result)


def test_a_threshold_above_the_accuracy_finds_no_channel():
    model, samples = band_model()
    found = registry.MEASUREMENTS["critical_band"](strengths=(0.1,), threshold=1.0)
    assert "not above the threshold of 100.0 %" in found.measure(model, samples).sentence()


def test_corruptions_that_do_not_differ_are_not_ranked():
    found = registry.MEASUREMENTS["corruption_accuracy"](
        severities=(1,), corruptions=("fourier_wave_low", "fourier_wave_high")
    )
    model, samples = band_model()
    assert "without a clear difference from" in found.measure(model, samples).sentence()
