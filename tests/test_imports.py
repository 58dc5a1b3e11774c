"""What an import costs and brings, in a fresh interpreter."""

import subprocess
import sys

import pytest


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout


def test_importing_the_library_imports_no_heavy_neighbour():
    heavy = (
        "matplotlib",
        "captum",
        "torchvision",
        "pycocotools",
        "tensorboard",
        "scipy",
        "lightning",
        "transformers",
        "ignite",
        "detectron2",
        "timm",
        "click",
    )
    found = run(f"import sys, hfc_probe; print([m for m in {heavy} if m in sys.modules])")
    assert found.strip() == "[]"


@pytest.mark.parametrize(
    "command", [["--help"], ["demo", "--help"], ["audit", "--help"], ["--version"]]
)
def test_help_answers_without_loading_torch(command):
    code = (
        "import sys; from click.testing import CliRunner; from hfc_probe import cli; "
        f"result = CliRunner().invoke(cli.main, {command}); print(result.output); "
        "assert result.exit_code == 0"
    )
    assert "hfc-probe" in run(code) or "Usage" in run(code)
