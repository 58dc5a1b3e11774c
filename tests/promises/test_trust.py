"""No code is run but that which the user named."""

from __future__ import annotations

import ast
import collections
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hfc_probe import InputError
from hfc_probe.cli.checkpoints import refuse_code
from hfc_probe.cli.main import main
from hfc_probe.cli.models import load_model

from ..conftest import ROOT, cli_runner

MODEL = """
import pathlib
import torch
pathlib.Path("ran").write_text("x")

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1))

    def forward(self, x):
        return self.net(x).flatten(1)
"""


class Attack:
    """Leaves a file when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("model.py").write_text(MODEL)
    images = np.random.default_rng(0).integers(0, 256, (8, 3, 12, 12), np.uint8)
    np.savez("data.npz", images=images, labels=np.arange(8) % 4)
    return tmp_path


def audit(weights, *options):
    command = ["audit", "--model", "model.py:Net", "--weights", weights, "--data", "npz:data.npz"]
    return cli_runner().invoke(main, [*command, "--normalize", "none", "--out", "out", *options])


def hostile(kind, mark):
    if kind == "with an attack":
        torch.save({"state_dict": {"w": torch.ones(1)}, "extra": Attack(mark)}, "hostile.pth")
    elif kind == "whole model":
        torch.save(nn.Sequential(nn.Conv2d(3, 4, 3)), "hostile.pth")
    else:
        Path("hostile.pth").write_bytes(pickle.dumps({"w": Attack(mark)}))


@pytest.mark.parametrize("kind", ["with an attack", "whole model", "bare pickle"])
def test_a_pickle_that_needs_code_is_refused_with_a_way_out(here, kind):
    hostile(kind, here / "attacked")
    done = audit("hostile.pth")
    assert done.exit_code == 2
    assert not Path("attacked").exists()
    assert not Path("out").exists()
    assert len(done.stderr.strip().splitlines()) == 1
    if kind == "bare pickle":
        assert "expected a PyTorch checkpoint" in done.stderr
        return
    assert "needs code to load, which could do anything" in done.stderr  # why
    assert 'torch.save(model.state_dict(), "weights.pth")' in done.stderr  # how


def test_the_way_out_works(here, monkeypatch):
    """The user does what the sentence says, in the program that made the checkpoint."""
    monkeypatch.syspath_prepend(str(here))
    import model

    torch.save(model.Net(), "hostile.pth")
    assert "convert it with" in audit("hostile.pth").stderr
    whole = torch.load("hostile.pth", weights_only=False)
    torch.save(whole.state_dict(), "weights.pth")
    loaded = load_model("model.py:Net", "weights.pth")
    assert torch.equal(loaded.net[0].weight, whole.net[0].weight)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_pickles_of_arrays_are_let_through_to_detectron2_and_no_others(here, protocol):
    arrays = {"conv.weight": np.ones((2, 3), np.float32), "scale": np.float64(2)}
    zoo = {"model": collections.OrderedDict(arrays), "__author__": "Detectron2 Model Zoo"}
    Path("zoo.pkl").write_bytes(pickle.dumps(zoo, protocol=protocol))
    refuse_code("zoo.pkl")
    zoo["model"]["conv.bias"] = Attack(here / "attacked")
    Path("hostile.pkl").write_bytes(pickle.dumps(zoo, protocol=protocol))
    with pytest.raises(InputError, match="needs code to load"):
        refuse_code("hostile.pkl")
    assert not Path("attacked").exists()
    Path("cut.pkl").write_bytes(Path("zoo.pkl").read_bytes()[:50])
    with pytest.raises(InputError, match="expected"):
        refuse_code("cut.pkl")
    torch.save({"model": {"w": torch.ones(1)}, "iteration": 3}, "model.pth")
    refuse_code("model.pth")


def test_help_says_that_the_file_of_a_model_is_run():
    for command in ("audit", "detect"):
        text = " ".join(cli_runner().invoke(main, [command, "--help"]).output.split())
        assert "path/to/file.py:callable (the file is run" in text


def calls(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}


def test_nothing_evaluates_text_or_unpickles_files():
    files = [*(ROOT / "hfc_probe").rglob("*.py"), *(ROOT / "plugins").rglob("*.py")]
    assert len(files) > 50
    for path in files:
        for name, options in calls(path):
            where = f"{path.name}: {name}"
            assert name not in ("eval", "exec", "compile", "os.system", "__import__"), where
            assert name not in ("pickle.load", "pickle.loads", "yaml.load", "yaml.unsafe_load"), (
                where
            )
            assert options.get("shell") in (None, "False"), where
            # sharing.py reads what other ranks put into the store of their own process group, as
            # torch's object collectives do; no file.
            if name == "torch.load" and path.name != "sharing.py":
                assert options["weights_only"] == "True", where
            if name == "np.load":
                assert options["allow_pickle"] == "False", where
