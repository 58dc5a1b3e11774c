"""What an import costs and brings, in a fresh interpreter."""

import subprocess
import sys


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


def test_help_answers():
    commands = [["--help"], ["demo", "--help"], ["audit", "--help"], ["detect", "--help"]]
    code = (
        "from click.testing import CliRunner; from hfc_probe import cli\n"
        f"for command in {commands}:\n"
        "    print(CliRunner().invoke(cli.main, command, catch_exceptions=False).output)"
    )
    assert run(code).count("Usage:") == len(commands)
