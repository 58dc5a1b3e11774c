"""hfc_probe in a fastai ``Learner``: add a :class:`FrequencyCallback` to its callbacks."""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Mapping
from typing import Any

from hfc_probe import PixelSpace, Probe, attach
from hfc_probe.ground.random_state import protected_rng

try:
    from fastai.callback.core import Callback
except ImportError as error:
    raise ImportError("hfc_probe_fastai needs fastai; pip install 'hfc_probe[fastai]'") from error

__all__ = ["FrequencyCallback"]


class FrequencyCallback(Callback):
    """Measures the learner's model on schedule in each of its fits, which count on.

    Batches count as steps. Results are written beside the log of fastai's ``TensorBoardCallback``
    if the learner has one, else into ``log_dir``. ``lr_find`` is left alone.

    Args:
        data: validation data as for :func:`hfc_probe.attach`; None: a seeded random choice of the
            learner's validation set, through its own transforms.
        log_dir: TensorBoard directory.
        options: as for :func:`hfc_probe.attach`.

    Attributes:
        probe: the :class:`hfc_probe.Probe`, once training has started.
    """

    order, run_valid = 60, False  # after TensorBoardCallback, which opens its log first

    def __init__(
        self, data: Any = None, *, log_dir: str | os.PathLike[str] | None = None, **options: Any
    ) -> None:
        super().__init__()
        self.probe: Probe | None = None
        self._data, self._log_dir, self._options = data, log_dir, options
        self._state: Mapping[str, Any] | None = None
        self._before, self._last = (0, 0), -1

    def before_fit(self) -> None:
        if hasattr(self.learn, "lr_finder") or hasattr(self.learn, "gather_preds"):
            self.run = False  # until this fit ends
            return
        options, data = dict(self._options), self._data
        if data is None:
            data = _choice(self.learn.dls.valid, options.get("limit", 1000))
            options.setdefault("pixels", _normalization(self.learn.dls.valid))
        board = next((cb.writer for cb in self.learn.cbs if hasattr(cb, "writer")), None)
        folder = self._log_dir or getattr(board, "log_dir", None)
        if folder is None and "writer" not in options:
            logging.getLogger("hfc_probe").warning(
                "hfc_probe: the learner has no TensorBoardCallback; results stay in "
                "callback.probe.results (pass log_dir= to keep them)"
            )
        self.probe = attach(self.learn.model, data, log_dir=folder, **options)
        if self._state is not None:
            self.probe.load_state_dict(self._state)
        self._before, self._last = (self.probe.steps, self.probe.epochs), -1

    def after_batch(self) -> None:
        if self.probe is not None and self.learn.training:
            steps = self._before[0]
            if self._last < 0 and self.learn.epoch and not steps:  # of a fit that was resumed
                self.probe.resume(self.learn.epoch * self.learn.n_iter, self.learn.epoch)
            self._last = self.learn.epoch
            self.probe.step(at=steps + self._last * self.learn.n_iter + self.learn.iter + 1)

    def after_epoch(self) -> None:
        if self.probe is not None and self._last == self.learn.epoch:  # else it was skipped
            self.probe.end_epoch(at=self._before[1] + self._last + 1)

    def after_fit(self) -> None:
        if self.probe is not None:
            self.probe.close()
            self._state = self.probe.state_dict()


def _choice(loader: Any, limit: int | None) -> Any:
    """A loader of its own over some of the samples, in their order."""
    count = len(loader.dataset)
    picked = sorted(random.Random(0).sample(range(count), min(count, limit or count)))
    with protected_rng():  # from which fastai seeds every new loader
        return loader.new(get_idxs=lambda: picked, n=len(picked), shuffle=False, num_workers=0)


def _normalization(loader: Any) -> PixelSpace | None:
    for one in getattr(loader.after_batch, "fs", ()):
        if type(one).__name__ == "Normalize" and one.mean is not None:
            return PixelSpace(*(tuple(v.flatten().tolist()) for v in (one.mean, one.std)))
    return None
