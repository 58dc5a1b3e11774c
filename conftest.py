"""Doctests of modules that need an extra are skipped, visibly, where it is not installed."""

import importlib.util

import pytest

NEEDS = {"hfc_probe.measurements.calibration": ("torchmetrics", "calibration")}


def pytest_collection_modifyitems(items):
    for item in items:
        module, extra = NEEDS.get(item.name.rpartition(".")[0], (None, None))
        if module is not None and importlib.util.find_spec(module) is None:
            reason = f"{module} is not installed: pip install 'hfc_probe[{extra}]'"
            item.add_marker(pytest.mark.skip(reason=reason))
