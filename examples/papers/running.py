"""Runs a recipe seed by seed, keeps what each gave, and draws and judges all of them."""

from __future__ import annotations

import ast
import hashlib
import importlib
import json
import platform
import time
from collections.abc import Callable, Sequence, Sized
from dataclasses import asdict, replace
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

# How the parts of a recipe begin that change none of its numbers.
NO_NUMBERS = (
    "def figure",
    "def bars",
    "def claims_of_any",
    "BARS",
    "CLAIMS",
    "DIFFERS",
    "SCALES",
    "SOURCE",
)


def recipe(name: str) -> ModuleType:
    """The module of a recipe by its name."""
    return importlib.import_module(f"{__package__}.{name}")


def reproduce(
    name: str,
    scale: str,
    *,
    dataset: str,
    root: Path,
    out: Path,
    seeds: int | None = None,
    say: Callable[[str], Any] = print,
) -> list[Verdict]:
    """All seeds of a recipe at a scale, then its figure, JSON and table in `out/NAME/…`."""
    module = recipe(name)
    setting: Training = module.SCALES[scale]
    if seeds is not None:
        setting = replace(setting, seeds=tuple(range(seeds)))
    folder = out / name / f"{scale}-{dataset}"
    runs = []
    for seed in setting.seeds:
        place = folder / f"seed{seed}"
        kept = {"settings": _plain(setting), "code": code(module)}
        runs.append(
            _read(place, kept) or _run(module, setting, dataset, root, seed, place, kept, say)
        )
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
        "seconds": [took for _, took in runs],
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
    say(f"\n{report['claim']} ({module.SOURCE}; {scale}, {dataset}, {counted(runs)})")
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
    kept: dict[str, Any],
    say: Callable[[str], Any],
) -> tuple[Numbers, dict[str, float]]:
    data = getattr(module, "load", load)(dataset, root, setting, seed)
    trainings = module.trainings(setting)
    if trainings and seed == setting.seeds[0]:
        expected = trainings * seconds_per_training(setting, data.train, len(data.classes))
        say(
            f"{place.parent}: about {duration(expected)} a seed and what the probes take, "
            f"{counted(setting.seeds)}"
        )
    place.mkdir(parents=True, exist_ok=True)
    for old in place.rglob("events.out.*"):  # of a run that was interrupted
        old.unlink()
    clocks = {"processor": time.process_time, "elapsed": time.perf_counter}
    began = {name: clock() for name, clock in clocks.items()}
    numbers = module.run(setting, data, seed, place)
    seconds = {name: clock() - began[name] for name, clock in clocks.items()}
    arrays = {key: value for key, value in numbers.items() if isinstance(value, np.ndarray)}
    np.savez_compressed(place / "arrays.npz", **arrays)
    plain_numbers = {key: value for key, value in numbers.items() if key not in arrays}
    kept = {**kept, "seconds": seconds, "numbers": plain_numbers}
    # The last file written: if it is there, the run is complete.
    (place / "run.json").write_text(json.dumps(kept), encoding="utf-8")
    say(f"seed {seed}: {spent([seconds])}")
    return numbers, seconds


def _read(place: Path, expected: dict[str, Any]) -> tuple[Numbers, dict[str, float]] | None:
    """What a finished run of these settings and this code gave; None if there is none."""
    if not (place / "run.json").is_file():
        return None
    kept = json.loads((place / "run.json").read_text(encoding="utf-8"))
    if any(kept.get(key) != value for key, value in expected.items()):
        return None
    with np.load(place / "arrays.npz") as arrays:
        return kept["numbers"] | dict(arrays), kept["seconds"]


def code(module: ModuleType) -> str:
    """A digest of what makes a recipe's numbers: its code and that of the modules it imports here.

    Comments and what draws and judges are left out, as are the settings, which are compared
    themselves.
    """
    parts, files = [], [Path(module.__file__ or "")]
    for file in files:
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ImportFrom) and node.level:
                folder = file.parents[node.level - 1]
                modules = [node.module] if node.module else [each.name for each in node.names]
                found = [folder / f"{name}.py" for name in modules]
                files += [each for each in found if each not in files and each.stem != "figures"]
            elif isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Assign | ast.AugAssign):
                part = ast.unparse(node)
                parts += [] if part.startswith(NO_NUMBERS) else [part]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _plain(setting: Training) -> dict[str, Any]:
    """The settings as JSON gives them back; more seeds do not make a finished one invalid."""
    settings = {k: v for k, v in asdict(setting).items() if k != "seeds"}
    return json.loads(json.dumps(settings))


def spent(seconds: Sequence[dict[str, float]]) -> str:
    """The processor's time, and the clock's, of some runs."""
    processor, elapsed = (sum(run[key] for run in seconds) for key in ("processor", "elapsed"))
    return f"{duration(processor)} of processor time ({duration(elapsed)} elapsed)"


def counted(seeds: Sized) -> str:
    return f"{len(seeds)} seed{'s' if len(seeds) != 1 else ''}"


def duration(seconds: float) -> str:
    """Seconds in the unit that suits them.

    >>> duration(5400), duration(90), duration(0.4)
    ('1.5 h', '1.5 min', '0.4 s')
    """
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"
