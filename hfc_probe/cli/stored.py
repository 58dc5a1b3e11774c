"""Results on disk, as ``hfc-probe audit`` and ``demo`` write them, read with care."""

from __future__ import annotations

import base64
import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.labels import Label
from ..ground.errors import InputError, named

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class StoredRun:
    """Results that ``hfc-probe audit`` or ``demo`` wrote into one directory.

    Attributes:
        name: the directory's.
        results: by file stem, as :meth:`hfc_probe.Result.to_dict` made them.
        pictures: PNG files by stem.
        files: the results' JSON by stem, for drawing them anew.
    """

    name: str
    results: Mapping[str, Mapping[str, Any]]
    pictures: Mapping[str, bytes]
    files: Mapping[str, Path] = field(default_factory=dict)


# Settings that results of earlier versions lack, with what was measured then.
_LACKED = {"axes": 2}


def all_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a result of any version."""
    return {**_LACKED, **settings}


def read_run(path: Path) -> StoredRun:
    """The results in a directory.

    Raises:
        InputError: no directory, or one without results.
    """
    if not path.is_dir():
        raise InputError(f"report: expected a directory that audit wrote (--out), got {path}")
    results, files = {}, {}
    for file in sorted(path.glob("*.json")):
        try:
            content = json.loads(file.read_bytes())
            if isinstance(content, dict) and "measurement" in content and "scalars" in content:
                results[printable(file.stem)] = _checked(content)
                files[printable(file.stem)] = file
        except (ValueError, TypeError, RecursionError, OSError) as error:
            raise InputError(
                f"report: expected a result in {printable(file.name)}, got a damaged file; measure "
                "again"
            ) from error
    if not results:
        raise InputError(
            f"report: expected results (*.json of audit or demo) in {path}, got none; a "
            "TensorBoard directory alone does not hold them"
        )
    strange = of_other_weights(results)
    if strange:
        raise InputError(
            f"report: expected results of one model in {path}, got {named(strange)} of other "
            "weights than the latest, left by an earlier run; remove what is not meant"
        )
    pictures = {
        printable(file.stem): file.read_bytes()
        for file in sorted(path.glob("*.png"))
        if printable(file.stem) in results and file.is_file()
    }
    return StoredRun(printable(path.resolve().name), results, pictures, files)


def of_other_weights(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The files of results that are of other weights than the latest, left by an earlier run."""
    known = {
        name: (str(said.get("date")), said["weights"])
        for name, said in ((name, one.get("provenance", {})) for name, one in results.items())
        if said.get("weights") is not None
    }
    latest = max(known.values(), key=lambda one: one[0], default=("", None))[1]
    return [f"{name}.json" for name, (_, weights) in known.items() if weights != latest]


def printable(text: str) -> str:
    r"""Text in one line that a terminal shows and UTF-8 can hold, whatever it was.

    >>> printable("a\x1b[31m\nb \ud800 é")
    'a�[31m�b � é'
    """
    return "".join("�" if unicodedata.category(c) in _UNPRINTABLE else c for c in text)


# Control and format characters (which can turn the text around), halves of a pair, line ends.
_UNPRINTABLE = ("Cc", "Cf", "Cs", "Zl", "Zp")
_PARTS = ("scalars", "intervals", "settings", "provenance", "per_image", "labels")
_LEVELS = 32  # of nesting in settings; a heatmap's arrays have three


def _checked(content: Mapping[str, Any]) -> dict[str, Any]:
    """What the page shows of a result, with nothing in it that could not be shown.

    Raises:
        ValueError: parts of another kind than :meth:`hfc_probe.Result.to_dict` makes.
    """
    parts = {key: content.get(key, {}) for key in _PARTS}
    if not all(isinstance(part, dict) for part in parts.values()):
        raise ValueError(f"{', '.join(_PARTS)} are mappings")
    summary, samples = content.get("summary", ""), content.get("samples")
    if not isinstance(summary, str):
        raise ValueError("a summary is text")
    return {
        "measurement": printable(str(content["measurement"])[:100]),
        "summary": printable(summary),
        "samples": _number(samples),
        "scalars": {_tag(tag): _number(value) for tag, value in parts["scalars"].items()},
        "intervals": {
            _tag(tag): [_number(bound) for bound in bounds]
            for tag, bounds in parts["intervals"].items()
            if isinstance(bounds, list) and len(bounds) == 2
        },
        "labels": {
            _tag(tag): Label.read(_shallow(label, _LEVELS))
            for tag, label in parts["labels"].items()
        },
        "settings": _shallow(parts["settings"], _LEVELS),
        "provenance": _shallow(parts["provenance"], _LEVELS),
        "per_image": {_tag(tag): _bits(text, samples) for tag, text in parts["per_image"].items()},
    }


def _tag(tag: str) -> str:
    """A tag as it is written now; radii and ranks once had as many digits as the largest.

    >>> _tag("hfc_lfc/r064"), _tag("hfc_svd/hfc_k004"), _tag("hfc_hfc/r00.25")
    ('hfc_lfc/r64', 'hfc_svd/hfc_k04', 'hfc_hfc/r00.25')
    """
    return re.sub(r"(?<=[/_])([rk])0+(?=\d\d+(\.\d+)?$)", r"\1", printable(tag))


def _bits(text: Any, count: Any) -> NDArray[np.bool_]:
    """Outcomes by image, as :meth:`hfc_probe.Result.to_dict` packs them.

    Raises:
        ValueError: not the outcomes of that many images.
    """
    import numpy as np  # the command's help, which needs no results, does not wait for it

    packed = np.frombuffer(base64.b64decode(text, validate=True), np.uint8)
    if not isinstance(count, int) or len(packed) != -(-count // 8):
        raise ValueError("outcomes of another number of images")
    return np.unpackbits(packed, count=count).astype(bool)


def _number(value: Any) -> int | float | None:
    """A finite number as it is; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    # A whole number of hundreds of digits is no float, and no measurement's.
    return value if abs(value) < 1e300 else None


def _shallow(value: Any, levels: int) -> Any:
    """A setting with its text made printable; ValueError if it is nested too deeply."""
    if levels == 0:
        raise ValueError("nested too deeply")
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list):
        return [_shallow(item, levels - 1) for item in value]
    if isinstance(value, dict):
        return {printable(key): _shallow(item, levels - 1) for key, item in value.items()}
    return value
