"""Folders in the published forms, generated corruptions, mCE by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from hfc_probe import CorruptionAccuracy, InputError, PixelSpace, Samples, fourier
from hfc_probe.measurements.corruption_accuracy import GENERATED


class Brightness(nn.Module):
    """Class 1 where the image is brighter than one half."""

    def forward(self, x):
        score = x.mean((1, 2, 3)) - 0.5
        return torch.stack([-score, score], 1)


def clean(n=10):
    x = torch.full((n, 3, 16, 16), 0.25)
    x[1::2] = 0.75
    return Samples(x, torch.arange(n) % 2)


def write_cifar_c(folder, names=("fog", "snow"), n=10):
    """At severity s, ``s`` of the images of class 1 are black: s / n errors, twice for snow."""
    folder.mkdir()
    np.save(folder / "labels.npy", np.tile(np.arange(n) % 2, 5).astype(np.uint8))
    for k, name in enumerate(names):
        images = np.full((5, n, 16, 16, 3), 64, np.uint8)
        images[:, 1::2] = 191
        for s in range(5):
            dark = [i for i in range(n) if i % 2][: (s + 1) if k else (s + 1) // 2]
            images[s, dark] = 0
        np.save(folder / f"{name}.npy", images.reshape(-1, 16, 16, 3))


def test_cifar10_c_in_its_published_form_and_mce_by_hand(tmp_path):
    write_cifar_c(tmp_path / "c")
    result = CorruptionAccuracy(
        folder=tmp_path / "c",
        corruptions=("fog", "snow"),
        baseline={"fog": 0.5, "snow": [0.1, 0.2, 0.3, 0.4, 0.5]},
    ).measure(Brightness(), clean())
    assert result.wrong.tolist() == [[0, 1, 1, 2, 2], [1, 2, 3, 4, 5]]
    assert result.mean_error == pytest.approx((6 / 50 + 15 / 50) / 2)
    assert result.mce == pytest.approx((0.6 / 2.5 + 1.5 / 1.5) / 2)
    assert result.scalars()["hfc_corruption/snow"] == pytest.approx(0.3)
    assert "mCE" in result.sentence()
    some = CorruptionAccuracy(
        folder=tmp_path / "c", corruptions=("snow",), severities=(2, 5), samples=4
    ).measure(Brightness(), clean())
    assert some.count.tolist() == [[4, 4]]


def test_imagenet_c_folders(tmp_path):
    for severity in range(1, 6):
        for label, grey in (("n01", 64), ("n02", 191 if severity < 4 else 0)):
            place = tmp_path / "c" / "fog" / str(severity) / label
            place.mkdir(parents=True)
            for k in range(3):
                Image.new("RGB", (16, 16), (grey,) * 3).save(place / f"{k}.png")
    result = CorruptionAccuracy(folder=tmp_path / "c", corruptions="fog").measure(
        Brightness(), clean()
    )
    assert result.wrong.tolist() == [[0, 0, 0, 3, 3]]
    assert result.count.tolist() == [[6] * 5]


def test_generated_corruptions_lie_in_their_third_and_do_not_touch_dc():
    measurement = CorruptionAccuracy()
    x = torch.full((4, 3, 32, 32), 0.5)
    d = fourier.distance(32, 32, centred=False)
    bounds = {"low": (0, 16 / 3), "middle": (16 / 3, 32 / 3), "high": (32 / 3, 16)}
    last = 0.0
    for name in GENERATED:
        low, high = bounds[name.rpartition("_")[2]]
        for severity in (1, 5):
            change = measurement._change(name, severity)(0, x) - x
            power = torch.fft.fft2(change.double()).abs().square().mean((0, 1))
            inside = (d > low) & (d <= high)
            assert power[~inside].sum() < 1e-6 * power[inside].sum(), name
            strength = float(change.square().mean().sqrt())
            assert severity == 1 or strength > 2 * last
            last = strength
    again = measurement._change("fourier_wave_low", 3)(2, x[2:])
    torch.testing.assert_close(again, measurement._change("fourier_wave_low", 3)(0, x)[2:])


def test_planted_a_reader_of_dc_is_not_fooled_and_errors_grow_on_resnet20(resnet20, cifar):
    settings = CorruptionAccuracy(
        corruptions=("band_noise_high", "fourier_wave_middle"), severities=(1, 5), samples=32
    )
    assert settings.measure(Brightness(), clean()).wrong.sum() == 0
    result = settings.measure(resnet20, cifar, pixels=PixelSpace.imagenet())
    error = result.arrays()["error"]
    assert (error[:, 1] > error[:, 0] + 0.2).all()
    assert result.mce is None
    assert all(tag.startswith("hfc_generated_corruption/") for tag in result.scalars())
    assert "not CIFAR-10-C" in str(result)


def test_bad_folders_are_named(tmp_path):
    with pytest.raises(InputError, match=r"got .*nowhere"):
        CorruptionAccuracy(folder=tmp_path / "nowhere").measure(Brightness(), clean())
    write_cifar_c(tmp_path / "c")
    with pytest.raises(InputError, match=r"missing gaussian_noise\.npy, shot_noise\.npy"):
        CorruptionAccuracy(folder=tmp_path / "c").measure(Brightness(), clean())
    np.save(tmp_path / "c" / "fog.npy", np.zeros((45, 16, 16, 3), np.uint8))
    with pytest.raises(InputError, match="got 45 images and 50 labels"):
        CorruptionAccuracy(folder=tmp_path / "c", corruptions="fog").measure(Brightness(), clean())
    np.save(tmp_path / "c" / "fog.npy", np.zeros((50, 16, 16, 3), np.float32))
    with pytest.raises(InputError, match="expected uint8 images"):
        CorruptionAccuracy(folder=tmp_path / "c", corruptions="fog").measure(Brightness(), clean())
    (tmp_path / "c" / "fog.npy").write_bytes(b"no array")
    with pytest.raises(InputError, match=r"expected a NumPy array in fog\.npy"):
        CorruptionAccuracy(folder=tmp_path / "c", corruptions="fog").measure(Brightness(), clean())
    np.save(tmp_path / "c" / "fog.npy", np.zeros((50, 8, 8, 3), np.uint8))
    with pytest.raises(InputError, match="expected images of 3×16×16 as in data, got 3×8×8"):
        CorruptionAccuracy(folder=tmp_path / "c", corruptions="fog").measure(Brightness(), clean())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"corruptions": ("fog",)}, "expected some of fourier_wave_low.* without a folder"),
        ({"severities": (0, 1)}, "severities: expected"),
        ({"severities": (5, 6)}, "severities: expected a whole number from 1 to 5"),
        ({"baseline": {"fog": 0.5}}, "baseline: expected with a folder"),
        ({"folder": "x", "corruptions": "fog", "baseline": {}}, "got none for .fog."),
        ({"folder": "x", "corruptions": "fog", "baseline": {"fog": 50}}, "above 0 and up to 1"),
    ],
)
def test_bad_settings(settings, words):
    with pytest.raises(InputError, match=words):
        CorruptionAccuracy(**settings)


def test_a_mean_over_all_severities_is_no_baseline_for_some_of_them(tmp_path):
    per_severity = [0.1, 0.2, 0.3, 0.4, 0.5]  # what the model below has, too
    settings = {"folder": "x", "corruptions": ("snow",), "severities": (4, 5)}
    with pytest.raises(InputError, match=r"an error of each severity for snow.*4, 5 of 5"):
        CorruptionAccuracy(baseline={"snow": 0.3}, **settings)
    write_cifar_c(tmp_path / "c")
    settings["folder"] = tmp_path / "c"
    for baseline in (per_severity, per_severity[3:]):
        result = CorruptionAccuracy(baseline={"snow": baseline}, **settings).measure(
            Brightness(), clean()
        )
        assert result.mce == pytest.approx(1)  # 0.9 / (2 · 0.3) = 1.5 with the mean over five
        assert "mCE over 1 corruption, severities 4, 5 (published: 15, all 5)" in str(result)
    whole = CorruptionAccuracy(
        folder=tmp_path / "c", corruptions=("snow",), baseline={"snow": 0.3}
    ).measure(Brightness(), clean())
    assert whole.mce == pytest.approx(1)
