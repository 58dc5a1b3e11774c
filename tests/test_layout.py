"""The house has floors: imports point downwards only, and no file is long without a reason."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from .conftest import ROOT

PACKAGE = ROOT / "hfc_probe"
# From the ground up, as in docs/ARCHITECTURE.md; modules of one line stand side by side.
FLOORS = [
    ["version", "ground"],
    ["fourier"],
    ["data"],
    ["attacks", "datasets", "transforms"],
    ["ranks"],
    ["model"],
    ["stem", "kernels"],
    ["core"],
    ["measurements"],
    ["detection"],
    ["probe"],
    ["cli"],
    ["", "__main__"],
]
LEVEL = {name: level for level, floor in enumerate(FLOORS) for name in floor}


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports(name: str) -> set[str]:
    """The modules of the package that one imports anywhere, in functions and for types too."""
    path, found = MODULES[name], set()
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    package = [part for part in package if part]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom):
            continue
        if node.level:
            start = package[: len(package) - node.level + 1]
            base = ".".join([*start, *(node.module or "").split(".")]).strip(".")
        elif (node.module or "").split(".")[0] == "hfc_probe":
            base = node.module.partition(".")[2]
        else:
            continue
        for alias in node.names:
            inner = f"{base}.{alias.name}".strip(".")
            found.add(inner if inner in MODULES else base)
    return found - {name}


def floor(name: str) -> int:
    return LEVEL[name.partition(".")[0]]


def test_every_module_stands_on_a_floor():
    assert {name.partition(".")[0] for name in MODULES} == set(LEVEL)


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_downwards(name):
    up = {other for other in imports(name) if floor(other) > floor(name)}
    assert up == set()


def test_imports_make_no_circle():
    graph = {name: imports(name) for name in MODULES}
    while graph:
        free = {name for name, needs in graph.items() if not needs & graph.keys()}
        assert free, f"a circle among {sorted(graph)}"
        graph = {name: needs for name, needs in graph.items() if name not in free}


def test_the_root_stays_small():
    assert len(list(PACKAGE.glob("*.py"))) <= 12


def test_a_file_of_more_than_400_lines_says_why():
    for folder in ("hfc_probe", "plugins"):
        for path in (ROOT / folder).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            if text.count("\n") > 400:
                assert "Long because" in (ast.get_docstring(ast.parse(text)) or ""), path


def test_nothing_in_the_library_knows_a_plugin():
    plugins = {path.name for path in (ROOT / "plugins").iterdir()}
    for path in MODULES.values():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and not node.level:
                assert node.module.partition(".")[0] not in plugins, path
            elif isinstance(node, ast.Import):
                assert not plugins & {alias.name.partition(".")[0] for alias in node.names}, path
