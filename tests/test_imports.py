"""What an import costs and brings, in a fresh interpreter."""

import subprocess
import sys

import pytest

import hfc_probe
import hfc_probe.detection


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


def test_help_does_not_wait_for_torch():
    code = (
        "import sys; from click.testing import CliRunner; from hfc_probe import cli\n"
        "CliRunner().invoke(cli.main, ['audit', '--help'], catch_exceptions=False)\n"
        "print([m for m in ('torch', 'numpy') if m in sys.modules])"
    )
    assert run(code).strip() == "[]"


@pytest.mark.parametrize("package", [hfc_probe, hfc_probe.detection])
def test_every_public_name_is_there_and_no_other(package):
    names = [name for name in package.__all__ if not name.startswith("_")]
    assert {name for name in names if getattr(package, name).__name__.endswith(name)} == set(names)
    assert set(package.__all__) <= set(dir(package))
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        _ = package.nonsense
