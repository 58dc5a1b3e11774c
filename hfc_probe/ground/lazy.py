"""Names of a package that are imported when they are first used."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def attributes(
    package: str, homes: Mapping[str, str], *, others: str | None = None
) -> Callable[[str], Any]:
    """The package's ``__getattr__``: ``import hfc_probe`` and ``--help`` do not wait for torch.

    Args:
        package: its name.
        homes: the module that each name comes from, relative to the package. The package's
            modules themselves are found without.
        others: the module that has every other name of a class.
    """

    def look_up(name: str) -> Any:
        value: Any = None
        if name in homes:
            value = getattr(importlib.import_module(f"{package}.{homes[name]}"), name)
        elif others is not None and name[0].isupper():
            value = getattr(importlib.import_module(f"{package}.{others}"), name, None)
        elif not name.startswith("_"):
            try:
                value = importlib.import_module(f"{package}.{name}")
            except ModuleNotFoundError as error:
                if error.name != f"{package}.{name}":
                    raise
        if value is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        setattr(sys.modules[package], name, value)
        return value

    return look_up
