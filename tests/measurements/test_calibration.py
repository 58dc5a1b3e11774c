"""ECE and AUROC in closed form, against SciPy, and on ResNet-20."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu
from torch import nn

from hfc_probe import Calibration, InputError, PixelSpace, Samples
from hfc_probe.measurements.calibration import (
    _auroc,
    _ece,
    area_under_roc,
    expected_calibration_error,
)

from ..conftest import needs_torchmetrics


class Sure(nn.Module):
    """Always class 0 with probability 0.8, whatever it sees; 0.6 for dark images."""

    def forward(self, x):
        sure = torch.where(x.mean((1, 2, 3)) > 0.2, 0.8, 0.6)
        return torch.stack([sure.log(), (1 - sure).log()], 1)


@needs_torchmetrics
def test_planted_the_error_is_confidence_minus_accuracy():
    # 7 of 10 right at confidence 0.8; HFC has no DC, is dark: confidence 0.6.
    data = Samples(torch.rand(10, 1, 16, 16) / 2 + 0.5, torch.tensor([0] * 7 + [1] * 3))
    ood = Samples(torch.zeros(6, 1, 16, 16), torch.zeros(6, dtype=torch.long))
    result = Calibration(radii=(2,), ood=ood).measure(Sure(), data)
    arrays = result.arrays()
    assert float(arrays["ece_original"]) == pytest.approx(0.1, abs=1e-6)
    assert arrays["ece_lfc"][0] == pytest.approx(0.1, abs=1e-6)
    # Always class 0: no word about frequencies.
    assert result.original() == (7, 10, 1)
    assert "not above chance (70.0 %, the share of the largest class)" in result.sentence()
    assert arrays["ece_hfc"][0] == pytest.approx(0.1, abs=1e-6)
    assert arrays["confidence_hfc"][0] == pytest.approx(0.6, abs=1e-6)
    assert arrays["auroc_lfc"][0] == 0.5
    assert arrays["auroc_hfc"][0] == 1.0
    assert float(arrays["auroc_ood"]) == 1.0
    assert "AUROC 1.000" in result.verdict()


@needs_torchmetrics
def test_the_bootstraps_statistics_are_torchmetrics_and_scipys():
    rng = np.random.default_rng(0)
    inside, outside = rng.random(80).round(2), rng.random(60).round(2) ** 2
    area = mannwhitneyu(inside, outside).statistic / (80 * 60)
    assert _auroc(inside, outside) == pytest.approx(area)
    assert area_under_roc(torch.tensor(inside), torch.tensor(outside)) == pytest.approx(
        area, abs=1e-5
    )
    inside = rng.random(80)
    right = rng.random(80) < inside
    slow = 0.0
    for k in range(15):
        own = (inside >= k / 15) & ((inside < (k + 1) / 15) | (k == 14))
        if own.any():
            slow += own.mean() * abs(right[own].mean() - inside[own].mean())
    assert _ece(inside, right, 15) == pytest.approx(slow)
    assert expected_calibration_error(torch.tensor(inside), torch.tensor(right)) == pytest.approx(
        slow, abs=1e-5
    )


@needs_torchmetrics
def test_resnet20_is_overconfident_on_low_frequencies(resnet20, cifar):
    some = Samples(cifar.images[:96], cifar.targets[:96])
    result = Calibration(radii=(4,), resamples=50).measure(
        resnet20, some, pixels=PixelSpace.imagenet()
    )
    arrays = result.arrays()
    assert arrays["ece_lfc_lower"][0] > float(arrays["ece_original_upper"])
    assert 0.6 < arrays["auroc_lfc"][0] < 1
    assert set(result.intervals()) == set(result.scalars())
    assert result.figure().axes
    assert result.to_dict()["settings"]["ood"] is None


@needs_torchmetrics
def test_bad_input(monkeypatch, cifar):
    with pytest.raises(InputError, match="ood: expected Samples"):
        Calibration(ood=torch.rand(2, 3, 8, 8))
    small = Samples(torch.rand(2, 3, 8, 8), torch.zeros(2, dtype=torch.long))
    with pytest.raises(InputError, match="ood: expected images of shape"):
        Calibration(ood=small).measure(Sure(), cifar)
    monkeypatch.setitem(sys.modules, "torchmetrics.functional", None)
    with pytest.raises(InputError, match=r"pip install hfc_probe\[calibration\]"):
        Calibration().measure(Sure(), cifar)
