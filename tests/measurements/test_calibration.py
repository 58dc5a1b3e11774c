"""ECE and AUROC in closed form, against SciPy, and on ResNet-20."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu
from torch import nn

from hfc_probe import Calibration, InputError, PixelSpace, Samples
from hfc_probe.measurements.calibration import area_under_roc, expected_calibration_error
from hfc_probe.model.subject import subject_of

from ..conftest import needs_torchmetrics


class Sure(nn.Module):
    """Always class 0 with probability 0.8, whatever it sees; 0.6 for dark images."""

    def forward(self, x):
        sure = torch.where(x.mean((1, 2, 3)) > 0.2, 0.8, 0.6)
        return torch.stack([sure.log(), (1 - sure).log()], 1)


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


def test_the_statistics_are_scipys_and_a_slow_references():
    rng = np.random.default_rng(0)
    inside, outside = rng.random(80).round(2), rng.random(60).round(2) ** 2
    area = mannwhitneyu(inside, outside).statistic / (80 * 60)
    assert area_under_roc(inside, outside) == pytest.approx(area)
    inside = rng.random(80)
    is_correct = rng.random(80) < inside
    slow = 0.0
    for k in range(15):
        own = (inside >= k / 15) & ((inside < (k + 1) / 15) | (k == 14))
        if own.any():
            slow += own.mean() * abs(is_correct[own].mean() - inside[own].mean())
    assert expected_calibration_error(inside, is_correct) == pytest.approx(slow)


@needs_torchmetrics
def test_the_statistics_are_torchmetrics_on_resnet20(resnet20, cifar):
    from torchmetrics.functional.classification import binary_auroc, binary_calibration_error

    confidence, is_correct = [], []
    with subject_of(resnet20, cifar.subset(256), pixels=PixelSpace.imagenet()) as subject:
        for images, targets in subject.batches():
            sure, predicted = subject.logits(images).double().softmax(1).max(1)
            confidence.append(sure)
            is_correct.append(predicted == targets)
    confidence, is_correct = torch.cat(confidence), torch.cat(is_correct)
    for bins in (10, 15):
        theirs = binary_calibration_error(confidence.float(), is_correct.long(), n_bins=bins)
        ours = expected_calibration_error(confidence.numpy(), is_correct.numpy(), bins)
        assert ours == pytest.approx(float(theirs), abs=1e-6)
    theirs = binary_auroc(confidence, is_correct.long())
    ours = area_under_roc(confidence[is_correct].numpy(), confidence[~is_correct].numpy())
    assert ours == pytest.approx(float(theirs), abs=1e-6)


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


def test_bad_input(cifar):
    with pytest.raises(InputError, match="ood: expected Samples"):
        Calibration(ood=torch.rand(2, 3, 8, 8))
    small = Samples(torch.rand(2, 3, 8, 8), torch.zeros(2, dtype=torch.long))
    with pytest.raises(InputError, match="ood: expected images of shape"):
        Calibration(ood=small).measure(Sure(), cifar)
