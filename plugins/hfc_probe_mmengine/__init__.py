"""hfc_probe in an MMEngine ``Runner``: add a :class:`FrequencyHook` to its hooks."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from hfc_probe import InputError, PixelSpace, Probe, attach

try:
    from mmengine.dist import is_main_process
    from mmengine.hooks import Hook
    from mmengine.model import is_model_wrapper
    from mmengine.registry import HOOKS
except ImportError as error:
    said = "hfc_probe_mmengine needs MMEngine; pip install 'hfc_probe[mmengine]'"
    raise ImportError(said) from error

__all__ = ["FrequencyHook"]


@HOOKS.register_module()
class FrequencyHook(Hook):
    """Measures the runner's model on schedule while it trains.

    Iterations count as steps. Results go into every back end of the visualizer, and all that the
    HFC tab shows into ``TensorboardVisBackend`` or else an event file in the run's ``vis_data``.
    Checkpoints keep the state. Images go through the model's ``data_preprocessor``.

    Args:
        data: as for :func:`hfc_probe.attach`; None: the validation loader.
        log_dir: TensorBoard directory, instead of the runner's back ends.
        options: as for :func:`hfc_probe.attach`; without ``predict`` the model is called with
            ``mode="tensor"``.

    Attributes:
        probe: the :class:`hfc_probe.Probe`, once training has started.
    """

    probe: Probe

    def __init__(
        self, data: Any = None, *, log_dir: str | os.PathLike[str] | None = None, **options: Any
    ) -> None:
        self._data, self._log_dir, self._options = data, log_dir, options
        self._restored: Mapping[str, Any] | None = None

    def before_train(self, runner: Any) -> None:
        model, options = runner.model, {"predict": _predict, **self._options}
        inner = model.module if is_model_wrapper(model) else model
        whole = "predict" not in self._options or self._data is None
        if whole and hasattr(inner.data_preprocessor, "_enable_normalize"):
            # A preprocessor of images takes values up to 255.
            options.setdefault("pixels", PixelSpace((0.0,), (1 / 255,)))
        writers, folder = _logs(runner) if self._log_dir is None else ([], self._log_dir)
        data = self._data
        if data is None and runner.val_loop is not None:
            data = _pairs(runner.val_loop.dataloader)
        self.probe = attach(model, data, log_dir=folder, writer=writers, **options)
        if runner.iter and self._restored is not None:
            self.probe.load_state_dict(self._restored)
        if runner.iter:
            self.probe.resume(runner.iter, runner.epoch)

    def after_train_iter(self, runner: Any, *_: Any, **__: Any) -> None:
        self.probe.step(at=runner.iter + 1)

    def after_train_epoch(self, runner: Any) -> None:
        self.probe.end_epoch(at=runner.epoch + 1)

    def after_train(self, runner: Any) -> None:
        self.probe.close()

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint["hfc_probe"] = self.probe.state_dict()

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        self._restored = checkpoint.get("hfc_probe")


def _predict(model: nn.Module, images: Tensor) -> Any:
    """Logits by the convention of ``BaseModel``, on images as the loader has them."""
    given = {"inputs": images, "data_samples": None}
    return model(model.data_preprocessor(given)["inputs"], mode="tensor")  # type: ignore[operator]


def _pairs(loader: DataLoader[Any]) -> DataLoader[Any]:
    """The same samples as images and labels."""

    def collate(items: list[Any]) -> Any:
        batch = loader.collate_fn(items)
        if not isinstance(batch, Mapping) or "data_samples" not in batch:
            return batch
        found = [getattr(sample, "gt_label", None) for sample in batch["data_samples"]]
        labels = [label for label in found if label is not None and label.numel() == 1]
        if len(labels) < len(found):
            raise InputError(
                "data: expected one gt_label in each data sample of the validation loader, got "
                "none or several; pass FrequencyHook(data=Samples(images, torch.arange(N)), "
                "measurements=[ImageScore(…, targets=…)], predict=…) for other tasks"
            )
        return torch.stack(list(batch["inputs"])), torch.cat(labels)

    return DataLoader(
        loader.dataset, loader.batch_size, num_workers=loader.num_workers, collate_fn=collate
    )


def _logs(runner: Any) -> tuple[list[Any], str | None]:
    """Writers for the back ends of the visualizer, and a TensorBoard directory if it has none."""
    held = list(runner.visualizer._vis_backends.values())
    if not is_main_process():  # which alone writes; a back end asked for its experiment opens one
        held = []
    ours = [b.experiment for b in held if type(b).__name__ == "TensorboardVisBackend"]
    # Of the others, which take pictures in a form of their own, the scalars.
    others = [SimpleNamespace(add_scalar=b.add_scalar) for b in held if b.experiment not in ours]
    return [*ours, *others], None if ours else os.path.join(runner.log_dir, "vis_data")
