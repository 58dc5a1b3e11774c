"""A folder with one folder of images per class: what is in it, and its images as pixels."""

from __future__ import annotations

import io
import os
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..data.samples import Samples
from ..ground.errors import InputError, named
from .preprocessing import Preprocessing

SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".ppm", ".pgm", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".avif"),
)
_SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing", "eval"}
_ORIENTATION = 0x0112  # the EXIF tag


class UnreadableImageError(InputError):
    """An image file that cannot be read; with ``--skip-broken`` it is left out."""


@dataclass(frozen=True)
class StoredImage:
    """An image inside another file, encoded as an image file is.

    Attributes:
        name: for sentences.
        read: gives its bytes.
    """

    name: str
    read: Callable[[], bytes]


@dataclass(frozen=True)
class ClassFolders:
    """What a folder of class folders holds, or a listing of images with their classes.

    Attributes:
        root: the folder, or the listing's file.
        names: of the class folders, sorted; one without images is among them. A listing whose
            labels are the model's own numbers has none.
        files: the images with the position of their class folder in ``names``, sorted.
        left_out: files that are no images by their ending, relative to the root.
        kind: of ``--data``.
        base: that the names of files are said from; None: the root.
    """

    root: Path
    names: list[str]
    files: list[tuple[Path | StoredImage, int]]
    left_out: list[str]
    kind: str = "folder"
    base: Path | None = None

    def said(self, file: Path | StoredImage) -> str:
        """A file's name for a sentence."""
        if isinstance(file, StoredImage):
            return file.name
        base = self.base or self.root
        return str(file.relative_to(base) if file.is_relative_to(base) else file)

    @classmethod
    def scan(cls, path: str | os.PathLike[str]) -> ClassFolders:
        """Look through a folder; hidden files and folders do not count.

        Raises:
            InputError: no folder, no class folders, no images, or splits in place of classes.
        """
        root = Path(path)
        if not root.is_dir():
            what = "a file" if root.is_file() else "no such folder"
            raise InputError(
                f"--data: expected a folder with one folder per class, got {root} ({what})"
            )
        try:
            entries = sorted(e for e in root.iterdir() if not _hidden(e.name))
            names = [entry.name for entry in entries if entry.is_dir()]
            found = [(file, k) for k, name in enumerate(names) for file in _files(root / name)]
        except OSError as error:
            raise InputError(f"--data: expected a folder that can be read, got {error}") from error
        loose = [entry for entry in entries if not entry.is_dir()]
        files: list[tuple[Path | StoredImage, int]]
        files = [(file, k) for file, k in found if file.suffix.lower() in SUFFIXES]
        if not files:
            what = "images in no folder of a class" if names == [] and loose else "no images"
            raise InputError(
                f"--data: expected a folder with one folder of images per class, got {root} "
                f"with {what if entries else 'nothing in it'}"
            )
        _refuse_splits(root, names)
        others = [*loose, *(file for file, _ in found if file.suffix.lower() not in SUFFIXES)]
        return cls(root, names, files, [str(file.relative_to(root)) for file in others])


@dataclass
class FolderImages(Dataset[tuple[Tensor, int]]):
    """The images of class folders, read one at a time; an element is (image, class folder).

    Attributes:
        folders: where they are.
        size: side that they are cropped to, after a larger image is resized to ``size / crop``
            on its shorter side and a smaller one to ``size``; None leaves them as they are.
        how: the model's crop and interpolation.
        notes: what was met while reading: ``enlarged``, ``reduced``, ``transparent``, ``turned``.
    """

    folders: ClassFolders
    size: int | None
    how: Preprocessing = field(default_factory=Preprocessing)
    notes: Counter[str] = field(default_factory=Counter)

    @property
    def classes(self) -> list[str]:
        return self.folders.names

    def __len__(self) -> int:
        return len(self.folders.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """A float image ``(3, H, W)`` in [0, 1] and the number of its class folder."""
        path, label = self.folders.files[index]
        image = self._read(path)
        return (image.float() / 255 if image.dtype == torch.uint8 else image), label

    def samples(
        self, limit: int | None = None, *, seed: int = 0, skip_broken: bool = False
    ) -> Samples:
        """A seeded random choice of the images, with the numbers of their class folders.

        Raises:
            InputError: a file that cannot be read (unless they are to be skipped), images of
                several sizes and no ``size``.
        """
        chosen: Sequence[int] = range(len(self))
        whole = limit is None or limit >= len(self)
        if limit is not None and not whole:
            chosen = sorted(random.Random(seed).sample(chosen, limit))
        self.notes.clear()
        images, labels, broken = [], [], []
        for index in chosen:
            path, label = self.folders.files[index]
            try:
                images.append(self._read(path))
                labels.append(label)
            except UnreadableImageError:
                if not skip_broken:
                    raise
                broken.append(self.folders.said(path))
        if not images:
            raise InputError(f"--data: expected images that can be read, got {named(broken)}")
        shapes = sorted({tuple(image.shape[1:]) for image in images})
        if len(shapes) > 1:
            first, last = (f"{shape[1]}×{shape[0]}" for shape in (shapes[0], shapes[-1]))
            raise InputError(
                f"--data: expected images of one size, got {len(shapes)} sizes from {first} to "
                f"{last}; name the side to resize and crop them to with --size"
            )
        if any(image.dtype != torch.uint8 for image in images):
            images = [i.float() / 255 if i.dtype == torch.uint8 else i for i in images]
        return Samples(
            torch.stack(images),
            torch.tensor(labels),
            "all" if whole else "random",
            caveats=tuple(self._caveats(len(images), broken)),
            provenance={
                "data": f"{self.folders.kind}:{self.folders.root}, {len(images)} images of "
                f"{_extent(images[0])}",
                **self._resampling(len(images)),
            },
        )

    def _read(self, path: Path | StoredImage) -> Tensor:
        """``(3, H, W)``, uint8, or float in [0, 1] for images of more than 8 bits."""
        from PIL import Image

        relative = self.folders.said(path)
        try:
            with Image.open(_source(path)) as file:
                file.load()
                picture = _pixels(file, relative)
                self.notes["turned"] += file.getexif().get(_ORIENTATION, 1) not in (0, 1)
                self.notes["transparent"] += _transparent(file)
        except InputError:
            raise
        except Exception as error:  # damaged files raise anything at all
            raise UnreadableImageError(
                f"--data: expected an image in {relative}, got a file that cannot be read as one "
                f"({named([error])}); repair or remove it (audit leaves such files out "
                "with --skip-broken)"
            ) from error
        return self._fitted(picture)

    def _fitted(self, picture: Any) -> Tensor:
        from torchvision.transforms import InterpolationMode
        from torchvision.transforms import functional as F

        if self.size is not None:
            _, height, width = F.get_dimensions(picture)
            shorter = min(height, width)
            target = min(max(shorter, self.size), self._resized_side)
            whole = self.how.crop is None
            if target != shorter or (whole and height != width):
                self.notes["enlarged" if target > shorter else "reduced"] += 1
                self.notes[f"{shorter} to {target}"] += 1
                to = [target, target] if whole else [target]
                mode = InterpolationMode(self.how.interpolation)
                picture = F.resize(picture, to, mode, antialias=True)
            picture = F.center_crop(picture, [self.size, self.size])
        if isinstance(picture, Tensor):
            return picture.clamp(0, 1)
        pixels: Tensor = F.pil_to_tensor(picture)
        return pixels

    @property
    def _resized_side(self) -> int:
        """The side that larger images are resized to before they are cropped."""
        assert self.size is not None
        return round(self.size / (self.how.crop or 1))

    def _resampling(self, count: int) -> dict[str, str]:
        resized = self.notes["enlarged"] + self.notes["reduced"]
        if self.size is None or not resized:
            return {}
        sizes = [key for key in self.notes if " to " in key]
        what = f"from {sizes[0]}" if len(sizes) == 1 else f"to at most {self._resized_side}"
        side = "both sides" if self.how.crop is None else "shorter side"
        return {
            "resampling": f"{resized} of {count} images resized ({side} {what} pixels, "
            f"{self.how.interpolation}), then cropped to {self.size}×{self.size}"
        }

    def _caveats(self, count: int, broken: Sequence[str]) -> Iterator[str]:
        if broken:
            yield (
                f"{len(broken)} of {count + len(broken)} images cannot be read and were left out: "
                f"{named(broken)}"
            )
        if self.folders.left_out:
            files = self.folders.left_out
            yield f"{_files_of(len(files))} no class image and left out: {named(files)}"
        if self.notes["enlarged"]:
            first = next(key for key in self.notes if _is_enlargement(key))
            yield (
                f"{self.notes['enlarged']} of {count} images were resized from fewer pixels (such "
                f"as from {first}), a low-pass filter: their highest frequencies are empty"
            )
        if self.notes["transparent"]:
            yield (
                f"{self.notes['transparent']} of {count} images are partly transparent; they were "
                "read without it, as torchvision does, so their hidden colours count"
            )
        if self.notes["turned"]:
            yield (
                f"{self.notes['turned']} of {count} images are stored turned (EXIF) and were not "
                "turned upright, as torchvision does not either; right if training did the same"
            )


def open_folder(
    path: str | os.PathLike[str] | ClassFolders, size: int | None, how: Preprocessing
) -> FolderImages:
    """The images of class folders, or of a listing, at one size.

    Args:
        size: see :class:`FolderImages`; None leaves images that all have one size as they are
            unless ``how`` is for all, and takes those of several sizes to that of ``how``.
        how: the model's preprocessing.
    """
    folders = path if isinstance(path, ClassFolders) else ClassFolders.scan(path)
    if size is None and (how.always or len(set(_sizes(f for f, _ in folders.files))) > 1):
        size = how.size
    return FolderImages(folders, size, how)


def _source(file: Path | StoredImage) -> Path | io.BytesIO:
    return file if isinstance(file, Path) else io.BytesIO(file.read())


def _sizes(files: Iterable[Path | StoredImage]) -> Iterator[tuple[int, int]]:
    """Sizes as the files' headers say; those without one are reported when they are read."""
    from PIL import Image

    for path in files:
        try:
            with Image.open(_source(path)) as file:
                yield file.size
        except Exception:
            continue


def _pixels(file: Any, name: str) -> Any:
    """An RGB picture of 8 bits, or a float tensor ``(3, H, W)`` in [0, 1] for 16-bit grey."""
    if file.mode.startswith("I;16") or (file.mode == "I" and file.format == "PNG"):
        values = np.asarray(file).astype(np.float32) / 65535  # convert() would clip at 255
        return torch.from_numpy(values).expand(3, -1, -1)
    if file.mode in ("I", "F"):
        raise InputError(
            f"--data: expected images of 8 or 16 bits, got {name} of {file.mode}, whose white is "
            "not known; save it as 8-bit PNG"
        )
    return file.convert("RGB")


def _transparent(file: Any) -> bool:
    if file.mode not in ("RGBA", "LA", "PA") and "transparency" not in file.info:
        return False
    return bool(file.convert("RGBA").getchannel("A").getextrema()[0] < 255)


def _files(folder: Path) -> list[Path]:
    """All files below a folder, sorted; a link is followed, but no folder is read twice."""
    found: list[Path] = []
    seen: set[str] = set()

    def fail(error: OSError) -> None:
        raise error

    for place, inner, files in os.walk(folder, followlinks=True, onerror=fail):
        real = os.path.realpath(place)
        if real in seen:
            inner.clear()
            continue
        seen.add(real)
        inner[:] = sorted(name for name in inner if not _hidden(name))
        found += (Path(place, name) for name in sorted(files) if not _hidden(name))
    return found


def _hidden(name: str) -> bool:
    return name.startswith(".") or name in ("__MACOSX", "Thumbs.db", "desktop.ini")


def _refuse_splits(root: Path, names: Sequence[str]) -> None:
    """Folders such as train and val, each with the classes in it, are no classes."""
    splits = [name for name in names if name.lower() in _SPLITS]
    with_classes = [n for n in splits if any(entry.is_dir() for entry in (root / n).iterdir())]
    if with_classes or (splits and splits == list(names)):
        held = next((n for n in with_classes if n.lower().startswith("val")), splits[-1])
        raise InputError(
            f"--data: expected one folder per class, got {named(names)} in {root}, which look like "
            f"splits of the data; name one of them, such as folder:{root / held}"
        )


def _extent(image: Tensor) -> str:
    return f"{image.shape[2]}×{image.shape[1]} pixels"


def _files_of(count: int) -> str:
    return "1 file is" if count == 1 else f"{count} files are"


def _is_enlargement(key: str) -> bool:
    before, word, after = key.partition(" to ")
    return bool(word) and int(before) < int(after)
