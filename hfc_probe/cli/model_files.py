"""Classifiers that need no code: of Hugging Face, torch.export, TorchScript and ONNX."""

from __future__ import annotations

from abc import abstractmethod
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..ground.errors import InputError
from ..ground.hashing import file_digest
from .checkpoints import existing_file

SUFFIXES = (".onnx", ".pt2", ".pt", ".ts", ".torchscript")


class _ModelFile(nn.Module):
    """A model file, given as many images at once as it takes.

    Args:
        batch: the number of images that it was exported for; None: any number.
    """

    def __init__(self, batch: int | None) -> None:
        super().__init__()
        self._batch = batch

    def forward(self, images: Tensor) -> Any:
        if self._batch is None:
            return self.run(images)
        parts = []
        for chunk in images.split(self._batch):
            missing = self._batch - len(chunk)
            whole = torch.cat([chunk, chunk[-1:].expand(missing, *chunk.shape[1:])])
            parts.append(_first(self.run(whole))[: len(chunk)])
        return torch.cat(parts)

    @abstractmethod
    def run(self, images: Tensor) -> Any:
        """What the file's model gives for these images."""


class ExportedModel(_ModelFile):
    def __init__(self, program: Any) -> None:
        (name,) = program.graph_signature.user_inputs
        shape = next(node.meta["val"].shape for node in program.graph.nodes if node.name == name)
        super().__init__(shape[0] if isinstance(shape[0], int) else None)
        self.program = program.module()

    def train(self, mode: bool = True) -> ExportedModel:
        """Do nothing: an exported program has one mode, that of its export."""
        return self

    def run(self, images: Tensor) -> Any:
        return self.program(images)


class OnnxModel(_ModelFile):
    digest: Tensor

    def __init__(self, path: str) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise InputError(
                "--model: an .onnx file needs onnxruntime; pip install 'hfc_probe[onnx]'"
            ) from error
        self._session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0]
        first = self._input.shape[0] if self._input.shape else None
        super().__init__(first if isinstance(first, int) else None)
        # Its weights are not PyTorch's: by this two files are known as two models.
        self.register_buffer("digest", torch.tensor(list(bytes.fromhex(file_digest(path)))))

    def run(self, images: Tensor) -> Tensor:
        if images.requires_grad:
            raise InputError(
                "model: expected one with gradients for this measurement, got an ONNX file, which "
                "has none; load the model in PyTorch"
            )
        kind = np.float16 if "float16" in self._input.type else np.float32
        given = {self._input.name: images.cpu().numpy().astype(kind)}
        logits = self._session.run(None, given)[0]
        return torch.from_numpy(np.asarray(logits, dtype=np.float32)).to(images.device)


def _first(output: Any) -> Tensor:
    tensor: Tensor = output[0] if isinstance(output, (tuple, list)) else output
    return tensor


def model_file(path: str) -> nn.Module:
    """The model in an ONNX, torch.export (``.pt2``) or TorchScript file.

    Raises:
        InputError: no such file, or one that holds no such model.
    """
    file = existing_file(path, "--model")
    try:
        if file.suffix == ".onnx":
            return OnnxModel(str(file))
        if file.suffix == ".pt2":
            return ExportedModel(torch.export.load(file))
        scripted: nn.Module = torch.jit.load(str(file), map_location="cpu")
        return scripted
    except InputError:
        raise
    except Exception as error:  # damaged files raise anything at all
        what = {".onnx": "an ONNX model", ".pt2": "a program that torch.export.save has written"}
        hint = "; a state dict belongs to --weights" if file.suffix == ".pt" else ""
        raise InputError(
            f"--model: expected {what.get(file.suffix, 'a TorchScript model')} in {file}, got "
            f"{type(error).__name__}: {' '.join(str(error).split())[:200]}{hint}"
        ) from error


def transformers_model(name: str) -> nn.Module:
    """A classifier of Hugging Face transformers: a folder, or a name on its hub (downloaded).

    Raises:
        InputError: transformers is missing, or there is no image classifier of this name.
    """
    auto = _transformers().AutoModelForImageClassification
    try:
        model, said = auto.from_pretrained(name, output_loading_info=True)
    except (OSError, ValueError) as error:
        raise InputError(
            f"--model: expected hf:{name} to be an image classifier of transformers, a folder or "
            f"a name on its hub, failed ({' '.join(str(error).split())[:200]})"
        ) from error
    if said["missing_keys"]:
        raise InputError(
            f"--model: expected hf:{name} with all its weights, got none for "
            f"{sorted(said['missing_keys'])[0]} and {len(said['missing_keys']) - 1} more, which "
            "transformers draws at random; it may be a model without this head"
        )
    return model  # type: ignore[no-any-return]


@cache
def processor(name: str) -> Any:
    """The image processor of a model of transformers.

    Raises:
        InputError: it has none.
    """
    try:
        return _transformers().AutoImageProcessor.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise InputError(
            f"--model: expected hf:{name} with its image processor (preprocessor_config.json), "
            f"failed ({' '.join(str(error).split())[:200]}); pass --normalize and --size"
        ) from error


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise InputError(
            "--model: hf:… needs transformers; pip install 'hfc_probe[transformers]'"
        ) from error
    return transformers
