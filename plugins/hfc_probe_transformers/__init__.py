"""hfc_probe in a Hugging Face ``Trainer``: add :class:`FrequencyCallback` to its callbacks."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from hfc_probe import InputError, PixelSpace, Probe, Samples, attach
from hfc_probe.model.subject import Predict
from hfc_probe.probe.attach import Measurements

try:
    from transformers import TrainerCallback, default_data_collator
except ImportError as error:
    raise ImportError(
        "hfc_probe_transformers needs transformers; pip install 'hfc_probe[transformers]'"
    ) from error

__all__ = ["FrequencyCallback"]

logger = logging.getLogger("hfc_probe")
_LOOK = 32  # images that tell whether a data set is normalised


class FrequencyCallback(TrainerCallback):
    """Measures an image classification model on schedule while a ``Trainer`` trains it.

    Steps and epochs are the trainer's own. Results are written beside the trainer's TensorBoard
    logs, in the same directory (``output_dir/runs`` unless ``TENSORBOARD_LOGGING_DIR`` or
    ``log_dir`` says otherwise), as a run ``hfc_probe_<date>_<host>`` for each call of ``train()``;
    like the trainer's own logs, those of a training that is resumed are a run of their own. With
    ``report_to`` of wandb or MLflow they go into the trainer's run there as well.

    Args:
        data: validation data set (as for ``eval_dataset``), a loader, or
            :class:`hfc_probe.Samples`; None: the trainer's evaluation loader, from its first
            evaluation on.
        log_dir: TensorBoard directory of one training; what it holds of later steps becomes void
            when a training starts or is resumed in it.
        pixels: how the images are normalised; None: mean and std of the trainer's image
            processor (``processing_class``) if it has one and the images are normalised,
            else as found in transforms.
        measurements, limit, budget, strict, predict, final: as for :func:`hfc_probe.attach`.

    Raises:
        InputError: when training starts, for what :func:`hfc_probe.attach` refuses.

    Attributes:
        probe: the :class:`hfc_probe.Probe`, once it is attached.
    """

    def __init__(
        self,
        data: Any = None,
        *,
        log_dir: str | os.PathLike[str] | None = None,
        measurements: Measurements | None = None,
        pixels: PixelSpace | None = None,
        limit: int | None = 1000,
        budget: float = 0.05,
        strict: bool = False,
        predict: Predict | None = None,
        final: bool = True,
    ) -> None:
        self.probe: Probe | None = None
        self._data = data
        self._log_dir = log_dir
        self._pixels = pixels
        self._options: dict[str, Any] = {
            "measurements": measurements,
            "limit": limit,
            "budget": budget,
            "strict": strict,
            "predict": predict,
            "final": final,
        }

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        self._attach(args, state, given)

    def on_evaluate(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        if self.probe is None:
            self._attach(args, state, given)

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        if self.probe is not None:
            self.probe.step(at=state.global_step)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        if self.probe is not None:
            self.probe.end_epoch(at=max(1, round(state.epoch or 1)))

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        if self.probe is None:
            logger.warning(
                "hfc_probe: no validation data was seen, so nothing was measured; pass "
                "FrequencyCallback(data=eval_dataset)"
            )
        else:
            self.probe.close()

    def _attach(self, args: Any, state: Any, given: dict[str, Any]) -> None:
        data = given.get("eval_dataloader") if self._data is None else self._data
        if data is None:
            return
        if isinstance(data, Mapping):  # a DatasetDict, or a dict as eval_dataset may be
            names = ", ".join(map(str, data))
            raise InputError(
                f"data: expected one data set, got {len(data)} by name ({names}); pass one of "
                'them, as in FrequencyCallback(data=data_sets["validation"])'
            )
        if hasattr(data, "__getitem__") and hasattr(data, "__len__"):  # a data set
            from torch.utils.data import DataLoader

            # The trainer's own collator reads items that the default one cannot.
            collate = getattr(given.get("train_dataloader"), "collate_fn", default_data_collator)
            size = args.per_device_eval_batch_size
            data = DataLoader(data, batch_size=size, collate_fn=collate)
        # transformers before 4.46 hands it over by its former name.
        processor = given.get("processing_class", given.get("tokenizer"))
        self.probe = attach(
            given["model"],
            data,
            log_dir=self._log_dir or _beside(args),
            writer=[name for name in ("wandb", "mlflow") if name in args.report_to],
            pixels=self._pixels or _processor_pixels(processor, data),
            **self._options,
        )
        # In a log_dir of the user's, what an earlier training left after this step is void.
        self.probe.resume(state.global_step, int(state.epoch or 0))


def _beside(args: Any) -> str:
    """A directory for this training alone, where the trainer's TensorBoard runs are.

    As the trainer's own: a second training into the same ``output_dir`` is another run.
    """
    logs = os.getenv("TENSORBOARD_LOGGING_DIR") or getattr(args, "logging_dir", None)
    root = os.path.dirname(logs) if logs else os.path.join(args.output_dir, "runs")
    name = f"hfc_probe_{datetime.now():%b%d_%H-%M-%S}_{socket.gethostname()}"
    free = (f"{name}{end}" for end in ("", *(f"_{k}" for k in range(2, 1000))))
    return next(p for p in (os.path.join(root, one) for one in free) if not os.path.exists(p))


def _processor_pixels(processor: Any, data: Any) -> PixelSpace | None:
    """The normalisation of an image processor that normalises, if the data are normalised.

    Nothing behind a Trainer's data normalises: a model trained on raw images is given raw ones.
    """
    mean, std = getattr(processor, "image_mean", None), getattr(processor, "image_std", None)
    if mean is None or std is None or not getattr(processor, "do_normalize", True):
        return None
    try:
        found = Samples.collect(data, limit=_LOOK).normalization
    except InputError:  # beyond [0, 1], and nothing but the processor to explain it
        found = None
    if found is not None and found.is_identity:
        return None
    return PixelSpace(tuple(mean), tuple(std))
