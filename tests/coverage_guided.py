"""Coverage-guided fuzzing of the JSON readers, where atheris is installed (pip install atheris).

    python -m tests.coverage_guided report -max_total_time=60

The first argument is one of report, coco, results, store, metadata and state; the rest is
libFuzzer's. It ends with the first input that gives anything but an answer or one sentence.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

READERS = [
    "hfc_probe.cli.comparison",
    "hfc_probe.cli.page",
    "hfc_probe.cli.stored",
    "hfc_probe.probe.state",
    "hfc_probe.detection.coco",
    "hfc_probe.detection.store",
    "tensorboard_plugin_hfc.metadata",
    "json.decoder",
    "json.scanner",
]


def main() -> None:
    import atheris
    import torch  # noqa: F401  (before the instrumentation, which it has no need of)

    with atheris.instrument_imports(include=READERS):
        from tensorboard_plugin_hfc import metadata

        from hfc_probe import InputError
        from hfc_probe.cli import comparison, stored
        from hfc_probe.cli import page as report
        from hfc_probe.detection import coco, store
        from hfc_probe.probe import state as probe_state
    from tests.promises.test_fuzz_json import (
        COCO,
        DETECTED,
        FINGERPRINT,
        FINISHED,
        RESULT,
        one_sentence,
    )

    which = sys.argv.pop(1)
    folder = Path(tempfile.mkdtemp())
    for name in ("a", "b", "seeds"):
        (folder / name).mkdir()
    (folder / "a" / "frequency_accuracy.json").write_text(json.dumps(RESULT))
    truth = coco.GroundTruth.read(COCO)

    def read_report(data: bytes) -> None:
        (folder / "b" / "frequency_accuracy.json").write_bytes(data)
        a, b = stored.read_run(folder / "a"), stored.read_run(folder / "b")
        report.page(comparison.compare(a, b)).encode()

    def read_coco(data: bytes) -> None:
        (folder / "file.json").write_bytes(data)
        coco.GroundTruth.read(folder / "file.json")

    def read_results(data: bytes) -> None:
        (folder / "file.json").write_bytes(data)
        coco.from_results(folder / "file.json", truth)

    def read_store(data: bytes) -> None:
        head = json.dumps(FINGERPRINT).encode()
        (folder / "part-000.jsonl").write_bytes(b"\n".join([head, data, b""]))
        store.PredictionStore(folder, FINGERPRINT)

    def read_metadata(data: bytes) -> None:
        try:
            metadata.parse(data).plain()
        except metadata.ContentError as error:
            one_sentence(error)

    def read_state(data: bytes) -> None:
        try:
            state = json.loads(data)
        except (ValueError, RecursionError):
            return
        probe_state.ProbeState.read(state)

    axes = [{"name": "r", "unit": "cycles", "values": [1, 2]}]
    entry = {"due": 1, "runs": 1, "failures": 0, "waiting": False, "last": [3, 1]}
    times = {"elapsed": 1.0, "spent": 0.5, "seconds": {"k": 0.1}}
    read, seed = {
        "report": (read_report, RESULT),
        "coco": (read_coco, COCO),
        "results": (read_results, DETECTED),
        "store": (read_store, FINISHED),
        "metadata": (read_metadata, {"version": 1, "measurement": "m", "array": "a", "axes": axes}),
        "state": (
            read_state,
            {"version": 1, "steps": 3, "epochs": 1, **times, "measurements": {"k": entry}},
        ),
    }[which]
    (folder / "seeds" / "seed").write_text(json.dumps(seed))

    def one(data: bytes) -> None:
        try:
            read(data)
        except InputError as error:
            one_sentence(error)

    atheris.Setup([*sys.argv, str(folder / "seeds")], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
