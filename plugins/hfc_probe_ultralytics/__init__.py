"""hfc_probe in Ultralytics: a probe for its trainer.

An audit of its detectors needs :func:`hfc_probe.detection.detectors.from_ultralytics` alone.
"""

from __future__ import annotations

import os
from typing import Any

from torch import Tensor, nn
from torch.utils.data import DataLoader

from hfc_probe import KernelSpectra, Probe, attach

__all__ = ["FrequencyCallbacks"]


class FrequencyCallbacks:
    """Measures the model on schedule while Ultralytics trains it; :meth:`attach` to a ``YOLO``.

    Batches count as steps. Results are written where the trainer's own are, in ``save_dir``. The
    weights looked at are those in training, not their average (EMA). On several GPUs Ultralytics
    starts processes of its own, without callbacks.

    Args:
        data: as for :func:`hfc_probe.attach`; None: the validation images of a classifier; of
            another model the kernels are measured, without data.
        log_dir: TensorBoard directory; None: ``save_dir``.
        options: as for :func:`hfc_probe.attach`.

    Attributes:
        probe: the :class:`hfc_probe.Probe`, once training has started.
    """

    probe: Probe

    def __init__(
        self, data: Any = None, *, log_dir: str | os.PathLike[str] | None = None, **options: Any
    ) -> None:
        self._data, self._log_dir, self._options, self._batch = data, log_dir, options, 0

    def attach(self, model: Any) -> FrequencyCallbacks:
        """Follow a ``YOLO`` or a trainer; returns itself."""
        for name in ("start", "epoch_start", "batch_end", "epoch_end", "end"):
            model.add_callback(f"on_train_{name}", getattr(self, f"_{name}"))
        return self

    def _start(self, trainer: Any) -> None:
        options, data = {"predict": _logits, **self._options}, self._data
        if data is None and trainer.args.task == "classify":
            held = trainer.test_loader
            data = DataLoader(held.dataset, held.batch_size, collate_fn=held.collate_fn)
        elif data is None:
            options.setdefault("measurements", [KernelSpectra()])
        self.probe = attach(
            trainer.model, data, log_dir=self._log_dir or trainer.save_dir, **options
        )
        if trainer.start_epoch:
            self.probe.resume(trainer.start_epoch * len(trainer.train_loader), trainer.start_epoch)

    def _epoch_start(self, trainer: Any) -> None:
        self._batch = trainer.epoch * len(trainer.train_loader)

    def _batch_end(self, trainer: Any) -> None:
        self._batch += 1
        self.probe.step(at=self._batch)

    def _epoch_end(self, trainer: Any) -> None:
        self.probe.end_epoch(at=trainer.epoch + 1)

    def _end(self, trainer: Any) -> None:
        self.probe.close()


def _logits(model: nn.Module, images: Tensor) -> Any:
    found = model(images)
    return found[-1] if isinstance(found, (tuple, list)) else found  # (probabilities, logits)
