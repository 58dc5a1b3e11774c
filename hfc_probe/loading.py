"""Models, checkpoints and data named on the command line."""

from __future__ import annotations

import difflib
import importlib.util
import os
import pickle
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .errors import InputError, named
from .samples import PixelSpace, Samples

_WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "module")
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.")


def load_model(spec: str, weights: str | None, classes: int | None = None) -> nn.Module:
    """A classifier named on the command line, in evaluation mode on the CPU.

    Args:
        spec: ``torchvision:NAME``, ``timm:NAME``, or ``path/to/file.py:callable``, whose
            callable is run and returns the model.
        weights: a checkpoint file; ``DEFAULT`` for the published weights of a torchvision or
            timm model (downloaded); None for a file's model that loads its own.
        classes: number of classes; None: as the checkpoint has it.

    Raises:
        InputError: an unknown name, a file or checkpoint that cannot be used, weights that
            are missing or not finite.
    """
    kind, _, name = spec.partition(":")
    if kind in ("torchvision", "timm"):
        if weights is None:
            raise InputError(
                f"--weights: expected a checkpoint file for {spec}, or DEFAULT for the published "
                "weights, got none"
            )
        build = _torchvision_builder if kind == "torchvision" else _timm_builder
        state = None if weights == "DEFAULT" else read_checkpoint(weights)
        model = build(name, weights == "DEFAULT", classes)
        if state is not None:
            if classes is None:
                found = _classes_of(model, state)
                model = build(name, False, found) if found else model
            load_weights(model, state, str(weights))
    else:
        model = _model_from_file(spec)
        if weights == "DEFAULT":
            raise InputError(
                "--weights: expected a checkpoint file for a model of your own, got DEFAULT, which "
                "means the published weights of torchvision and timm models"
            )
        if weights is not None:
            load_weights(model, read_checkpoint(weights), weights)
    for key, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise InputError(
                f"weights: expected finite values, got NaN or infinity in {key}; the training "
                "that made them has diverged"
            )
    return model.eval()


def default_pixels(spec: str, model: nn.Module) -> PixelSpace | None:
    """The normalisation that a torchvision or timm model is published with, else None."""
    kind = spec.partition(":")[0]
    if kind == "timm":
        config = getattr(model, "pretrained_cfg", None) or {}
        if config.get("mean") and config.get("std"):
            return PixelSpace(tuple(config["mean"]), tuple(config["std"]))
    return PixelSpace.imagenet() if kind in ("torchvision", "timm") else None


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """A state dict from a ``.pth``/``.pt`` file (tensors only) or a ``.safetensors`` file.

    A dictionary that holds it under ``state_dict``, ``model``, ``model_state`` and the like
    is understood.

    Raises:
        InputError: no such file, not a checkpoint, or a pickle that would run code.
    """
    file = _existing_file(path, "--weights")
    if file.suffix == ".safetensors":
        state = _read_safetensors(file)
    else:
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            if _starts_as_zip(file):
                raise _needs_code(file) from error
            raise _not_a_checkpoint(file) from error
        except (RuntimeError, OSError, EOFError, ValueError, KeyError, TypeError) as error:
            raise _not_a_checkpoint(file) from error
        except Exception as error:  # damaged pickles raise anything at all
            raise _not_a_checkpoint(file) from error
    return _state_in(state, file.name)


class _ArraysOnly(pickle.Unpickler):
    """Reads pickled NumPy arrays in plain containers, and refuses everything else."""

    _HARMLESS = frozenset(
        {
            ("collections", "OrderedDict"),
            ("_codecs", "encode"),  # how Python 2 and protocol 2 write bytes
            ("numpy", "dtype"),
            ("numpy", "ndarray"),
            *(
                (f"numpy.{core}.multiarray", name)
                for core in ("core", "_core")
                for name in ("_reconstruct", "scalar")
            ),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._HARMLESS:
            raise pickle.UnpicklingError(f"{module}.{name}")
        return super().find_class(module, name)


def refuse_code(path: str | os.PathLike[str]) -> None:
    """Refuse a checkpoint that another library would run code of when it reads it.

    A ``.pkl`` may hold NumPy arrays, everything else tensors.

    Raises:
        InputError: as for :func:`read_checkpoint`.
    """
    file = _existing_file(path, "--weights")
    if file.suffix != ".pkl":
        read_checkpoint(file)
        return
    try:
        with file.open("rb") as stream:
            _ArraysOnly(stream, encoding="latin1").load()
    except pickle.UnpicklingError as error:
        raise _needs_code(file) from error
    except Exception as error:  # damaged pickles raise anything at all
        raise _not_a_checkpoint(file) from error


def load_weights(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load a state dict whose keys may carry a wrapper's prefix.

    Raises:
        InputError: a checkpoint of another architecture; names at most five keys of each kind.
    """
    own = model.state_dict()
    state = _without_prefix(state, own)
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in state if k not in own]
    shapes = [
        f"{k} {_size(state[k])} instead of {_size(own[k])}"
        for k in own
        if k in state and own[k].shape != state[k].shape
    ]
    complaints = [
        f"{kind} {named(keys)}"
        for kind, keys in (
            ("missing", missing),
            ("unknown", unexpected),
            ("of another size", shapes),
        )
        if keys
    ]
    if complaints:
        raise InputError(
            f"checkpoint: expected the weights of {type(model).__name__}, got another "
            f"architecture's in {Path(source).name}: {'; '.join(complaints)}"
        )
    model.load_state_dict(state, strict=False)


def load_samples(spec: str, *, size: int = 224, limit: int | None = 1000, seed: int = 0) -> Samples:
    """Evaluation images named on the command line, in pixel space.

    Args:
        spec: ``npz:FILE`` with ``images`` (N, C, H, W) or (N, H, W, C), uint8 or float in
            [0, 1], and ``labels`` (N,); ``folder:DIR`` with one folder of images per class,
            in the order of the model's classes; ``cifar10:DIR``, the test set, downloaded
            where it is missing.
        size: side in pixels that a folder's images are resized and cropped to, as torchvision
            evaluates its models.
        limit, seed: at most so many images, a seeded random choice.

    Raises:
        InputError: an unknown kind, missing or damaged files, labels that do not fit.
    """
    kind, name = _data_kind(spec)
    if kind == "npz":
        images, labels = read_npz(name)
        return Samples(images, labels).subset(limit, seed=seed)
    dataset = folder_dataset(name, size) if kind == "folder" else cifar10_dataset(name, train=False)
    return Samples.collect(dataset, pixels=PixelSpace(), limit=limit, seed=seed)


def load_splits(spec: str, *, size: int = 64, seed: int = 0) -> tuple[Any, Any]:
    """Training and validation data sets of images in [0, 1], for ``hfc-probe demo --data``.

    ``cifar10`` has its own test set, a folder may have ``train`` and ``val`` or ``test`` in it;
    otherwise a seeded fifth of the images is held out. Kinds and errors as
    :func:`load_samples`.
    """
    from torch.utils.data import TensorDataset, random_split

    kind, name = _data_kind(spec)
    if kind == "cifar10":
        return cifar10_dataset(name, train=True), cifar10_dataset(name, train=False)
    if kind == "npz":
        samples = Samples(*read_npz(name))
        whole: Any = TensorDataset(samples.pixels(), samples.targets)
    else:
        root = Path(name)
        held_out = next((root / n for n in ("val", "test") if (root / n).is_dir()), None)
        if (root / "train").is_dir() and held_out is not None:
            train, val = (folder_dataset(p, size) for p in (root / "train", held_out))
            return train, val
        whole = folder_dataset(name, size)
    held = max(1, len(whole) // 5)
    if len(whole) <= held:
        raise InputError(f"--data: expected at least 2 images to split, got {len(whole)} in {name}")
    generator = torch.Generator().manual_seed(seed)
    train, val = random_split(whole, [len(whole) - held, held], generator)
    return train, val


def read_npz(path: str | os.PathLike[str]) -> tuple[Tensor, Tensor]:
    """``images`` (N, C, H, W) and ``labels`` (N,) of an npz file.

    Raises:
        InputError: no such file, not an npz file, arrays missing or of another form.
    """
    file = _existing_file(path, "--data")
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
    if images.dtype.kind == "f":
        images = images.astype(np.float32)
    return torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64))


def folder_dataset(path: str | os.PathLike[str], size: int) -> Any:
    """One folder of images per class, resized and centre-cropped to ``size`` pixels."""
    from torchvision import datasets, transforms

    root = Path(path)
    if not root.is_dir():
        raise InputError(f"--data: expected a folder with one folder per class, got {root}")
    transform = transforms.Compose(
        [
            transforms.Resize(round(size / 0.875)),
            transforms.CenterCrop(size),
            transforms.ToTensor(),
        ]
    )
    try:
        return datasets.ImageFolder(str(root), transform)
    except (FileNotFoundError, OSError) as error:
        raise InputError(
            f"--data: expected a folder with one folder of images per class, got {root}: {error}"
        ) from error


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


def _data_kind(spec: str) -> tuple[str, str]:
    kind, _, name = spec.partition(":")
    if kind not in ("npz", "folder", "cifar10") or not name:
        raise InputError(f"--data: expected npz:FILE, folder:DIR or cifar10:DIR, got {spec!r}")
    return kind, name


def _existing_file(path: str | os.PathLike[str], option: str) -> Path:
    file = Path(path)
    if not file.is_file():
        what = "a folder" if file.is_dir() else "no such file"
        raise InputError(f"{option}: expected a file, got {file} ({what})")
    return file


def _torchvision_builder(name: str, pretrained: bool, classes: int | None) -> nn.Module:
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise unknown_model("torchvision", "classification", name, known)
    options: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = False
    if classes is not None:
        options["num_classes"] = classes
    try:
        model: nn.Module = models.get_model(
            name, weights="DEFAULT" if pretrained else None, **options
        )
        return model
    except (OSError, ValueError) as error:
        raise InputError(
            f"--weights: expected to get torchvision's weights for {name}, failed ({error}); "
            "download them elsewhere and pass the file"
        ) from error


def _timm_builder(name: str, pretrained: bool, classes: int | None) -> nn.Module:
    try:
        import timm
    except ImportError as error:
        raise InputError(
            "--model: timm:… needs the timm package; pip install hfc_probe[timm]"
        ) from error
    known = timm.list_models() + timm.list_pretrained()
    if name not in known:
        raise unknown_model("timm", "classification", name, known)
    options: dict[str, Any] = {} if classes is None else {"num_classes": classes}
    try:
        model: nn.Module = timm.create_model(name, pretrained=pretrained, **options)
        return model
    except Exception as error:
        raise InputError(
            f"--model: expected timm to build {name}, failed ({type(error).__name__}: {error})"
        ) from error


def _model_from_file(spec: str) -> nn.Module:
    model = call_from_file(spec)
    if not isinstance(model, nn.Module):
        raise InputError(
            f"--model: expected {spec} to return a torch.nn.Module, got {type(model).__name__}"
        )
    return model


def call_from_file(spec: str) -> Any:
    """Run ``path/to/file.py``, and what ``callable`` in it returns.

    Raises:
        InputError: another form, no such file or callable, or whatever went wrong in it.
    """
    path, colon, name = spec.rpartition(":")
    if not colon or not path.endswith(".py"):
        raise InputError(
            "--model: expected torchvision:NAME, timm:NAME or path/to/file.py:callable, got "
            f"{spec!r}"
        )
    file = _existing_file(path, "--model")
    module_spec = importlib.util.spec_from_file_location(f"hfc_probe_model_{file.stem}", file)
    assert module_spec is not None
    assert module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    sys.path.insert(0, str(file.parent.resolve()))  # so that the file can import its neighbours
    sys.modules[module_spec.name] = module
    try:
        module_spec.loader.exec_module(module)
        build = getattr(module, name, None)
        if not callable(build):
            names = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
            close = difflib.get_close_matches(name, names, n=3, cutoff=0.3) or names[:3]
            raise InputError(
                f"--model: expected a callable named {name!r} in {file.name}, found none; it has "
                f"{', '.join(close) or 'no callables'}"
            )
        return build()
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"--model: expected {spec} to return a model, got {type(error).__name__}: {error}"
        ) from error
    finally:
        sys.path.remove(str(file.parent.resolve()))


def unknown_model(library: str, kind: str, name: str, known: Iterable[str]) -> InputError:
    """The error for a name that a library does not know, with the closest ones it does."""
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(close)}?" if close else f"see {library}'s list_models()"
    return InputError(f"--model: expected a {library} {kind} model, got {name!r}; {hint}")


def _read_safetensors(file: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except (SafetensorError, OSError, ValueError) as error:
        raise _not_a_checkpoint(file) from error


def _needs_code(file: Path) -> InputError:
    return InputError(
        f"checkpoint: expected tensors only in {file.name}, got a pickle that needs code to load, "
        "which could do anything; where you trust it, convert it with "
        'torch.save(model.state_dict(), "weights.pth") in the program that made it'
    )


def _not_a_checkpoint(file: Path) -> InputError:
    return InputError(
        f"checkpoint: expected a PyTorch checkpoint (torch.save of a state dict) or a .safetensors "
        f"file, got {file.name}, which cannot be read as one"
    )


def _state_in(content: Any, name: str) -> dict[str, Tensor]:
    """The state dict in whatever a checkpoint wraps it in."""
    for _ in range(4):
        if not isinstance(content, Mapping):
            break
        tensors = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
        if tensors and len(tensors) >= len(content) / 2:
            return tensors
        inner = next((content[k] for k in _WRAPPERS if isinstance(content.get(k), Mapping)), None)
        if inner is None:
            raise InputError(
                f"checkpoint: expected a state dict in {name}, alone or under one of "
                f"{', '.join(_WRAPPERS[:4])}, got {named([str(k) for k in content]) or 'nothing'}"
            )
        content = inner
    raise InputError(f"checkpoint: expected a state dict in {name}, got {type(content).__name__}")


def _without_prefix(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Strip prefixes that wrappers add: those of every key, or without which more keys fit."""
    current = dict(state)
    for _ in range(2 * len(_PREFIXES)):
        for prefix in _PREFIXES:
            stripped = {
                k.removeprefix(prefix): v for k, v in current.items() if k.startswith(prefix)
            }
            everywhere = len(stripped) == len(current) and not any(k in own for k in current)
            if stripped and (everywhere or _fitting(stripped, own) > _fitting(current, own)):
                current = stripped
                break
        else:
            break
    return current


def _fitting(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> int:
    return sum(key in own for key in state)


def _classes_of(model: nn.Module, state: Mapping[str, Tensor]) -> int | None:
    """Number of classes of a checkpoint, where its head differs in that and nothing else."""
    own = model.state_dict()
    state = _without_prefix(state, own)
    differing = {k for k in own if k in state and own[k].shape != state[k].shape}
    counts = {state[k].shape[0] for k in differing if state[k].dim() > 0}
    same_rest = all(own[k].shape[1:] == state[k].shape[1:] for k in differing)
    return counts.pop() if len(counts) == 1 and same_rest else None


def _size(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "scalar"


def _starts_as_zip(file: Path) -> bool:
    """As ``torch.save`` writes; ``zipfile.is_zipfile`` raises for some damaged archives."""
    with file.open("rb") as stream:
        return stream.read(4) == b"PK\x03\x04"
