"""Odd settings: one sentence or an object that works, never a traceback.

HFC_PROBE_FUZZ=N tries N settings of each kind instead of the few of the default run.
"""

from __future__ import annotations

import os
import random
import warnings
from collections import Counter
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import hfc_probe as h
from hfc_probe import fourier, kernels, transforms
from hfc_probe.datasets import PlantedFrequencies, PlantedWaves
from hfc_probe.detection import DetectionAudit
from hfc_probe.measurements.registry import MEASUREMENTS
from hfc_probe.probe.schedule import Budget

COUNT = int(os.environ.get("HFC_PROBE_FUZZ", 200))
SEED = random.randrange(2**32) if "HFC_PROBE_FUZZ" in os.environ else 0


class Hostile:
    """Raises whatever is asked of it."""

    def __getattr__(self, name):
        raise RuntimeError(name)

    def __repr__(self):
        raise RuntimeError("repr")

    __float__ = __int__ = __iter__ = __len__ = __eq__ = __bool__ = __fspath__ = __repr__
    __hash__ = object.__hash__


class FloatOnly:
    def __float__(self):
        return 4.0


ODD = [
    *(None, True, False, 0, 1, 2, 3, 8, -1, 64, 10**400, 2**63, -(2**70), 0.5, 1.5, 8.0, 1e-300),
    *(float("nan"), float("inf"), -float("inf"), 1e308, 3 + 4j, Decimal("0.5"), Fraction(1, 3)),
    *("", "a", "1", "nan", "low", "high", "zero", "mean", "nyquist", "\0", "\ud800", "é\n", b"1"),
    *((), (1,), (1, 2), (2, 1), (0.1, 0.2), ("a",), (None,), (1, (2,)), [], [4, 8], [[1]], {}),
    *({"a": 1}, {1: 2}, {1, 2}, frozenset(), range(0), range(1, 4), range(4, 13, 4), iter("")),
    *(np.float32(0.5), np.int64(3), np.bool_(True), np.str_("zero"), np.array(3), np.array([])),
    *(np.array([1, 2]), np.array([[1.0]]), np.array(["a"]), np.array([None]), np.datetime64("nat")),
    *(torch.tensor(3), torch.tensor([1.0, 2.0]), torch.tensor([]), torch.tensor(True)),
    *(torch.tensor(1j), torch.ones(2, 2), torch.tensor([3], device="meta"), torch.float32),
    *(object(), Hostile(), FloatOnly(), Ellipsis, NotImplemented, int, len, lambda *_: None),
    *(Path("."), Path("no/such"), nn.Identity(), h.KernelSpectra(), h.Every(steps=1)),
    *(h.PixelSpace(), ValueError("x"), (h.KernelSpectra(),), slice(2), memoryview(b"ab")),
]

THEIRS = ("data", "writer")

SETTINGS = {
    **MEASUREMENTS,
    "every": h.Every,
    "budget": Budget,
    "pixel_space": h.PixelSpace,
    "detection_audit": DetectionAudit,
    "planted_waves": PlantedWaves,
    "low_pass": transforms.LowPass,
    "high_pass": transforms.HighPass,
    "random_band": transforms.RandomBand,
    "amplitude_phase_mix": transforms.AmplitudePhaseMix,
    "amplitude_phase_self": transforms.AmplitudePhaseSelf,
    "frequency_filter": transforms.FrequencyFilter,
    "planted_frequencies": PlantedFrequencies,
}


def arguments(kind):
    import inspect

    return [name for name in inspect.signature(kind).parameters if name != "self"]


def tried(name, call, rng, names, base=None, most=3):
    """How calls with odd arguments end: "fine" or "refused", in one sentence."""
    ends = Counter()
    for _ in range(COUNT):
        chosen = rng.sample(names, rng.randint(1, min(most, len(names))))
        given = {key: rng.choice(ODD) for key in chosen}
        # What a stranger's data or writer raises is not ours to reword.
        given = {k: v for k, v in given.items() if not (k in THEIRS and type(v) is Hostile)}
        try:
            call(**{**(base or {}), **given})
            ends["fine"] += 1
        except h.InputError as error:
            if "\n" in str(error) or len(str(error)) > 700:
                pytest.fail(f"{name}: more than one sentence: {error}")
            ends["refused"] += 1
        except Exception as error:
            said = {key: type(value) for key, value in given.items()}
            index = {key: [value is one for one in ODD].index(True) for key, value in given.items()}
            pytest.fail(f"{name}: {type(error).__name__}: {error}; {said} {index} seed {SEED}")
    return ends


@pytest.fixture(autouse=True)
def _quiet(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize("name", SETTINGS)
def test_odd_settings(name):
    kind = SETTINGS[name]
    model = nn.Sequential(nn.Conv2d(3, 4, 3))

    def make(**options):
        made = kind(**options)
        if isinstance(made, h.Measurement):
            # What a probe does with it: as a key, by name, in logs, before training.
            assert {made: 1}[made] == 1
            assert isinstance(made.variant, str)
            assert repr(made)
            assert made.cost(8, (3, 16, 16)) >= 0
            made.validate(model, (3, 16, 16))
        elif isinstance(made, nn.Module) and "augment" not in options:  # which is not ours
            made(torch.rand(2, 3, 8, 8))

    base = {"radius": 2} if "radius" in arguments(kind) and name != "component_examples" else {}
    base |= {"share": 0.1} if name == "budget" else {}
    base |= {"count": 2, "size": 16, "classes": 2} if name == "planted_frequencies" else {}
    ends = tried(name, make, random.Random(SEED), arguments(kind), base)
    assert ends["refused"]
    assert ends["fine"] or name in ("budget", "every")


def test_odd_samples():
    base = {"images": torch.rand(2, 3, 8, 8), "targets": torch.tensor([0, 1])}
    ends = tried("Samples", h.Samples, random.Random(SEED), ["images", "targets"], base)
    assert ends["refused"]


def test_odd_arguments_of_measure():
    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    base = {"model": model, "data": h.Samples(torch.rand(4, 3, 8, 8), torch.arange(4))}
    names = ["model", "data", "pixels", "predict", "limit", "batch_size", "progress"]
    for measurement in (h.KernelSpectra(), h.InputSpectrum()):
        ends = tried("measure", measurement.measure, random.Random(SEED), names, base)
        assert ends["fine"]
        assert ends["refused"]


def test_odd_arguments_of_attach():
    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    samples = h.Samples(torch.rand(4, 3, 8, 8), torch.arange(4))
    names = ["model", "data", "optimizer", "writer", "measurements", "pixels", "limit", "budget"]
    base = {"model": model, "data": samples, "measurements": [h.KernelSpectra()]}

    def attached(**options):
        h.attach(**options).close()

    ends = tried("attach", attached, random.Random(SEED), [*names, "strict", "predict"], base)
    assert ends["fine"]
    assert ends["refused"]


FUNCTIONS = {
    "split": (fourier.split, {"images": torch.rand(1, 3, 6, 6), "radius": 2}),
    "bands": (
        lambda **options: list(fourier.bands(**options)),
        {"images": torch.rand(1, 3, 6, 6), "radii": (1, 2), "closed": True, "units": "cycles"},
    ),
    "distance": (fourier.distance, {"height": 6, "width": 6, "units": "cycles"}),
    "corner": (
        lambda height, width, units: fourier.corner(height, width, units=units),
        {"height": 6, "width": 6, "units": "cycles"},
    ),
    "frequencies": (fourier.frequencies, {"size": 6}),
    "basis": (fourier.basis, {"i": 1, "j": 1, "height": 6, "width": 6}),
    "half_plane": (fourier.half_plane, {"height": 6, "width": 6}),
    "recombine": (
        fourier.recombine,
        {
            "amplitude_of": torch.rand(1, 3, 6, 6),
            "phase_of": torch.rand(1, 3, 6, 6),
            "over_channels": False,
        },
    ),
    "radial_profile": (fourier.radial_profile, {"spectrum": torch.rand(6, 6)}),
    "svd_split": (fourier.svd_split, {"images": torch.rand(1, 3, 6, 6), "rank": 2}),
    "smooth": (kernels.smooth, {"weight": torch.rand(2, 3, 3, 3), "rho": 0.5, "normalize": False}),
    "smoothness": (kernels.smoothness, {"weight": torch.rand(2, 3, 3, 3)}),
    "spectrum": (kernels.spectrum, {"weight": torch.rand(2, 3, 3, 3), "size": 8}),
    "first_layer": (kernels.first_layer, {"model": nn.Conv2d(3, 4, 3), "layer": None}),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_odd_arguments_of_functions(name):
    call, base = FUNCTIONS[name]
    ends = tried(name, call, random.Random(SEED), list(base), base, most=2)
    assert ends["refused"]
