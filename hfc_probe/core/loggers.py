"""Loggers other than TensorBoard's, each through its own API, as writers of the same form.

None of them is imported here: a logger is known by what it offers. What :func:`writers` gives has
``add_scalar``, ``add_image`` and ``add_result``, which collect what one step has, and ``flush``,
which writes it. TensorBoard's log alone has histograms, tensors for the HFC tab and text.
"""

from __future__ import annotations

import csv
import importlib
import io
import json
import logging
import os
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..ground.errors import InputError
from ..ground.files import write_atomically

Image = NDArray[np.uint8]
_COLUMNS = ["step", "tag", "value"]  # of a CSV file
_BATCH = 1000  # metrics that MLflow takes at once
_FORMS = (
    "a SummaryWriter (any object with add_scalar), a Lightning logger, a wandb or MLflow run, the "
    "path of a .csv file"
)


def writers(given: Any) -> list[Any]:
    """What to write into, of one logger or a list of them; SummaryWriters come back as they are.

    Raises:
        InputError: something that is no logger.
    """
    several = given if isinstance(given, (list, tuple)) else [given]
    return [_writer(one) for one in several]


def _writer(logger: Any) -> Any:
    if isinstance(logger, (str, os.PathLike)):
        return _named(logger)
    if hasattr(logger, "add_scalar"):
        return logger
    if hasattr(getattr(logger, "info", None), "run_id"):
        return _mlflow_run(logger)
    if hasattr(logger, "active_run"):  # the module, or what passes its calls on
        return _mlflow_run(logger.active_run())
    if hasattr(logger, "define_metric") and hasattr(logger, "log_artifact"):
        return _WandbRun(logger.run if hasattr(logger, "init") else logger)  # init: the module's
    if hasattr(logger, "log_metrics") and hasattr(logger, "experiment"):
        return _of_lightning(logger)
    raise InputError(
        f"writer: expected {_FORMS}, or a list of such, got {type(logger).__name__}; a logger's "
        "TensorBoard writer is often its .experiment"
    )


def _named(name: str | os.PathLike[str]) -> Any:
    """A logger by its name: the run in progress, or a CSV file."""
    text = os.fspath(name)
    if text == "wandb":
        wandb = _installed("wandb")
        return _WandbRun(wandb.run or wandb.init())
    if text == "mlflow":
        mlflow = _installed("mlflow")
        return _mlflow_run(mlflow.active_run() or mlflow.start_run())
    if text.endswith(".csv"):
        return _CsvFile(Path(text))
    raise InputError(
        f'writer: expected {_FORMS}, "wandb" or "mlflow", got {text!r}; a TensorBoard directory '
        "is log_dir="
    )


def _of_lightning(logger: Any) -> Any:
    if hasattr(logger.experiment, "add_scalar"):
        return logger.experiment
    if hasattr(logger, "run_id") and hasattr(logger.experiment, "log_artifact"):
        return _MlflowRun(logger.experiment, logger.run_id)
    if hasattr(logger.experiment, "define_metric"):
        return _LightningWandb(logger)
    return _Lightning(logger)


def _mlflow_run(run: Any) -> Any:
    if run is None:
        raise InputError(
            "writer: expected an MLflow run, found none; call mlflow.start_run() first"
        )
    return _MlflowRun(_installed("mlflow").MlflowClient(), run.info.run_id)


def _installed(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(
            f"writer: expected {name} to be installed, found that it is not; pip install {name}"
        ) from error


@dataclass
class Found:
    """What belongs to one step; results are :meth:`Result.to_dict` by measurement."""

    step: int
    scalars: dict[str, float] = field(default_factory=dict)
    images: dict[str, Image] = field(default_factory=dict)
    results: dict[str, dict[str, Any]] = field(default_factory=dict)


class Collector(ABC):
    """A writer that collects scalars, pictures and results of a step until it is flushed."""

    def __init__(self) -> None:
        self._found = Found(0)

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        self._at(step).scalars[tag] = float(value)

    def add_image(self, tag: str, image: Image, step: int, dataformats: str = "HWC") -> None:
        self._at(step).images[tag] = image

    def add_result(self, name: str, result: Any, step: int) -> None:
        self._at(step).results[name] = result.to_dict()

    def flush(self) -> None:
        found, self._found = self._found, Found(self._found.step)
        if found.scalars or found.images or found.results:
            self.write(found)

    @abstractmethod
    def write(self, found: Found) -> None:
        """Write what belongs to a step."""

    def _at(self, step: int) -> Found:
        if step != self._found.step:
            self.flush()
            self._found.step = step
        return self._found


class _Files(Collector):
    """Pictures and JSON as files of a directory, for loggers that take numbers alone."""

    folder: Path | None

    def write(self, found: Found) -> None:
        self.write_scalars(found.step, found.scalars)
        if self.folder is not None:
            for tag, image in found.images.items():
                write_atomically(self.folder / f"{_file(tag, found.step)}.png", _png(image))
            for name, result in found.results.items():
                text = json.dumps(result, allow_nan=False, ensure_ascii=False)
                write_atomically(self.folder / f"{_file(name, found.step)}.json", text.encode())

    @abstractmethod
    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Write the numbers of a step."""


class _CsvFile(_Files):
    """A row for each number: step, tag, value; pictures and JSON in a folder of the same name."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path, self.folder = path, path.with_suffix("")
        self._earlier = self._read() if path.is_file() else set()

    def _read(self) -> set[tuple[str, str]]:
        """Steps and tags of an earlier run's rows."""
        try:
            with self._path.open(newline="", encoding="utf-8", errors="replace") as file:
                head, *rows = list(csv.reader(file)) or [_COLUMNS]
        except (OSError, csv.Error) as error:
            raise InputError(
                f"writer: expected a .csv file that can be read, got {self._path} ({error}); "
                "choose another"
            ) from error
        if head != _COLUMNS:
            raise InputError(
                f"writer: expected a .csv file of {', '.join(_COLUMNS)} or a new one, got "
                f"{self._path}, which begins with {','.join(head)[:60]!r}; choose another"
            )
        return {(row[0], row[1]) for row in rows if len(row) == len(_COLUMNS)}

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        if any((str(step), tag) in self._earlier for tag in scalars):
            self._earlier = set()
            logging.getLogger("hfc_probe").warning(
                "hfc_probe: %s holds rows of an earlier run at step %d and this run's follow "
                "them; delete it before a new run, or choose another",
                self._path,
                step,
            )
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", newline="", encoding="utf-8") as file:
                rows = csv.writer(file)
                if not file.tell():
                    rows.writerow(_COLUMNS)
                rows.writerows((step, tag, value) for tag, value in scalars.items())
        except OSError as error:
            raise InputError(
                f"writer: expected a .csv file that can be written, got {self._path} "
                f"({error.strerror}); choose another"
            ) from error


class _Lightning(_Files):
    """Any Lightning logger: numbers by ``log_metrics``, the rest where it keeps its files."""

    def __init__(self, logger: Any) -> None:
        super().__init__()
        self._logger = logger
        place = getattr(logger, "log_dir", None) or getattr(logger, "save_dir", None)
        self.folder = None if place is None else Path(place) / "hfc_probe"

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        self._logger.log_metrics(scalars, step)
        self._logger.save()


class _WandbRun(Collector):
    """A wandb run: charts over the training step, JSON as an artifact with a version a step.

    Our numbers join the row that the training has open, so that a training that logs with
    ``step=`` loses none of its own; if it has logged nothing since, a row is closed first.
    """

    def __init__(self, run: Any) -> None:
        super().__init__()
        if run is None:
            raise InputError("writer: expected a wandb run, found none; call wandb.init() first")
        self._run = run
        self._row: tuple[int, int] | None = None  # of the run, and the training step in it
        run.define_metric("hfc_step", hidden=True)
        run.define_metric("hfc_*", step_metric="hfc_step")

    def write(self, found: Found) -> None:
        wandb = _installed("wandb")
        pictures = {tag: wandb.Image(image) for tag, image in found.images.items()}
        self.log({**found.scalars, **pictures}, found.step)
        for name, result in found.results.items():
            artifact = wandb.Artifact(f"hfc_probe-{self._run.id}-{_plain(name)}", type="hfc_probe")
            with artifact.new_file(f"{_plain(name)}.json", encoding="utf-8") as file:
                json.dump(result, file, allow_nan=False, ensure_ascii=False)
            self._run.log_artifact(artifact, aliases=["latest", f"step-{found.step}"])

    def log(self, values: dict[str, Any], step: int) -> None:
        if self._row is not None and self._row[0] == self._run.step and self._row[1] != step:
            self._run.log({}, commit=True)
        self._row = (self._run.step, step)
        self._run.log({**values, "hfc_step": step}, commit=False)


class _LightningWandb(_WandbRun):
    """Lightning's WandbLogger, whose charts are over ``trainer/global_step``."""

    def __init__(self, logger: Any) -> None:
        Collector.__init__(self)
        self._run, self._logger = logger.experiment, logger

    def log(self, values: dict[str, Any], step: int) -> None:
        self._logger.log_metrics(values, step)


class _MlflowRun(Collector):
    """An MLflow run: metrics, and pictures and JSON as artifacts under ``hfc_probe/``."""

    def __init__(self, client: Any, run_id: str) -> None:
        super().__init__()
        self._client, self._id = client, run_id

    def write(self, found: Found) -> None:
        metric, now = _installed("mlflow.entities").Metric, int(1000 * time.time())
        metrics = [
            metric(re.sub(r"[^\w/. -]", "_", tag), value, now, found.step)
            for tag, value in found.scalars.items()
        ]
        for start in range(0, len(metrics), _BATCH):
            self._client.log_batch(self._id, metrics[start : start + _BATCH])
        for tag, image in found.images.items():
            path = f"hfc_probe/{_file(tag, found.step)}.png"
            self._client.log_image(self._id, image, path)
        for name, result in found.results.items():
            path = f"hfc_probe/{_file(name, found.step)}.json"
            self._client.log_dict(self._id, result, path)


def _plain(tag: str) -> str:
    """A tag without what file systems refuse."""
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in tag)


def _file(tag: str, step: int) -> str:
    """A file's name for a tag at a step."""
    return f"{_plain(tag)}_{step:08d}"


def _png(image: Image) -> bytes:
    import PIL.Image

    buffer = io.BytesIO()
    PIL.Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()
