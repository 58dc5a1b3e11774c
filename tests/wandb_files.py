"""What an offline wandb run has written."""

from __future__ import annotations

import json
import struct
import time


def records(path):
    """Payloads of a .wandb file: a LevelDB log, in blocks of 32 KiB, after a header of 7 bytes."""
    data, at, whole = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        rest = 2**15 - at % 2**15
        if rest < 7:  # no room for another header in this block
            at += rest
            continue
        _, size, kind = struct.unpack_from("<IHB", data, at)
        whole += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # in one piece, or its last
            yield whole
            whole = b""


def history(folder):
    """Rows of an offline wandb run, as its file holds them, and the names of its artifacts."""
    from wandb.proto import wandb_internal_pb2

    path = next(folder.rglob("*.wandb"))
    for _ in range(100):  # it is written by another process
        found = [wandb_internal_pb2.Record.FromString(data) for data in records(path)]
        kinds = [record.WhichOneof("record_type") for record in found]
        if "exit" in kinds:
            break
        time.sleep(0.1)
    of = {
        kind: [one for one, other in zip(found, kinds, strict=True) if other == kind]
        for kind in kinds
    }
    rows = [
        {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in one.history.item}
        for one in of["history"]
    ]
    return rows, {one.artifact.name for one in of["artifact"]}
