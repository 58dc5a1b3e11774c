"""Every measurement keeps the one contract, also of models that are always or never right."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import hfc_probe as h
from hfc_probe.measurements.registry import MEASUREMENTS

from .. import contract
from ..toys import QUICK, classifier


def samples(count=24):
    torch.manual_seed(1)
    return h.Samples(torch.rand(count, 3, 16, 16), torch.arange(count) % 4)


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_the_contract(name, tmp_path):
    if name == "band_attribution":
        pytest.importorskip("captum", reason="pip install 'hfc_probe[attribution]'")
    measurement = MEASUREMENTS[name](**QUICK.get(name, {}))
    contract.fulfil(measurement.measure(classifier(), samples()), tmp_path)


class Constant(nn.Module):
    """All but always answers with one class; as the layer that sees pixels it has a real one."""

    def __init__(self, answer):
        super().__init__()
        self.features, self.answer = nn.Conv2d(3, 4, 3), answer

    def forward(self, images):
        answer = torch.nn.functional.one_hot(torch.tensor(self.answer), 4)
        return 1e-3 * self.features(images).mean((2, 3)) + answer


@pytest.mark.parametrize("name", MEASUREMENTS)
@pytest.mark.parametrize("labels", [(0,), (1, 2)], ids=["always right", "never right"])
def test_empty_groups_are_no_error(name, labels, tmp_path):
    if name == "band_attribution":
        pytest.importorskip("captum", reason="pip install 'hfc_probe[attribution]'")
    measurement = MEASUREMENTS[name](**QUICK.get(name, {}))
    targets = torch.tensor([labels[k % len(labels)] for k in range(24)])
    torch.manual_seed(0)
    model, data = Constant(0), h.Samples(samples().images, targets)
    if name == "amplitude_phase" and len(labels) == 1:
        with pytest.raises(h.InputError, match="expected at least two classes"):
            measurement.measure(model, data)
        return
    result = measurement.measure(model, data)
    contract.is_labelled(result)
    contract.intervals_hold_their_values(result)
    contract.survives_json(result, tmp_path)
    result.figure()
    assert str(result)
