"""The tutorials run from top to bottom, and show what their text speaks of."""

from __future__ import annotations

import re

import pytest
from matplotlib.figure import Figure

from .conftest import ROOT, needs_coco

FOLDER = ROOT / "docs" / "tutorials"
CELL = re.compile(r"^```\{code-cell\} python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def run(name):
    """The names that a tutorial leaves, and the values of its cells' last expressions."""
    import ast
    import sys

    module = type(sys)(name)
    sys.modules[name] = module  # dataclasses look their module up
    shown = []
    for code in CELL.findall((FOLDER / f"{name}.md").read_text()):
        tree = ast.parse(code)
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, name, "exec"), vars(module))
        if last is not None:
            shown.append(eval(compile(ast.Expression(last.value), name, "eval"), vars(module)))
    del sys.modules[name]
    return vars(module), [one for one in shown if isinstance(one, Figure)]


@pytest.mark.slow
def test_a_trainer():
    names, figures = run("trainer")
    assert len(figures) == 1
    first, *_, last = names["history"]
    assert last["hfc_accuracy/original"] > max(0.9, first["hfc_accuracy/original"])
    assert names["curves"].scalars()["hfc_lfc/r02"] < 0.3  # below what the class was written into


@pytest.mark.slow
@needs_coco
def test_a_detector():
    names, figures = run("detector")
    assert len(figures) == 2
    found = names["result"].scalars()
    assert found["hfc_detection/AP/lfc_r08"] > 0.8 > 0.5 > found["hfc_detection/AP/lfc_r02"]
    assert found["hfc_detection/AP/hfc_r08"] > 0.8
    assert found["hfc_detection/F1/hfc_r08"] < 0.5 * found["hfc_detection/F1/original"]


@pytest.mark.slow
def test_two_runs(capsys):
    names, figures = run("two_runs")
    assert len(figures) == 1
    assert re.search(r"HFC\(6\) is lower in blurred", capsys.readouterr().out)
    assert (names["folder"] / "blurred" / "report.html").is_file()


@pytest.mark.slow
def test_an_own_measurement():
    names, figures = run("own_measurement")
    assert len(figures) == 1
    values = list(names["result"].scalars().values())
    assert values[0] > 0.9 > values[-1]


def test_every_tutorial_is_run_and_is_on_the_site():
    here = (ROOT / "tests" / "test_tutorials.py").read_text()
    index = (ROOT / "docs" / "index.md").read_text()
    for page in FOLDER.glob("*.md"):
        assert f'run("{page.stem}")' in here
        assert f"tutorials/{page.stem}\n" in index
