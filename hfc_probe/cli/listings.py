"""Images that are no folder of classes: lists in CSV and parquet, Hugging Face data, tar shards.

All become :class:`~hfc_probe.cli.folders.ClassFolders`: their images are read as a folder's.
"""

from __future__ import annotations

import csv
import glob
import json
import re
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..ground.errors import InputError, named
from .checkpoints import existing_file
from .folders import SUFFIXES, ClassFolders, StoredImage

LISTINGS = ("csv", "parquet", "hf", "tar")

# Names of columns that are taken if none is named, the first that is there.
_COLUMNS = {
    "image": ("image", "img", "images", "path", "image_path", "file_name", "filename", "file"),
    "label": ("label", "labels", "class", "target", "category", "fine_label"),
}

_NUMBER = re.compile(r"[-+]?\d*\.?\d+")


def read_listing(kind: str, text: str) -> ClassFolders:
    """The images of a listing, and their classes.

    Args:
        kind: ``csv`` (paths from the file's folder on), ``parquet`` (a file or a folder of them;
            images as encoded bytes, as Hugging Face's, or as paths), ``hf`` (a folder that
            ``save_to_disk`` of datasets wrote) or ``tar`` (WebDataset shards; a pattern or folder).
        text: the path; ``,image=COLUMN`` and ``,label=COLUMN`` name columns, ``,split=NAME`` the
            part of a Hugging Face data set.

    Raises:
        InputError: no such file or column, a library that is missing, labels that are no classes.
    """
    path, options = _taken_apart(kind, text)
    found: ClassFolders = _READERS[kind](Path(path), options)
    if not found.files:
        raise InputError(f"--data: expected images in {path}, got none")
    return found


def _taken_apart(kind: str, text: str) -> tuple[str, dict[str, str]]:
    parts = re.fullmatch(r"(.*?)((?:,\w+=[^,]*)*)", text)
    assert parts is not None
    options = dict(part.split("=", 1) for part in parts[2].split(",")[1:])
    known = {"csv": ("image", "label"), "parquet": ("image", "label"), "tar": ()}
    takes = known.get(kind, ("image", "label", "split"))
    unknown = [name for name in options if name not in takes]
    if unknown:
        raise InputError(
            f"--data: expected {kind}:PATH with {', '.join(takes) or 'no settings'}, got "
            f"{named(unknown)}"
        )
    return parts[1], options


def _csv(path: Path, options: Mapping[str, str]) -> ClassFolders:
    file = existing_file(path, "--data")
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            rows, columns = list(reader), list(reader.fieldnames or ())
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(
            f"--data: expected a CSV file in UTF-8, got {file.name}, which cannot be read as one"
        ) from error
    image, label = (_column(which, columns, options, file) for which in ("image", "label"))
    short = [k + 2 for k, row in enumerate(rows) if not row[image] or not row[label]]
    if short:
        raise InputError(
            f"--data: expected a path and a label in each line of {file.name}, got line {short[0]} "
            "without"
        )
    files = [file.parent / row[image] for row in rows]
    return _classed("csv", file, files, [row[label] for row in rows], root=file.parent)


def _parquet(path: Path, options: Mapping[str, str]) -> ClassFolders:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise _missing("parquet:… needs pyarrow", "parquet") from error
    if not path.exists():
        raise InputError(f"--data: expected a parquet file, got {path} (no such file)")
    try:
        columns = parquet.ParquetDataset(path).schema.names
        image, label = (_column(which, columns, options, path) for which in ("image", "label"))
        table = parquet.read_table(path, columns=[image, label])
    except InputError:
        raise
    except Exception as error:  # damaged files raise anything at all
        raise InputError(
            f"--data: expected a parquet file, got {path.name}, which cannot be read as one"
        ) from error
    features = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}"))
    names = features.get("info", {}).get("features", {}).get(label, {}).get("names")
    home = path if path.is_dir() else path.parent
    images = table.column(image)
    files = [
        StoredImage(f"row {k} of {path.name}", partial(_cell, images, k, home, image))
        for k in range(len(images))
    ]
    return _classed("parquet", path, files, table.column(label).to_pylist(), names)


def _cell(column: Any, k: int, home: Path, name: str) -> bytes:
    """The encoded image in a cell: bytes, a path, or Hugging Face's mapping of both."""
    value = column[k]
    value = value.as_py() if hasattr(value, "as_py") else value
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str):
        return (home / value).read_bytes()
    if isinstance(value, bytes):
        return value
    raise InputError(
        f"--data: expected encoded images or their paths in column {name}, got "
        f"{type(value).__name__} in row {k}; name another with ,image=COLUMN"
    )


def _hf(path: Path, options: Mapping[str, str]) -> ClassFolders:
    try:
        import datasets
    except ImportError as error:
        raise _missing("hf:… needs datasets", "datasets") from error
    try:
        data = datasets.load_from_disk(str(path))
    except Exception as error:  # no folder, another form, damaged
        raise InputError(
            f"--data: expected a data set that save_to_disk of Hugging Face datasets wrote, got "
            f"{path} ({' '.join(str(error).split())[:200]})"
        ) from error
    split = options.get("split")
    parts = list(data) if isinstance(data, datasets.DatasetDict) else []
    if split is not None or parts:
        if split not in parts:
            raise InputError(
                f"--data: expected ,split=NAME with one of {', '.join(parts) or 'none'} in {path}, "
                f"got {split or 'none'}"
            )
        data = data[split]
    columns = data.column_names
    image, label = (_column(which, columns, options, path) for which in ("image", "label"))
    if isinstance(data.features[image], datasets.Image):
        data = data.cast_column(image, datasets.Image(decode=False))
    names = getattr(data.features[label], "names", None)
    images = data[image]
    files = [
        StoredImage(f"row {k} of {path.name}", partial(_cell, images, k, path, image))
        for k in range(len(data))
    ]
    return _classed("hf", path, files, list(data[label]), names)


def _tar(path: Path, options: Mapping[str, str]) -> ClassFolders:
    shards = (
        sorted(path.glob("*.tar")) if path.is_dir() else [*map(Path, sorted(glob.glob(str(path))))]
    )
    if not shards:
        raise InputError(f"--data: expected .tar files, got {path} (no such file)")
    files: list[StoredImage] = []
    labels: list[Any] = []
    for shard in shards:
        samples: dict[str, dict[str, Any]] = {}
        try:
            with tarfile.open(shard, "r:") as archive:  # compressed, it has no places to read at
                for member in archive:
                    if member.isfile():
                        folder, slash, file = member.name.rpartition("/")
                        stem, _, ending = file.partition(".")
                        place = (member.offset_data, member.size)
                        samples.setdefault(f"{folder}{slash}{stem}", {})[ending.lower()] = place
        except (OSError, tarfile.TarError) as error:
            raise InputError(
                f"--data: expected an uncompressed .tar file, got {shard.name}, which cannot be "
                "read as one"
            ) from error
        for name, parts in samples.items():
            image = next((one for one in parts if f".{one}" in SUFFIXES), None)
            if image is None:
                continue
            read = partial(_part, shard, *parts[image])
            files.append(StoredImage(f"{name}.{image} of {shard.name}", read))
            labels.append(_tar_label(shard, name, parts))
    return _classed("tar", path, files, labels)


def _tar_label(shard: Path, name: str, parts: Mapping[str, tuple[int, int]]) -> Any:
    """The label beside an image: ``.cls`` (number or name), ``.txt``, or ``label`` in ``.json``."""
    for ending in ("cls", "txt", "json"):
        if ending in parts:
            try:
                text = _part(shard, *parts[ending]).decode().strip()
                content = json.loads(text) if ending == "json" else text
            except ValueError:
                content = None
            if isinstance(content, dict):
                content = next((content[k] for k in _COLUMNS["label"] if k in content), None)
            if isinstance(content, (int, str)) and content != "":
                return content
    raise InputError(
        f"--data: expected a label beside each image in {shard.name}, as .cls, .txt or label in "
        f".json, got none for {name}"
    )


def _part(file: Path, start: int, length: int) -> bytes:
    with file.open("rb") as stream:
        stream.seek(start)
        return stream.read(length)


_READERS = {"csv": _csv, "parquet": _parquet, "hf": _hf, "tar": _tar}


def _column(which: str, columns: Sequence[str], options: Mapping[str, str], path: Path) -> str:
    given = options.get(which)
    found = [one for one in ([given] if given else _COLUMNS[which]) if one in columns]
    if not found:
        what = f"a column {given!r}" if given else f"a column of {which}s"
        raise InputError(
            f"--data: expected {what} in {path.name}, got {named(columns, 8) or 'none'}; name it "
            f"with ,{which}=COLUMN"
        )
    return found[0]


def _classed(
    kind: str,
    path: Path,
    files: Iterable[Path | StoredImage],
    labels: Sequence[Any],
    names: Sequence[str] | None = None,
    root: Path | None = None,
) -> ClassFolders:
    """Images with their classes: numbers are the model's own, as names they are looked up.

    Args:
        names: of the numbers, in their order, as the data set has them.
    """
    texts = [_whole(str(label)) for label in labels]
    numbers = all(re.fullmatch(r"\d+", text) for text in texts)
    wrong = [text for text in texts if not text.isdecimal()]
    named_by_text = all(isinstance(one, str) for one in labels)
    # Numbers that are no classes, as -1 for an image without a label, are no names either.
    if wrong and (not named_by_text or all(_NUMBER.fullmatch(text) for text in texts)):
        raise InputError(
            f"--data: expected labels that are class numbers from 0 or names in {path.name}, got "
            f"{wrong[0]}"
        )
    known = list(names) if numbers and names else [] if numbers else sorted(set(texts))
    place = {name: k for k, name in enumerate(known)}
    indices = list(map(int, texts)) if numbers else [place[text] for text in texts]
    if known and max(indices, default=0) >= len(known):
        raise InputError(
            f"--data: expected labels below {len(known)}, the named classes of {path.name}, got "
            f"{max(indices)}"
        )
    pairs = list(zip(files, indices, strict=True))
    return ClassFolders(path, known, pairs, [], kind=kind, base=root)


def _whole(text: str) -> str:
    """A number as it is written without decimals: pandas writes 3.0 if a column had a gap.

    >>> _whole("3.0"), _whole("v3.0")
    ('3', 'v3.0')
    """
    return text.partition(".")[0] if re.fullmatch(r"-?\d+\.0+", text) else text


def _missing(what: str, extra: str) -> InputError:
    return InputError(f"--data: {what}; pip install 'hfc_probe[{extra}]'")
