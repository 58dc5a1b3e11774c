"""A detectron2 training hook that audits the model every N iterations."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.engine import HookBase
from detectron2.engine.hooks import PeriodicWriter
from detectron2.utils import comm

from hfc_probe import KernelSpectra, Result
from hfc_probe.detection import DetectionAudit, DetectionAuditResult
from hfc_probe.ground import checks
from hfc_probe.ground.errors import InputError
from hfc_probe.model.isolation import unwrap

from .data import CatalogImages
from .evaluator import check_settings
from .run import audit

logger = logging.getLogger("hfc_probe")
_FAILURES = 3


class DetectionAuditHook(HookBase):
    """Audits every ``period`` iterations and after the last one; training is not changed.

    Register it on all ranks and before ``PeriodicWriter``: see :func:`insert_hook`. Scalars
    (unsmoothed) and pictures go into detectron2's event storage under ``hfc_detection/…`` and
    ``hfc_<layer>/…``, and from there wherever its writers write.

    Args:
        period: iterations between audits; 0 for after the last one only.
        data: name of a registered data set, or a test loader.
        radii, settings, cfg, mapper, dataset_name, limit, batch_size, workers: see
            :func:`audit`. The limit is 200 images by default: three passes over 5,000 images take
            long.
        kernels: spectra and smoothness of the backbone's first convolution as well.
        strict: raise what an audit raises, instead of reporting it and training on; after
            three failures it is switched off. In a distributed run everything is raised: a
            process that went on alone would leave the others waiting.

    Attributes:
        result: of the latest audit, on all ranks.
    """

    def __init__(
        self,
        period: int,
        data: Any,
        radii: Sequence[float] = (128,),
        *,
        settings: DetectionAudit | None = None,
        cfg: Any = None,
        mapper: Any = None,
        dataset_name: str | None = None,
        limit: int | None = 200,
        batch_size: int = 1,
        workers: int = 0,
        kernels: bool = True,
        strict: bool = False,
    ) -> None:
        self._period = checks.whole("period", period, 0, what="number of iterations")
        named = isinstance(data, str)
        # Read once: annotations of a large data set take seconds.
        self._data = CatalogImages(data) if named else data
        self._options: dict[str, Any] = {
            "settings": settings or DetectionAudit(radii=tuple(checks.listed(radii))),
            "cfg": cfg,
            "mapper": mapper,
            "dataset_name": None if dataset_name is None else CatalogImages(dataset_name),
            "limit": limit if named else None,
            "batch_size": batch_size,
            "workers": workers,
            "quiet": True,
        }
        check_settings(self._options["settings"])
        self._kernels = kernels
        self._strict = strict
        self._failures = 0
        self.result: DetectionAuditResult | None = None

    def before_train(self) -> None:
        hooks = list(getattr(self.trainer, "_hooks", []))
        writers = [k for k, hook in enumerate(hooks) if isinstance(hook, PeriodicWriter)]
        if self in hooks and writers and min(writers) < hooks.index(self):
            logger.warning(
                "hfc_probe: DetectionAuditHook comes after PeriodicWriter, which will not see its "
                "last scalars; add it with hfc_probe_detectron2.insert_hook(trainer, hook)"
            )

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        due = self._period > 0 and done % self._period == 0
        if self._failures < _FAILURES and (due or done == self.trainer.max_iter):
            try:
                self._measure()
            except Exception:
                if self._strict or comm.get_world_size() > 1:
                    raise
                self._failures += 1
                off = "; it is switched off" if self._failures == _FAILURES else ""
                logger.exception("hfc_probe: the audit failed, training continues%s", off)
        # Ranks do not take the same time; start the next iteration together.
        comm.synchronize()

    def _measure(self) -> None:
        model = self.trainer.model
        start = time.perf_counter()
        self.result = audit(model, self._data, **self._options)
        if not comm.is_main_process():
            return
        self._log(self.result)
        seconds = time.perf_counter() - start
        name = f"hfc_cost/seconds/{self.result.name}"
        self.trainer.storage.put_scalar(name, seconds, smoothing_hint=False)
        if self._kernels:
            # Not every backbone starts with a convolution that sees pixels.
            with contextlib.suppress(InputError):
                inner = unwrap(model)
                spectra: Any = KernelSpectra().measure(inner)
                if getattr(inner, "input_format", "BGR") == "BGR" and spectra.kernels.shape[1] == 3:
                    spectra = dataclasses.replace(
                        spectra, kernels=np.ascontiguousarray(spectra.kernels[:, ::-1])
                    )
                self._log(spectra)

    def _log(self, result: Result) -> None:
        storage = self.trainer.storage
        for tag, value in result.scalars().items():
            if np.isfinite(value):
                storage.put_scalar(tag, value, smoothing_hint=False)
        for tag, picture in result.images().items():
            storage.put_image(tag, _channels_first(picture))


def insert_hook(trainer: Any, hook: HookBase) -> None:
    """Add a hook to a trainer, before the hook that writes what others have logged.

    Args:
        trainer: any detectron2 trainer, or the list that ``build_hooks()`` is about to
            return. Call it on every rank: only the main one has a writer, which is why
            a position such as −1 is wrong on the others.
    """
    if isinstance(trainer, list):
        hooks = trainer
        hooks.append(hook)
    else:
        trainer.register_hooks([hook])
        hooks = trainer._hooks
    writer = next((k for k, h in enumerate(hooks) if isinstance(h, PeriodicWriter)), None)
    if writer is not None:
        hooks.remove(hook)
        hooks.insert(writer, hook)


def _channels_first(picture: Any) -> np.ndarray[Any, Any]:
    """A figure or an array as RGB uint8 ``(3, H, W)``."""
    if not isinstance(picture, np.ndarray):
        picture.canvas.draw()
        picture = np.asarray(picture.canvas.buffer_rgba())[..., :3]
    if picture.ndim == 2:
        picture = np.repeat(picture[..., None], 3, axis=-1)
    return np.ascontiguousarray(np.moveaxis(picture, -1, 0))
