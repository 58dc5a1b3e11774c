"""The entry point must never keep TensorBoard from starting."""

import argparse
import os
import subprocess
import sys
import zipfile

import pytest
from tensorboard.plugins import base_plugin
from tensorboard_plugin_hfc.loader import STEPS_KEPT, HfcLoader

from ..conftest import ROOT
from .conftest import tensorboard_server

HEAVY = ("torch", "numpy", "matplotlib", "captum", "hfc_probe")


def test_the_entry_point_imports_nothing_that_may_be_missing():
    code = (
        "import sys, tensorboard_plugin_hfc.loader; "
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT / "plugins")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, STEPS_KEPT), ({"hfc": 7}, 7), ({"images": 3}, STEPS_KEPT), (None, STEPS_KEPT)],
)
def test_as_many_steps_as_the_user_says_else_enough(given, expected):
    flags = argparse.Namespace(samples_per_plugin=given)
    HfcLoader().fix_flags(flags)
    assert flags.samples_per_plugin["hfc"] == expected
    if given:
        assert flags.samples_per_plugin.get("images") == given.get("images")


def test_without_a_data_provider_there_is_no_plugin():
    assert HfcLoader().load(base_plugin.TBContext(data_provider=None)) is None


BLOCKER = """
import importlib.abc, sys

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "matplotlib", "captum", "hfc_probe"):
            raise ImportError(f"{name} is not installed here")

sys.meta_path.insert(0, Refuse())
"""


def test_one_wheel_without_torch_still_shows_the_tab(tmp_path, tab, logs):
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*build, str(ROOT), "-w", str(tmp_path)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"the wheel cannot be built here: {done.stderr.strip()[-200:]}")
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    (site / "sitecustomize.py").write_text(BLOCKER)
    environment = os.environ | {"PYTHONPATH": str(site)}
    with tensorboard_server(environment, logs) as address:
        tab.open(address, "p.hfc.view=curves")
        tab.ready("curves")
        assert "uses more of the high frequencies" in tab.text()
