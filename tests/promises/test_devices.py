"""Nothing rests on the default device, on float64 or on a batch that holds an image."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import hfc_probe as h
from hfc_probe import fourier, transforms

TRANSFORMS = {
    getattr(torch.fft, kind + dims) for kind in ("fft", "ifft", "rfft", "irfft") for dims in "2n"
} | {torch.fft.fft, torch.fft.ifft, torch.fft.rfft, torch.fft.irfft}


class NoEmptyTransforms(TorchFunctionMode):
    """Raises where an empty tensor reaches torch.fft, as MKL does on some processors only."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        given = args[0] if args else (kwargs or {}).get("input")
        if function in TRANSFORMS and given.numel() == 0:
            raise AssertionError(f"{function.__name__} of an empty tensor")
        return function(*args, **(kwargs or {}))


EMPTY = {
    "split": lambda x: fourier.split(x, 2)[0],
    "bands": lambda x: list(fourier.bands(x, (1, 2)))[1][1],
    "recombine": lambda x: fourier.recombine(x, x),
    "recombine over channels": lambda x: fourier.recombine(x, x, over_channels=True),
    "LowPass": lambda x: transforms.LowPass(2)(x),
    "HighPass": lambda x: transforms.HighPass(2)(x),
    "RandomBand": lambda x: transforms.RandomBand(2)(x),
    "AmplitudePhaseMix": lambda x: transforms.AmplitudePhaseMix(p=1)(x),
    "mix over channels": lambda x: transforms.AmplitudePhaseMix(p=1, over_channels=True)(x),
    "AmplitudePhaseSelf": lambda x: transforms.AmplitudePhaseSelf(lambda x: x, p=1)(x),
    "FrequencyFilter": lambda x: transforms.FrequencyFilter(2, keep="high")(x),
}


@pytest.mark.parametrize("name", EMPTY)
def test_an_empty_batch_gives_an_empty_batch(name):
    with NoEmptyTransforms():
        assert EMPTY[name](torch.rand(0, 3, 8, 8)).shape == (0, 3, 8, 8)


def test_the_guard_of_empty_batches_is_one_that_can_fail():
    with NoEmptyTransforms(), pytest.raises(AssertionError, match="rfft2 of an empty"):
        torch.fft.rfft2(torch.rand(0, 3, 8, 8))


def test_component_examples_of_a_model_that_is_never_right_on_hfc_alone():
    class Constant(nn.Module):
        def forward(self, images):
            return images.new_tensor([1.0, 0.0]).expand(len(images), 2)

    samples = h.Samples(torch.rand(4, 3, 8, 8), torch.tensor([0, 0, 1, 1]))
    with NoEmptyTransforms():
        found = h.ComponentExamples(group="high_only").measure(Constant(), samples)
    assert found.original_right == 2
    assert found.counts["high_only"].tolist() == [0] * len(found.radii)
    assert found.counts["both"].tolist() == [2] * len(found.radii)
    assert found.example_images.shape == (0, 3, 3, 8, 8)
    found.figure()


class NoFloat64(TorchDispatchMode):
    """Raises where a float64 tensor comes to be on the meta device, which stands for MPS."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for one in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(one, torch.Tensor) and one.is_meta and one.dtype == torch.float64:
                raise AssertionError(f"{function} makes float64 on the device")
        return out


def test_devices_without_float64_are_not_asked_for_it():
    images = torch.rand(2, 3, 8, 8, device="meta")
    with NoFloat64():
        fourier.split(images, 2)
        fourier.basis(1, 2, 8, 8, device=images.device)
        fourier.radial_profile(images)
        fourier.recombine(images, images)
        transforms.FrequencyFilter(2)(images)
        h.PixelSpace.imagenet().normalize(images)
        with pytest.raises(AssertionError, match="float64"):
            images.double()


SCRIPT = """
import importlib.util
import torch
torch.set_default_device("meta")
from torch import nn
import hfc_probe as h, hfc_probe.detection
from hfc_probe import datasets, fourier, kernels, transforms
from hfc_probe.measurements.registry import MEASUREMENTS

with torch.device("cpu"):
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4)
    )
    images = torch.rand(12, 3, 16, 16)
    samples = h.Samples(images, torch.arange(12) % 4)
quick = {
    "adversarial_accuracy": {"steps": 2},
    "band_attribution": {"permutations": 2, "samples": 4},
    "calibration": {"resamples": 2},
    "corruption_accuracy": {"severities": (1,)},
    "fourier_heatmap": {"crop": 3},
}
done = 0
for name, kind in MEASUREMENTS.items():
    try:
        result = kind(**quick.get(name, {})).measure(model, samples, limit=10)
    except h.InputError as error:
        if "pip install" not in str(error):
            raise
        print(name, "has not its extra")
    else:
        result.scalars(), result.arrays(), result.to_dict()
    done += 1
for effort in ({"forwards": 200}, {"precision": 0.4}, {"radial": True}, {"norm": None}):
    h.FourierHeatmap(crop=3, samples=8, **effort).measure(model, samples)
if importlib.util.find_spec("captum"):
    gradients = h.BandAttribution(method="integrated_gradients", samples=4, steps=2)
    gradients.measure(model, samples)
with h.attach(model, samples, measurements=[h.FrequencyAccuracy(), h.KernelSpectra()]) as probe:
    probe.measure()
assert datasets.PlantedFrequencies(4)[1][0].device.type == "cpu"
images = images[:4]
for change in (
    transforms.LowPass(2), transforms.HighPass(2), transforms.RandomBand(2, seed=1),
    transforms.AmplitudePhaseMix(1.0, seed=1), transforms.AmplitudePhaseSelf(lambda x: x, p=1.0),
    transforms.FrequencyFilter(2, keep="high"),
):
    assert change(images).device.type == "cpu"
fourier.split(images, 2), fourier.recombine(images, images), fourier.svd_split(images, 2)
fourier.radial_profile(images), fourier.basis(1, 1, 8, 8), fourier.corner(8, 8)
kernels.smoothness(model[0].weight), kernels.spectrum(model[0].weight)
kernels.smoothness_penalty(model).backward()
with kernels.smoothed(model, 0.5) as smooth, kernels.low_passed(model, 0.2) as low:
    smooth(images), low(images)
print("done", done)
"""


@pytest.mark.slow
def test_all_of_it_runs_whatever_the_default_device():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(SCRIPT)],
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines()[-1:] == ["done 13"], done.stderr
