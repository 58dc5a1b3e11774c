"""Wall clock and processor time, of calls that take turns."""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Times = dict[str, float]


def seconds(call: Callable[[], Any]) -> Times:
    """Wall clock and processor time (of this process, all threads) of a call."""
    wall, processor = time.perf_counter(), time.process_time()
    call()
    return {"wall": time.perf_counter() - wall, "processor": time.process_time() - processor}


def medians(rows: Sequence[Times]) -> Times:
    return {clock: statistics.median(row[clock] for row in rows) for clock in rows[0]}


def in_turn(calls: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, Times]:
    """Medians of each call, after one to warm up; a busy machine slows neighbours alike."""
    rows: dict[str, list[Times]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            taken = seconds(call)
            if turn:
                rows[name].append(taken)
    return {name: medians(own) for name, own in rows.items()}


def commit() -> str:
    """The version that is measured, in short."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()
