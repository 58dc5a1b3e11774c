"""hfc_probe in an Ignite engine: attach a :class:`FrequencyHandler`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hfc_probe import PixelSpace, Probe, attach
from hfc_probe.model.subject import Predict
from hfc_probe.probe.attach import Measurements

try:
    from ignite.engine import Engine, Events
except ImportError as error:
    raise ImportError("hfc_probe_ignite needs Ignite; pip install 'hfc_probe[ignite]'") from error

__all__ = ["FrequencyHandler"]


class FrequencyHandler:
    """Measures a model on schedule while an Ignite trainer runs.

    Iterations of the trainer count as steps, its epochs as epochs; with ``optimizer=`` steps are
    the optimizer's (for gradient accumulation).

    Args:
        model: the model.
        data: validation data as for :func:`hfc_probe.attach`.
        logger: Ignite's ``TensorboardLogger``, ``WandBLogger`` or ``MLflowLogger``, or any
            ``writer`` of :func:`hfc_probe.attach`.
        log_dir: TensorBoard directory of the probe's own.
        optimizer, measurements, pixels, limit, budget, strict, predict, final: as for
            :func:`hfc_probe.attach`.

    Raises:
        InputError: for what :func:`hfc_probe.attach` refuses.

    Attributes:
        probe: the :class:`hfc_probe.Probe`.
    """

    def __init__(
        self,
        model: Any,
        data: Any,
        *,
        logger: Any = None,
        log_dir: Any = None,
        optimizer: Any = None,
        measurements: Measurements | None = None,
        pixels: PixelSpace | None = None,
        limit: int | None = 1000,
        budget: float = 0.05,
        strict: bool = False,
        predict: Predict | None = None,
        final: bool = True,
    ) -> None:
        self._counts_iterations = optimizer is None
        self.probe: Probe = attach(
            model,
            data,
            writer=getattr(logger, "writer", logger),
            log_dir=log_dir,
            optimizer=optimizer,
            measurements=measurements,
            pixels=pixels,
            limit=limit,
            budget=budget,
            strict=strict,
            predict=predict,
            final=final,
        )

    def attach(self, engine: Engine) -> FrequencyHandler:
        """Follow a trainer's iterations and epochs; returns itself."""
        if self._counts_iterations:
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._step)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._end_epoch)
        engine.add_event_handler(Events.COMPLETED, self.close)
        return self

    def state_dict(self) -> dict[str, Any]:
        """For Ignite's ``Checkpoint``."""
        return self.probe.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self.probe.load_state_dict(state_dict)

    def close(self) -> None:
        self.probe.close()

    def _step(self, engine: Engine) -> None:
        self.probe.step(at=engine.state.iteration)

    def _end_epoch(self, engine: Engine) -> None:
        self.probe.end_epoch(at=engine.state.epoch)
