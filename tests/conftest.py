"""Fixtures: real data where it is present, a seeded start for every test."""

from __future__ import annotations

import importlib.util
import inspect
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

import hfc_probe

# The same examples in every run; HFC_PROBE_FUZZ looks for new ones.
settings.register_profile("repeatable", derandomize=True, deadline=None)
if "HFC_PROBE_FUZZ" not in os.environ:
    settings.load_profile("repeatable")
if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # the processes share the cores, and so do those that they start
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# A name that no hub has is otherwise looked up for 12 s.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# A script that test_ranks.py runs: as a module it would look for its process group.
collect_ignore = ["ranks.py"]

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="of tests/promises/test_on_device.py")


def _needs(module: str, extra: str) -> pytest.MarkDecorator:
    missing = importlib.util.find_spec(module) is None
    reason = f"{module} is not installed: pip install 'hfc_probe[{extra}]'"
    return pytest.mark.skipif(missing, reason=reason)


needs_coco = _needs("pycocotools", "detection")
needs_torchmetrics = _needs("torchmetrics", "test")
needs_captum = _needs("captum", "attribution")
needs_timm = _needs("timm", "timm")
needs_accelerate = _needs("accelerate", "transformers")


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
    np.random.seed(0)


def cli_runner():
    """Click's test runner with standard error apart, as it always is from click 8.2."""
    from click.testing import CliRunner

    mixes = "mix_stderr" in inspect.signature(CliRunner).parameters
    return CliRunner(**({"mix_stderr": False} if mixes else {}))


def load_example(name: str):
    """An example of the examples/ folder as a module."""
    path = ROOT / "examples" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"example_{name}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def cifar_path() -> Path:
    path = DATA / "cifar10"
    if not (path / "test.npz").is_file():
        pytest.skip("the CIFAR-10 sample is not at ../shared/data/cifar10")
    return path


@pytest.fixture(scope="session")
def cifar(cifar_path) -> hfc_probe.Samples:
    with np.load(cifar_path / "test.npz") as archive:
        return hfc_probe.Samples(
            torch.from_numpy(archive["images"]), torch.from_numpy(archive["labels"])
        )


@pytest.fixture(scope="session")
def resnet20(cifar_path) -> torch.nn.Module:
    model = load_example("cifar_resnet").resnet20()
    model.load_state_dict(torch.load(cifar_path / "resnet20.pth", weights_only=True))
    return model.eval()
