"""Models named on the command line."""

from __future__ import annotations

import ast
import difflib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ..ground.errors import InputError, named
from .checkpoints import classes_of, existing_file, load_weights, read_checkpoint
from .model_files import SUFFIXES, model_file, transformers_model


def load_model(spec: str, weights: str | None, classes: int | None = None) -> nn.Module:
    """A classifier named on the command line, in evaluation mode on the CPU.

    Args:
        spec: ``torchvision:NAME``, ``timm:NAME``, ``hf:NAME_OR_DIR``, ``path/to/file.py:callable``,
            whose callable is run with what follows as ``,argument=value`` and returns the model,
            or a model file (``.onnx``, ``.pt2`` of torch.export, ``.pt`` of TorchScript).
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
                found = classes_of(model, state)
                model = build(name, False, found) if found else model
            load_weights(model, state, str(weights))
    elif kind == "hf" or spec.endswith(SUFFIXES):
        if weights is not None:
            raise InputError(f"--weights: expected none with {spec}, which has its own")
        model = transformers_model(name) if kind == "hf" else model_file(spec)
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
                "it one batch when it is made"
            )
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise InputError(
                f"weights: expected finite values, got NaN or infinity in {key}; the training "
                "that made them has diverged"
            )
    return model.eval()


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
    own = FileSpec.read(spec)
    if weights is None and own is not None:
        drawn = _drawn_anew(own, model)
        if drawn:
            said.append(
                f"no --weights, and {own.name} draws {named(drawn, 3)} at random "
                "each time: an untrained network, whose numbers mean nothing"
            )
    return said


def _as_made(mean: Tensor, variance: Tensor) -> bool:
    return bool((mean == 0).all()) and bool((variance == 1).all())


def _drawn_anew(own: FileSpec, model: nn.Module) -> list[str]:
    """Weights that differ when a file's callable builds its model once more."""
    module = sys.modules.get(_module_name(Path(own.path)))
    try:
        again = dict(getattr(module, own.name)(**own.arguments).named_parameters())
        return [k for k, v in model.named_parameters() if not torch.equal(v.cpu(), again[k].cpu())]
    except Exception:  # it may build only once: then there is nothing to compare
        return []


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
            "--model: timm:… needs the timm package; pip install 'hfc_probe[timm]'"
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


@dataclass(frozen=True)
class FileSpec:
    """``path/to/file.py:callable,argument=value,…``, taken apart.

    >>> FileSpec.read("nets.py:build,width=64,norm=batch").arguments
    {'width': 64, 'norm': 'batch'}
    """

    path: str
    name: str
    arguments: Mapping[str, Any]

    @classmethod
    def read(cls, spec: str) -> FileSpec | None:
        """The parts, or None for another form; values are Python's literals, or else text."""
        found = re.fullmatch(r"(.*?\.py):(\w+)((?:,\w+=[^,]*)*)", spec)
        if found is None:
            return None
        given = (pair.partition("=") for pair in found[3].split(",")[1:])
        return cls(found[1], found[2], {key: _literal(text) for key, _, text in given})


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def call_from_file(spec: str, *, run: bool = True) -> Any:
    """Run ``path/to/file.py``, and what ``callable`` in it returns (or is, if not ``run``).

    Raises:
        InputError: another form, no such file or callable, or whatever went wrong in it.
    """
    own = FileSpec.read(spec)
    if own is None:
        raise InputError(
            "--model: expected torchvision:NAME, timm:NAME, hf:NAME_OR_DIR, "
            f"path/to/file.py:callable[,argument=value] or a file ({', '.join(SUFFIXES)}), got "
            f"{spec!r}"
        )
    name = own.name
    file = existing_file(own.path, "--model")
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
        if not run:
            return build
        _check_arguments(build, own)
        return build(**own.arguments)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"--model: expected {spec} to return a model, got {type(error).__name__}: {error}"
        ) from error
    finally:
        sys.path.remove(str(file.parent.resolve()))


def _check_arguments(build: Callable[..., Any], own: FileSpec) -> None:
    """Refuse arguments that a callable does not take, by name."""
    try:
        signature = inspect.signature(build)
    except ValueError:  # of a function in C
        return
    try:
        signature.bind(**own.arguments)
    except TypeError as error:
        takes = ", ".join(map(str, signature.parameters.values())) or "none"
        raise InputError(
            f"--model: expected the arguments of {own.name} in {own.path}, which are {takes}, got "
            f"{', '.join(own.arguments) or 'none'} ({error})"
        ) from error


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
