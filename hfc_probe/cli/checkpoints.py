"""Checkpoints of any wrapping, read without running code."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ..ground.errors import InputError, named

_WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "module")


_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.")


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
        "which could do anything; if you trust it, convert it with "
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


def classes_of(model: nn.Module, state: Mapping[str, Tensor]) -> int | None:
    """Number of classes of a checkpoint, if its head differs in that and nothing else."""
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
