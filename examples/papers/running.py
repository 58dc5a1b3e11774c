"""Runs a recipe seed by seed, keeps what each gave, and draws and judges all of them."""

from __future__ import annotations

import importlib
import json
import platform
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from tabulate import tabulate

import hfc_probe

from .claims import Numbers, Verdict, judge
from .data import load
from .training import Training, seconds_per_training


def recipe(name: str) -> ModuleType:
    """The module of a recipe by its name."""
    return importlib.import_module(f"{__package__}.{name}")


def reproduce(
    name: str, scale: str, *, dataset: str, root: Path, out: Path, say: Callable[[str], Any] = print
) -> list[Verdict]:
    """All seeds of a recipe at a scale, then its figure, JSON and table in `out/NAME/…`."""
    module = recipe(name)
    setting: Training = module.SCALES[scale]
    folder = out / name / f"{scale}-{dataset}"
    runs = []
    for seed in setting.seeds:
        place = folder / f"seed{seed}"
        runs.append(_read(place, setting) or _run(module, setting, dataset, root, seed, place, say))
    verdicts = [judge(claim, [numbers for numbers, _ in runs]) for claim in module.CLAIMS]
    figure = module.figure([numbers for numbers, _ in runs])
    figure.savefig(folder / "figure.png", dpi=150)
    report = {
        "recipe": name,
        "source": module.SOURCE,
        "claim": (module.__doc__ or "").splitlines()[0],
        "scale": scale,
        "dataset": dataset,
        "settings": asdict(setting),
        "seconds": [seconds for _, seconds in runs],
        "claims": [
            {key: None if value != value else value for key, value in asdict(v).items()}
            | {"verdict": v.verdict, "ours": v.ours}
            for v in verdicts  # JSON has no NaN
        ],
        "numbers": {
            str(seed): {k: v for k, v in numbers.items() if not isinstance(v, np.ndarray)}
            for seed, (numbers, _) in zip(setting.seeds, runs, strict=True)
        },
        "versions": versions(),
    }
    (folder / "result.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    say(f"\n{report['claim']} ({module.SOURCE}; {scale}, {dataset}, {len(runs)} seeds)")
    say(table(verdicts))
    say(f"{folder / 'figure.png'}   tensorboard --logdir {folder}")
    return verdicts


def table(verdicts: list[Verdict]) -> str:
    """Claim, the paper's numbers, ours and the verdict, as text."""
    rows = [(v.claim.text, v.claim.paper, v.ours, v.verdict) for v in verdicts]
    heads = ("claim", "paper", "ours: difference [95 %]", "verdict")
    return tabulate(rows, heads, tablefmt="simple", maxcolwidths=[44, 26, 30, 14])


def versions() -> dict[str, str]:
    return {
        "hfc_probe": hfc_probe.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }


def _run(
    module: ModuleType,
    setting: Training,
    dataset: str,
    root: Path,
    seed: int,
    place: Path,
    say: Callable[[str], Any],
) -> tuple[Numbers, float]:
    data = load(dataset, root, setting, seed)
    if seed == setting.seeds[0]:
        plain = seconds_per_training(setting, data.train, len(data.classes))
        expected = plain * module.trainings(setting)
        say(
            f"{place.parent}: about {duration(expected)} a seed and what the probes take, "
            f"{len(setting.seeds)} seeds"
        )
    place.mkdir(parents=True, exist_ok=True)
    for old in place.rglob("events.out.*"):  # of a run that was interrupted
        old.unlink()
    began = time.perf_counter()
    numbers = module.run(setting, data, seed, place)
    seconds = time.perf_counter() - began
    arrays = {key: value for key, value in numbers.items() if isinstance(value, np.ndarray)}
    np.savez_compressed(place / "arrays.npz", **arrays)
    plain_numbers = {key: value for key, value in numbers.items() if key not in arrays}
    kept = {"settings": _plain(setting), "seconds": seconds, "numbers": plain_numbers}
    # The last file written: if it is there, the run is complete.
    (place / "run.json").write_text(json.dumps(kept), encoding="utf-8")
    say(f"seed {seed}: {duration(seconds)}")
    return numbers, seconds


def _read(place: Path, setting: Training) -> tuple[Numbers, float] | None:
    """What a finished run with these settings gave; None if there is none."""
    if not (place / "run.json").is_file():
        return None
    kept = json.loads((place / "run.json").read_text(encoding="utf-8"))
    if kept["settings"] != _plain(setting):
        return None
    with np.load(place / "arrays.npz") as arrays:
        return kept["numbers"] | dict(arrays), kept["seconds"]


def _plain(setting: Training) -> dict[str, Any]:
    """The settings as JSON gives them back; more seeds do not make a finished one invalid."""
    settings = {k: v for k, v in asdict(setting).items() if k != "seeds"}
    return json.loads(json.dumps(settings))


def duration(seconds: float) -> str:
    """Seconds in the unit that suits them.

    >>> duration(5400), duration(90), duration(0.4)
    ('1.5 h', '1.5 min', '0.4 s')
    """
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"
