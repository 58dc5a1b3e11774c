"""Models and checkpoints named on the command line."""

from __future__ import annotations

import difflib
import importlib.util
import os
import pickle
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from .errors import InputError, named
from .samples import PixelSpace

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
    if classes is not None and (kind not in ("torchvision", "timm") or weights == "DEFAULT"):
        what = "published weights" if weights == "DEFAULT" else "a model of your own"
        raise InputError(
            f"--classes: expected with a torchvision or timm model and a checkpoint file, got it "
            f"with {what}, which has its own number of classes"
        )
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
        if is_lazy(tensor):
            raise InputError(
                f"--model: expected a model whose weights have their sizes, got lazy {key}; give "
                "it one batch where it is made"
            )
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


def default_size(spec: str, model: nn.Module) -> int:
    """Side of the images that a torchvision or timm model is published for, otherwise 224."""
    kind, _, name = spec.partition(":")
    if kind == "timm":
        shape = (getattr(model, "pretrained_cfg", None) or {}).get("input_size")
        return int(shape[-1]) if shape else 224
    if kind == "torchvision":
        from torchvision import models

        return int(models.get_model_weights(name)["DEFAULT"].transforms().crop_size[0])
    return 224


def signs_of_no_training(spec: str, weights: str | None, model: nn.Module) -> list[str]:
    """Sentences on a model that seems never to have been trained, such as for want of weights.

    BatchNorm statistics move from 0 and 1 with the first training step; and what a callable
    builds without loading weights it draws anew the next time (it is called once more).
    """
    said = []
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    kept = [(m.running_mean, m.running_var) for m in norms]
    if kept and all(m is not None and v is not None and _as_made(m, v) for m, v in kept):
        said.append(
            "the model's BatchNorm statistics are those of a network that was never trained; "
            "check --weights"
        )
    if weights is None:
        drawn = _drawn_anew(spec, model)
        if drawn:
            said.append(
                f"no --weights, and {spec.rpartition(':')[2]} draws {named(drawn, 3)} at random "
                "each time: an untrained network, whose numbers mean nothing"
            )
    return said


def _as_made(mean: Tensor, variance: Tensor) -> bool:
    return bool((mean == 0).all()) and bool((variance == 1).all())


def _drawn_anew(spec: str, model: nn.Module) -> list[str]:
    """Weights that differ when a file's callable builds its model once more."""
    path, _, name = spec.rpartition(":")
    module = sys.modules.get(_module_name(Path(path)))
    try:
        again = dict(getattr(module, name)().named_parameters())
        return [k for k, v in model.named_parameters() if not torch.equal(v.cpu(), again[k].cpu())]
    except Exception:  # it may build only once: then there is nothing to compare
        return []


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """A state dict from a ``.pth``/``.pt`` file (tensors only) or a ``.safetensors`` file.

    A dictionary that holds it under ``state_dict``, ``model``, ``model_state`` and the like
    is understood.

    Raises:
        InputError: no such file, not a checkpoint, or a pickle that would run code.
    """
    file = existing_file(path, "--weights")
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
    file = existing_file(path, "--weights")
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
        if k in state and not is_lazy(own[k]) and own[k].shape != state[k].shape
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


def existing_file(path: str | os.PathLike[str], option: str) -> Path:
    """The path of a file, or an :class:`InputError` that names the option it was given to."""
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
    file = existing_file(path, "--model")
    module_spec = importlib.util.spec_from_file_location(_module_name(file), file)
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


def _module_name(file: Path) -> str:
    return f"hfc_probe_model_{file.stem}"


def unknown_model(library: str, kind: str, name: str, known: Iterable[str]) -> InputError:
    """The error for a name that a library does not know, with the closest ones it does."""
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(close)}?" if close else f"see {library}'s list_models()"
    if library == "torchvision":
        from torchvision import models

        if name in models.list_models(module=models):
            hint = "it is a classifier, which hfc-probe audit measures"
        elif name in models.list_models(module=models.detection):
            hint = "it is a detector, which hfc-probe detect measures"
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
