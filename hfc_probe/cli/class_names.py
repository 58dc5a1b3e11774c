"""Which class of a model a folder stands for: by the names of the model's classes, if known."""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ..ground.errors import InputError, named

_SYNSET = re.compile(r"n\d{8}")
# Attributes under which models of other libraries keep the names of their classes.
_ATTRIBUTES = ("class_names", "classes", "names", "categories", "class_to_idx", "id2label")
_OPTION = (
    "name the model's classes in their order with --class-names FILE (one a line, or JSON), or "
    "with --class-names numbers for folders named by their index"
)


@dataclass(frozen=True)
class ClassNames:
    """Names of a model's classes.

    Attributes:
        names: ``(index, name)``; a class may have several names.
        source: where they come from, for a sentence.
        complete: whether they are all of the model's classes.
    """

    names: tuple[tuple[int, str], ...]
    source: str
    complete: bool = True

    @property
    def count(self) -> int:
        return 1 + max((index for index, _ in self.names), default=-1)

    def find(self, name: str) -> int | None:
        """The class of a name, if exactly one has it; case, ``_``, ``-`` and spaces may differ.

        >>> ClassNames(((0, "great white shark"), (1, "crane"), (2, "crane")), "").find("crane")
        """
        for form in (str, _plain):
            found = {index for index, other in self.names if form(other) == form(name)}
            if found:
                return found.pop() if len(found) == 1 else None
        return None


def folder_classes(
    folders: Sequence[str],
    logits: int,
    given: ClassNames | str | None = None,
    own: Iterable[ClassNames] = (),
) -> tuple[list[int], str]:
    """The class of each folder, and in words how it was found.

    Args:
        folders: their names, sorted, or in the order that a data set declares.
        logits: number of the model's classes.
        given: the user's word: the names; ``"numbers"``, folders are named by their index;
            ``"sorted"``, sorted names are the classes in order. None: by the model's own names
            if the folders have them, else sorted if there are as many as logits and sorting
            them as numbers gives the same order.
        own: names of as many classes that the model or its library knows.

    Raises:
        InputError: folders without a class, two of one class, or no way to tell.
    """
    if given == "numbers":
        given = ClassNames(tuple((k, str(k)) for k in range(logits)), "--class-names numbers")
        folders = [str(int(name)) if name.isdecimal() else name for name in folders]
    if isinstance(given, ClassNames):
        if given.count > logits or (given.complete and given.count != logits):
            raise InputError(
                f"--class-names: expected {logits} names, as many as the model has logits, got "
                f"{given.count} in {given.source}"
            )
        return _by_name(folders, given), f"by {given.source}"
    for names in own if given is None else ():
        matches = sum(names.find(name) is not None for name in folders)
        if 2 * matches > len(folders):  # a few that do not match are mistakes, and said
            return _by_name(folders, names), f"by {names.source}"
    if len(folders) != logits:
        raise InputError(
            f"--data: expected {logits} class folders, one for each of the model's logits, got "
            f"{len(folders)} ({named(folders)}); {_OPTION}"
        )
    numbered = given is None and all(name.isdecimal() for name in folders)
    if numbered and sorted(folders, key=int) != list(folders):
        raise InputError(
            f"--data: expected class folders with one order, got numbers ({named(folders)}), "
            "which sorted as text are in another order; say --class-names numbers if a "
            "folder's number is its class, or sorted if the model was trained in the order "
            "of torchvision's ImageFolder"
        )
    order = sorted(folders)
    if order != list(folders) and given is None:
        return list(range(logits)), "in the order of the data set's names"
    return [order.index(name) for name in folders], "in the order of their sorted names"


def read_class_names(path: str | os.PathLike[str]) -> ClassNames:
    """Names of a model's classes from a file.

    Text has one name a line, in the model's order, or each with its index from 0 before or after
    it; a line of ImageNet's synset list (``n01440764 tench, Tinca tinca``) gives each of its
    names. JSON has a list, ``{"0": name}``, ``{"0":
    [name, name]}``, ``{name: 0}``, or one of these under ``id2label`` or ``class_to_idx``.

    Raises:
        InputError: no such file, no text, or of another form.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(
            f"--class-names: expected a file, numbers or sorted, got {file} "
            f"({'a folder' if file.is_dir() else 'no such file'})"
        )
    try:
        text = file.read_text(encoding="utf-8-sig")
        content: Any = json.loads(text) if text.lstrip()[:1] in ("[", "{") else _lines(text)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"--class-names: expected names in a text or JSON file, got {file.name}, which cannot "
            "be read as one"
        ) from error
    names = _names_in(content, file.name)
    if names is None:
        raise InputError(
            "--class-names: expected one name a line (numbers, if any, from 0), or JSON with a "
            f"list of names or a mapping of index to name, got another form in {file.name}"
        )
    return names


def own_class_names(spec: str, model: nn.Module, logits: int) -> list[ClassNames]:
    """What a model, its library or ImageNet's synsets say about its classes' names."""
    kind, _, name = spec.partition(":")
    found: list[ClassNames | None] = []
    for owner in (model, getattr(model, "config", None)):
        for attribute in _ATTRIBUTES:
            content = getattr(owner, attribute, None)
            if isinstance(content, (list, tuple, Mapping)):
                found.append(_names_in(content, f"the model's {attribute}"))
    if kind == "torchvision":
        from torchvision import models

        meta = models.get_model_weights(name)["DEFAULT"].meta
        found.append(_names_in(meta.get("categories", ()), "the categories of the weights"))
    found.append(_synsets(logits))
    return [names for names in found if names is not None and names.count == logits]


def _synsets(logits: int) -> ClassNames | None:
    """ImageNet's synset folders (n01440764, …), from timm if it is installed."""
    try:
        from timm import data
    except ImportError:
        return None
    known: Any = data
    subset = known.infer_imagenet_subset({"num_classes": logits})
    if subset is None:
        return None
    names = tuple(enumerate(known.ImageNetInfo(subset).label_names()))
    return ClassNames(names, f"the synsets of {subset}")


def _names_in(content: Any, source: str) -> ClassNames | None:
    """Names in a list or mapping; None for another form."""
    if isinstance(content, Mapping):
        for key in ("id2label", "class_to_idx", "label2id"):
            if isinstance(content.get(key), Mapping):
                return _names_in(content[key], source)
        pairs = [_pair(key, value) for key, value in content.items()]
        if not pairs or any(pair is None for pair in pairs):
            return None
        items = [pair for pair in pairs if pair is not None]
        complete = {index for index, _ in items} == set(range(len(items)))
    elif isinstance(content, (list, tuple)) and content:
        items, complete = list(enumerate(content)), True
    else:
        return None
    names: list[tuple[int, str]] = []
    for index, value in items:
        several = value if isinstance(value, (list, tuple)) else [value]
        if not several or not all(isinstance(name, str) and name for name in several):
            return None
        names += ((index, alias) for name in several for alias in _aliases(name))
    return ClassNames(tuple(names), source, complete)


def _pair(key: Any, value: Any) -> tuple[int, Any] | None:
    """``(index, names)`` of an entry of index to name, or of name to index."""
    index, name = (value, key) if isinstance(value, int) else (key, value)
    if isinstance(index, str) and index.isdecimal():
        index = int(index)
    whole = isinstance(index, int) and not isinstance(index, bool) and index >= 0
    return (index, name) if whole else None


def _lines(text: str) -> list[str] | dict[int, str]:
    """Names by line, or by the numbers that all lines have; nothing if those start at 1."""
    lines = [line.strip() for line in text.strip().splitlines()]
    for pattern, number, name in ((r"(\d+)[\s,:;]+(.+)", 1, 2), (r"(.+)[\s,:;]+(\d+)", 2, 1)):
        found = [re.fullmatch(pattern, line) for line in lines]
        pairs = {int(match[number]): match[name].strip() for match in found if match}
        whole = list(range(len(lines)))
        if lines and sorted(pairs) in (whole, [k + 1 for k in whole]):
            return pairs if sorted(pairs) == whole else []
    return lines


def _aliases(name: str) -> list[str]:
    """A name, and those in a line of ImageNet's synset list."""
    synset = _SYNSET.match(name)
    rest = name[synset.end() :].strip(" :,\t") if synset else name
    several = [part.strip() for part in rest.split(",") if part.strip()]
    return list(dict.fromkeys([name, *([synset.group()] if synset else []), *several]))


def _by_name(folders: Sequence[str], names: ClassNames) -> list[int]:
    found = [names.find(name) for name in folders]
    unknown = [name for name, index in zip(folders, found, strict=True) if index is None]
    if unknown:
        known = [name for _, name in names.names]
        close = difflib.get_close_matches(unknown[0], known, n=3, cutoff=0.5)
        hint = f"; did you mean {named(close)}?" if close else ""
        raise InputError(
            f"--data: expected folders named as one class of {names.source} each, got "
            f"{named(unknown)}{hint}; the classes are {named(known)}; rename the folders, or pass "
            "--class-names FILE with the folders' names in the order of the classes"
        )
    indices = [index for index in found if index is not None]
    twice = [name for name, index in zip(folders, indices, strict=True) if indices.count(index) > 1]
    if twice:
        raise InputError(
            f"--data: expected one folder per class, got {named(twice)} for one class of "
            f"{names.source}"
        )
    return indices


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()
