"""Images named on the command line: a folder of class folders, a listing, an npz file, CIFAR-10."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..data.samples import PixelSpace, Samples
from ..ground.errors import InputError
from ..model.subject import subject_of
from .checkpoints import existing_file
from .class_names import ClassNames, folder_classes
from .folders import FolderImages, open_folder
from .listings import LISTINGS, read_listing
from .preprocessing import Preprocessing

_PLAIN = Preprocessing()


def load_samples(
    spec: str,
    model: nn.Module,
    *,
    pixels: PixelSpace | None = None,
    size: int | None = None,
    how: Preprocessing = _PLAIN,
    class_names: ClassNames | str | None = None,
    own_names: Callable[[int], list[ClassNames]] = lambda logits: [],
    limit: int | None = 1000,
    seed: int = 0,
    skip_broken: bool = False,
) -> tuple[Samples, int]:
    """Evaluation images named on the command line, in pixel space, as a model can take them.

    One image is given to the model, which tells its number of logits.

    Args:
        spec: ``npz:FILE`` with ``images`` (N, C, H, W) or (N, H, W, C), uint8 or float in
            [0, 1], and ``labels`` (N,); ``folder:DIR`` with one folder of images per class;
            ``cifar10:DIR``, the test set, downloaded if it is missing; or a listing, see
            :func:`hfc_probe.cli.listings.read_listing`.
        pixels: the model's normalisation.
        size, how: side of a folder's images, and how they get it, see
            :func:`hfc_probe.cli.folders.open_folder`.
        class_names, own_names: which class a folder is, see
            :func:`hfc_probe.cli.class_names.folder_classes`; ``own_names`` is asked with the
            number of logits.
        limit, seed: maximum number of images, a seeded random choice.
        skip_broken: leave out images of a folder that cannot be read.

    Returns:
        The samples and the model's number of logits.

    Raises:
        InputError: an unknown kind, missing or damaged files, labels or images that do not fit
            the model.
    """
    kind, name = data_kind(spec)
    if kind == "folder" or kind in LISTINGS:
        listing = read_listing(kind, name) if kind in LISTINGS else None
        folder = open_folder(listing or name, size, how)
        samples = folder.samples(limit, seed=seed, skip_broken=skip_broken)
        samples, logits = _suited(samples, model, pixels)
        if not folder.classes:
            if class_names is not None:
                raise InputError(
                    f"--class-names: expected labels that are names, got numbers in {name}"
                )
            caveats = (*samples.caveats, *check_labels(samples.targets, logits))
            return replace(samples, caveats=caveats), logits
        indices, found = folder_classes(folder.classes, logits, class_names, own_names(logits))
        described = f"{samples.provenance['data']}, classes {found}"
        samples = replace(
            samples,
            targets=torch.tensor(indices)[samples.targets],
            provenance={**samples.provenance, "data": described},
        )
        return samples, logits
    if kind == "npz":
        samples = Samples(*read_npz(name)).subset(limit, seed=seed)
    else:
        dataset = cifar10_dataset(name, train=False)
        samples = Samples.collect(dataset, pixels=PixelSpace(), limit=limit, seed=seed)
    _, logits = _suited(samples, model, pixels)
    samples = replace(
        samples,
        caveats=(*samples.caveats, *check_labels(samples.targets, logits)),
        provenance={**samples.provenance, "data": f"{spec}, {len(samples)} images"},
    )
    return samples, logits


def load_splits(spec: str, *, size: int | None = None, seed: int = 0) -> tuple[Any, Samples, int]:
    """Training and validation images in [0, 1], for ``hfc-probe demo --data``.

    ``cifar10`` has its own test set, a folder may have ``train`` and ``val`` or ``test`` in it;
    otherwise a seeded fifth of the images is held out. Kinds and errors as
    :func:`load_samples`; a folder's images of several sizes, or of more than 64 pixels, are
    taken to 64.

    Returns:
        A data set of (image, class), samples, and the number of classes.
    """
    from torch.utils.data import Subset, TensorDataset

    kind, name = data_kind(spec)
    provenance: dict[str, Any] = {"data": spec}
    if kind == "cifar10":
        train, test = (cifar10_dataset(name, train=part) for part in (True, False))
        return train, Samples.collect(test, pixels=PixelSpace(), limit=None), 10
    if kind == "npz":
        whole = Samples(*read_npz(name))
        classes = 1 + int(whole.targets.max())
        train_at, val_at = _held_out(len(whole), seed, name)
        val = Samples(whole.images[val_at], whole.targets[val_at], provenance=provenance)
        return Subset(TensorDataset(whole.pixels(), whole.targets), train_at), val, classes
    root = Path(name)
    held = next((n for n in ("val", "valid", "validation", "test") if (root / n).is_dir()), None)
    if (root / "train").is_dir() and held is not None:
        images = _small_folder(root / "train", size)
        kept = images.size if images.size is not None else size
        test = open_folder(root / held, kept, Preprocessing(size=kept or 64))
        val = test.samples()
        indices, _ = folder_classes(
            test.classes,
            len(images.classes),
            ClassNames(tuple(enumerate(images.classes)), "the folders of train"),
        )
        val = replace(val, targets=torch.tensor(indices)[val.targets])
        if tuple(images[0][0].shape[1:]) != val.image_shape[1:]:
            raise InputError(
                f"--data: expected images of one size in train and {held}, got several; name the "
                "side to resize and crop them to with --size"
            )
        return images, val, len(images.classes)
    images = _small_folder(root, size)
    train_at, val_at = _held_out(len(images), seed, name)
    files = images.folders.files
    chosen = replace(images.folders, files=[files[k] for k in val_at])
    val = FolderImages(chosen, images.size).samples()
    return Subset(images, train_at), val, len(images.classes)


def read_npz(path: str | os.PathLike[str]) -> tuple[Tensor, Tensor]:
    """``images`` (N, C, H, W) and ``labels`` (N,) of an npz file.

    Raises:
        InputError: no such file, not an npz file, arrays missing or of another form.
    """
    file = existing_file(path, "--data")
    try:
        with np.load(file, allow_pickle=False) as archive:
            if not hasattr(archive, "files"):
                raise ValueError("a single array")
            names = archive.files
            if "images" in names and "labels" in names:
                images, labels = archive["images"], archive["labels"]
            else:
                raise InputError(
                    f"--data: expected arrays named images and labels in {file.name}, got "
                    f"{', '.join(names) or 'none'}"
                )
    except InputError:
        raise
    except Exception as error:  # damaged archives raise anything at all
        raise InputError(
            f"--data: expected a NumPy .npz file of plain arrays, got {file.name}, which cannot be "
            "read as one"
        ) from error
    if images.ndim != 4 or labels.ndim != 1 or images.dtype.kind not in "uf":
        raise InputError(
            "--data: expected images (N, C, H, W) of uint8 or float and labels (N,), got images "
            f"{images.shape} of {images.dtype} and labels {labels.shape}"
        )
    if labels.dtype.kind not in "iu":
        raise InputError(f"--data: expected whole numbers as labels, got {labels.dtype}")
    if images.dtype.kind == "u" and images.dtype != np.uint8:
        raise InputError(f"--data: expected 8-bit or float images, got {images.dtype}")
    if images.shape[-1] in (1, 3, 4) and images.shape[1] not in (1, 3, 4):
        images = np.ascontiguousarray(np.moveaxis(images, -1, 1))
    most = 1 if images.dtype == np.uint8 else 1.001 / 255  # 1 / 255 rounds up as float32
    if images.size and images.min() >= 0 and images.max() <= most:
        what = "255" if images.dtype == np.uint8 else "1"
        raise InputError(
            f"--data: expected images up to {what}, got at most {images.max():g} of "
            f"{images.dtype}, nearly black; were they scaled twice, or cut to whole numbers?"
        )
    if images.dtype.kind == "f":
        images = images.astype(np.float32)
    return torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64))


def cifar10_dataset(path: str | os.PathLike[str], *, train: bool) -> Any:
    """Torchvision's CIFAR-10 under a folder, downloaded there if it is missing."""
    from torchvision import datasets, transforms

    def read(download: bool) -> Any:
        return datasets.CIFAR10(
            str(path), train=train, transform=transforms.ToTensor(), download=download
        )

    try:
        return read(download=False)
    except (RuntimeError, OSError):
        try:
            return read(download=True)
        except (RuntimeError, OSError) as error:
            raise InputError(
                f"--data: expected CIFAR-10 (cifar-10-batches-py) in {path} or a network to "
                f"download it, got neither ({error})"
            ) from error


def check_labels(targets: Tensor, logits: int) -> list[str]:
    """Sentences on labels that can hardly be indices of that many classes.

    Raises:
        InputError: labels at or above the number of logits.
    """
    least, most, count = int(targets.min()), int(targets.max()), len(targets)
    if most >= logits:
        hint = "; do they start at 1?" if (least, most) == (1, logits) else ""
        raise InputError(
            f"labels: expected class indices from 0 to {logits - 1}, the model's {logits} "
            f"logits, got {most}{hint}"
        )
    # With labels drawn evenly, how likely no class outside this range would be by chance.
    if ((most - least + 1) / logits) ** count < 1e-3:
        return [
            f"the labels of {count} images are all from {least} to {most} while the model has "
            f"{logits} classes: wrong if they are not the model's own indices, counted from 0"
        ]
    return []


def data_kind(spec: str, also: str = "") -> tuple[str, str]:
    """The kind and the path of a ``--data``; ``also`` names what else a command takes."""
    kind, _, name = spec.partition(":")
    known = ("npz", "folder", "cifar10", *(() if also else LISTINGS))
    if kind not in known or not name:
        listed = "" if also else ", csv:FILE, parquet:FILE, hf:DIR, tar:FILE"
        raise InputError(
            f"--data: expected {also}npz:FILE, folder:DIR{listed} or cifar10:DIR, got {spec!r}"
        )
    return kind, name


def _suited(samples: Samples, model: nn.Module, pixels: PixelSpace | None) -> tuple[Samples, int]:
    """Samples that a model takes, tried on the first, and its number of logits.

    RGB images that are all grey are given as one channel to a model that takes only that.
    """
    logits = _logits(samples, model, pixels)
    if isinstance(logits, int):
        return samples, logits
    images = samples.images
    if images.shape[1] == 3 and bool((images == images[:, :1]).all()):
        grey = replace(samples, images=images[:, :1])
        count = _logits(grey, model, pixels)
        if isinstance(count, int):
            return grey, count
    channels, height, width = samples.image_shape
    raise InputError(
        f"model: expected one that takes the data's images, {width}×{height} pixels with "
        f"{channels} channel{'s' * (channels > 1)}, got {logits}; convert the images"
        + (", or resize image files with --size" if "data" in samples.provenance else "")
    )


def _logits(samples: Samples, model: nn.Module, pixels: PixelSpace | None) -> int | str:
    """Number of logits for the first image, or what went wrong in the model, in one line."""
    with subject_of(model, samples, pixels=pixels) as subject:
        images, _ = subject.batch(0)
        try:
            return int(subject.logits(images[:1]).shape[1])
        except InputError as error:
            said, advice, _ = str(error).partition("; pass predict=")
            if not advice:
                raise
            hint = "return them from the model that --model makes"
            if "'boxes'" in said:
                hint = "a detector is measured by hfc-probe detect"
            raise InputError(f"{said}; {hint}") from error
        except Exception as error:  # whatever a stranger's model raises
            return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _small_folder(path: Path, size: int | None) -> FolderImages:
    """For the demo: a folder's images as they are if they are small and of one size."""
    images = open_folder(path, size, Preprocessing(size=64))
    if images.size is None and max(images[0][0].shape[1:]) > 64:
        images = FolderImages(images.folders, 64)
    return images


def _held_out(count: int, seed: int, name: str) -> tuple[list[int], list[int]]:
    """Seeded indices of four fifths and of the fifth that is held out."""
    held = max(1, count // 5)
    if count <= held:
        raise InputError(f"--data: expected at least 2 images to split, got {count} in {name}")
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    return order[held:], sorted(order[:held])
