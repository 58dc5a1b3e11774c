"""hfc_probe in a Lightning trainer: add :class:`FrequencyCallback` to its callbacks."""

from __future__ import annotations

import logging
import os
from typing import Any

from hfc_probe import InputError, PixelSpace, Probe, attach
from hfc_probe.model.subject import Predict
from hfc_probe.probe.attach import Measurements

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ImportError:
    try:
        from pytorch_lightning import (  # type: ignore[assignment]  # the same under another name
            Callback,
            LightningModule,
            Trainer,
        )
    except ImportError as error:
        raise ImportError(
            "hfc_probe_lightning needs Lightning; pip install 'hfc_probe[lightning]'"
        ) from error

__all__ = ["FrequencyCallback"]

logger = logging.getLogger("hfc_probe")
_FAST_RUN = 16  # samples in a fast_dev_run: enough to find mistakes


class FrequencyCallback(Callback):
    """Measures the module on schedule while a Trainer trains it.

    Steps are the trainer's ``global_step`` (optimizer steps, whatever gradients accumulate over)
    and epochs its own. Results go into every logger of the trainer, and all that the HFC tab
    shows into TensorBoardLogger. Its state goes into the trainer's checkpoints. In a
    ``fast_dev_run`` a few samples are measured and nothing is logged. A trainer takes several of
    them, if they measure different things or have a ``log_dir`` each. The weights looked at are
    those in training, not the averages that a ``WeightAveraging`` callback keeps beside them.

    Args:
        data: validation data as for :func:`hfc_probe.attach`; None: the trainer's own
            validation loader (the first of several), within ``limit_val_batches``.
        log_dir: TensorBoard directory, instead of the trainer's loggers.
        measurements, pixels, limit, budget, strict, predict, final: as for
            :func:`hfc_probe.attach`; the module is called with a batch of images and returns
            logits unless ``predict`` says otherwise.

    Raises:
        InputError: when training starts, for what :func:`hfc_probe.attach` refuses, or
            if there is no validation data.

    Attributes:
        probe: the :class:`hfc_probe.Probe`, once training has started.
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
        super().__init__()
        self.probe: Probe | None = None
        self._data = data
        self._log_dir = log_dir
        self._limit = limit
        self._options: dict[str, Any] = {
            "measurements": measurements,
            "pixels": pixels,
            "budget": budget,
            "strict": strict,
            "predict": predict,
            "final": final,
        }
        self._restored: dict[str, Any] | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data = self._data if self._data is not None else _validation_loader(trainer)
        if data is None:
            raise InputError(
                "FrequencyCallback: expected a validation loader in the trainer, found none; pass "
                "data="
            )
        is_fast = _is_fast(trainer)
        own = self._log_dir is not None and not is_fast
        self.probe = attach(
            pl_module,
            data,
            log_dir=self._log_dir if own else None,
            writer=None if own else [] if is_fast else _writers(trainer),
            limit=_limit(self._limit, trainer, data),
            **self._options,
        )
        self._check_alone(trainer)
        if self._restored is not None:
            self.probe.load_state_dict(self._restored)
        if trainer.global_step or trainer.current_epoch:
            self.probe.resume(trainer.global_step, trainer.current_epoch)

    def on_train_batch_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        # One batch may be no optimizer step (accumulation) or several (several optimizers).
        if self.probe is not None:
            self.probe.step(at=trainer.global_step)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.probe is not None:
            self.probe.end_epoch(at=trainer.current_epoch + 1)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._close()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._close()

    # Not state_dict(), which Lightning refuses of two callbacks of one class.
    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if self.probe is not None:
            states = checkpoint.setdefault("hfc_probe", {})
            states[_others(trainer).index(self)] = self.probe.state_dict()

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        states = checkpoint.get("hfc_probe", {})
        self._restored = states.get(_others(trainer).index(self))

    def _check_alone(self, trainer: Trainer) -> None:
        """Refuse to write the tags that an earlier callback writes into the same loggers."""
        assert self.probe is not None
        own = set(self.probe.state_dict()["measurements"])
        for other in _others(trainer):
            if other is self:
                return
            if other.probe is None or other._log_dir != self._log_dir:
                continue
            both = own & set(other.probe.state_dict()["measurements"])
            if both:
                self.probe.close()
                raise InputError(
                    "FrequencyCallback: expected callbacks that measure different things, got two "
                    f"with {', '.join(sorted(both))}, which write the same tags; give the second "
                    "a log_dir="
                )

    def _close(self) -> None:
        if self.probe is not None:
            self.probe.close()


def _is_fast(trainer: Any) -> bool:
    """Whether it is a ``fast_dev_run``, which the type of a trainer does not know."""
    return bool(trainer.fast_dev_run)


def _others(trainer: Any) -> list[FrequencyCallback]:
    """All of the trainer's callbacks of this class, this one among them, in order."""
    return [one for one in trainer.callbacks if isinstance(one, FrequencyCallback)]


def _validation_loader(trainer: Trainer) -> Any:
    """The first validation loader; asked for if the trainer has not set it up."""
    loaders = trainer.val_dataloaders
    if loaders is None:
        source = getattr(trainer, "datamodule", None) or trainer.lightning_module
        try:
            loaders = source.val_dataloader()
        except Exception:  # Lightning's own "no val_dataloader" varies with the version
            logger.debug("no validation loader", exc_info=True)
            return None
    if isinstance(loaders, dict):
        loaders = list(loaders.values())
    if isinstance(loaders, (list, tuple)):
        return loaders[0] if loaders else None
    return loaders


def _writers(trainer: Trainer) -> list[Any]:
    if not trainer.loggers:
        logger.warning(
            "hfc_probe: the trainer has no logger; results stay in callback.probe.results (add a "
            "TensorBoardLogger to see them there)"
        )
    return list(trainer.loggers)


def _limit(limit: int | None, trainer: Trainer, data: Any) -> int | None:
    """The limit on samples, within the trainer's own limits on validation."""
    limits = [limit] if limit is not None else []
    if _is_fast(trainer):
        limits.append(_FAST_RUN)
    batches = trainer.limit_val_batches
    size = getattr(data, "batch_size", None)
    if isinstance(batches, float) and batches < 1 and hasattr(data, "__len__"):
        batches = max(1, int(batches * len(data)))
    if isinstance(batches, int) and not isinstance(batches, bool) and batches and size:
        limits.append(batches * size)
    return min(limits) if limits else None
