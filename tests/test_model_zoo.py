"""The layer that sees pixels, over the classification models of torchvision and timm.

Models are built on the meta device, without weights. The default run takes every torchvision
model and a spread of timm's; HFC_PROBE_ZOO=all takes every model that timm names (about five
minutes).
"""

from __future__ import annotations

import os
import warnings

import pytest
import torch
import torchvision
from torch.overrides import TorchFunctionMode

from hfc_probe import InputError, kernels

from .conftest import needs_timm

# Their first weights act on DCT coefficients, not on pixels: there is nothing to find.
NOT_ON_PIXELS = {"csatv2", "csatv2_21m"}


class _MetaParameters(TorchFunctionMode):
    """Storage for parameters on the meta device, arithmetic on real tensors as usual.

    Some constructors compute sizes with tensors, which ``torch.device("meta")`` breaks.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func is torch.empty:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def build(make):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with torch.device("meta"):
                return make()
        except (NotImplementedError, RuntimeError):  # item() of a meta tensor
            with _MetaParameters():
                return make()


def options(name):
    return {"init_weights": False} if name in ("googlenet", "inception_v3") else {}


@pytest.mark.parametrize("name", torchvision.models.list_models(module=torchvision.models))
def test_torchvision(name):
    model = build(lambda: torchvision.models.get_model(name, weights=None, **options(name)))
    layer, module = kernels.first_layer(model)
    assert (module.in_channels, layer.split(".")[-1]) != (0, "")
    assert module.in_channels == 3
    assert max(module.kernel_size) > 1


@pytest.mark.parametrize("name", torchvision.models.list_models(module=torchvision.models.video))
def test_torchvision_video(name):
    model = build(lambda: torchvision.models.get_model(name, weights=None))
    _, module = kernels.first_layer(model)
    assert module.in_channels == 3
    assert max(module.kernel_size[-2:]) > 1


def timm_names():
    import timm

    names = timm.list_models()
    if os.environ.get("HFC_PROBE_ZOO") == "all":
        return names
    special = {
        n for n in names if n.startswith(("naflexvit_base_patch16_g", "tresnet_m", "gemma4"))
    }
    chosen = {n for k, n in enumerate(names) if k % 80 == 0} | special | NOT_ON_PIXELS
    return sorted(chosen & set(names))


@pytest.mark.slow
@needs_timm
def test_timm():
    import timm

    wrong = {}
    names = timm_names()
    for name in names:
        model = build(lambda name=name: timm.create_model(name))
        try:
            layer, module = kernels.first_layer(model)
        except InputError as error:
            wrong[name] = str(error)
            continue
        inputs = getattr(module, "in_channels", None) or module.in_features
        # RGB, RGB patches of 4×4 moved into channels, or flattened RGB patches of 16×16.
        if inputs not in (3, 48, 3 * 16 * 16):
            wrong[name] = f"{layer}: {module}"
    resolved = len(names) - len(wrong)
    print(f"{resolved} of {len(names)} timm models resolve; not: {sorted(wrong)}")
    assert set(wrong) == NOT_ON_PIXELS & set(names), wrong
    assert all("looked at" in wrong[name] for name in wrong)
