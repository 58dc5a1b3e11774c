"""Hostile JSON and hostile checkpoint states: one sentence or an answer, never a traceback.

HFC_PROBE_FUZZ=N runs N inputs of each kind instead of the few of the default run.
"""

from __future__ import annotations

import copy
import json
import math
import struct
import tempfile
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import hfc_probe
from hfc_probe import Every, FrequencyAccuracy, InputError, KernelSpectra, Samples
from hfc_probe.cli.checkpoints import load_weights, read_checkpoint
from hfc_probe.cli.main import main
from hfc_probe.detection.coco import GroundTruth, from_results
from hfc_probe.detection.store import PredictionStore

from .test_fuzz import damaged, often

RESULT = {
    "hfc_probe": "0.1",
    "measurement": "frequency_accuracy",
    "settings": {"radii": [2, 4], "hfc_background": "zero"},
    "samples": 16,
    "summary": "Accuracy is 50 %.",
    "scalars": {"hfc_lfc/r02": 0.5, "hfc_hfc/r02": 0.25, "hfc_gap/area": None},
    "intervals": {"hfc_lfc/r02": [0.4, 0.6], "hfc_hfc/r02": [0.2, 0.3]},
    "arrays": {"lfc": [0.5, 0.25]},
}
COCO = {
    "images": [{"id": 1, "file_name": "a.png", "width": 8, "height": 8}],
    "categories": [{"id": 3, "name": "cat"}],
    "annotations": [
        {"id": 7, "image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0}
    ],
}
DETECTED = [{"image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 4], "score": 0.5}]
FINGERPRINT = {"detector": "d", "radii": [4]}
FINISHED = {
    "image_id": 1,
    "variants": {"original": {"boxes": [[1, 2, 3, 4]], "scores": [0.5], "labels": [3]}},
}

# Written as text: most of it is nothing that json.dumps would write.
HOSTILE = (
    *("null", "true", "-1", "0.5", "1e999", "-1e999", "NaN", "-Infinity", "1e308", "[]", "{}"),
    *('""', '"\\ud800"', '"\\u001b[31m"', '"<script>alert(1)</script>"', '"a\\nb"', '"0"'),
    *("[1]", "[1,2,3]", "[[],[]]", '{"a":{"b":[]}}', "[NaN,Infinity]", "[true,false]"),
    *("9" * 30, "9" * 400, "9" * 5000, f"[{'9' * 400},{'9' * 401}]"),
    *("[" * n + "]" * n for n in (60, 400, 900, 100_000)),
    *('{"a":' * n + "1" + "}" * n for n in (60, 900)),
)


def places(value, path=()):
    """Every place in a document: paths of keys and indices."""
    yield path
    if isinstance(value, (dict, list)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in list(items):
            yield from places(inner, (*path, key))


@st.composite
def hostile(draw, document) -> bytes:
    """A document with pieces exchanged for hostile ones, left out, or there twice."""
    content = json.loads(json.dumps(document))
    pieces = {}
    for k in range(draw(st.integers(1, 3))):
        *path, last = draw(st.sampled_from([p for p in places(content) if p] or [("",)]))
        owner = content
        for key in path:
            owner = owner[key]
        kind = draw(st.sampled_from(["replace", "remove", "twice"]))
        pieces[f"@{k}@"] = draw(st.sampled_from(HOSTILE))
        if last == "":
            break
        if kind == "remove":
            del owner[last]
        elif kind == "twice" and isinstance(owner, dict):
            owner[f"@twice{k}@{last}"] = f"@{k}@"
        else:
            owner[last] = f"@{k}@"
    text = json.dumps(content)
    for marker, piece in pieces.items():
        text = text.replace(json.dumps(marker), piece)
        text = text.replace(f"@twice{marker.strip('@')}@", "")
    return text.encode()


def documents(document):
    whole = json.dumps(document).encode()
    bare = st.sampled_from(HOSTILE).map(str.encode)
    return st.one_of(hostile(document), hostile(document), damaged(whole), bare)


def one_sentence(error: BaseException) -> None:
    if "\n" in str(error) or len(str(error)) > 1000:
        pytest.fail(f"more than one sentence: {str(error)[:2000]}")
    str(error).encode()  # can be printed


@pytest.mark.slow
def test_report_of_hostile_results():
    @often
    @given(documents(RESULT), st.booleans())
    def run(content, first):
        with tempfile.TemporaryDirectory() as folder:
            a, b = Path(folder, "a"), Path(folder, "b")
            for path, text in ((a, json.dumps(RESULT).encode()), (b, content)):
                path.mkdir()
                (path / "frequency_accuracy.json").write_bytes(text)
            pair = [str(b), str(a)] if first else [str(a), str(b)]
            done = CliRunner().invoke(main, ["report", *pair, "--out", str(Path(folder, "page"))])
            assert done.exception is None or isinstance(done.exception, SystemExit), content[:500]
            assert done.exit_code in (0, 2)
            assert "Traceback" not in done.output
            assert (done.exit_code == 0) == Path(folder, "page").exists()
            if done.exit_code:
                one_sentence(Exception(done.output.strip()))

    run()


def read_annotations(path):
    GroundTruth.read(path)


def read_results(path):
    from_results(path, GroundTruth.read(COCO))


def read_finished(path):
    path.rename(path.with_name("part-000.jsonl"))
    PredictionStore(path.parent, FINGERPRINT)


@pytest.mark.parametrize(
    ("read", "document"),
    [(read_annotations, COCO), (read_results, DETECTED), (read_finished, FINISHED)],
    ids=["annotations", "results", "finished images"],
)
def test_hostile_coco_files(read, document):
    refused = []

    @often
    @given(documents(document), st.booleans())
    def run(content, whole):
        if read is read_finished:
            head = json.dumps(FINGERPRINT).encode() if whole else content
            content = b"\n".join([head, content, b""])
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "file.json")
            path.write_bytes(content)
            try:
                read(path)
            except InputError as error:
                one_sentence(error)
                refused.append(error)

    run()
    assert refused


def probe():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    samples = Samples(torch.rand(4, 3, 8, 8), torch.arange(4))
    measurements = {KernelSpectra(): Every(steps=2), FrequencyAccuracy(radii=(2,)): Every(epochs=1)}
    return hfc_probe.attach(model, samples, measurements=measurements, budget=1.0, strict=True)


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=4),
    st.sampled_from([10**400, -(10**30), math.inf, math.nan, 2**63, b"x", [], {}, [1], {"a": 1}]),
    st.just(torch.zeros(2)),
    st.just(torch.tensor(3)),
)


@st.composite
def states(draw, whole):
    state = json.loads(json.dumps(whole))
    for _ in range(draw(st.integers(1, 3))):
        *path, last = draw(st.sampled_from([p for p in places(state) if p]))
        owner = state
        for key in path:
            owner = owner[key]
        if draw(st.booleans()):
            owner[last] = copy.deepcopy(draw(VALUES))
        elif isinstance(owner, dict):
            del owner[last]
            if draw(st.booleans()):
                owner[draw(st.one_of(st.text(max_size=6), st.integers()))] = copy.deepcopy(
                    draw(VALUES)
                )
        if not state:
            break
    return state


def test_hostile_states_are_refused_whole_or_go_on():
    whole = probe().state_dict()

    @often
    @given(st.one_of(states(whole), VALUES))
    def run(state):
        fresh = shared
        before = fresh.state_dict()
        try:
            fresh.load_state_dict(state)
        except InputError as error:
            one_sentence(error)
            now = fresh.state_dict()
            before["elapsed"] = now["elapsed"] = 0
            assert now == before  # refused whole
            return
        fresh.step()
        fresh.end_epoch()
        json.dumps(fresh.state_dict())

    shared = probe()
    run()


def test_what_long_fuzzing_found():
    """Inputs that the few of a default run hardly meet."""
    odd = json.loads(json.dumps(COCO))
    odd["annotations"][0]["image_id"] = "\ud800"
    with pytest.raises(InputError, match="among its own images") as told:
        GroundTruth.read(odd)
    one_sentence(told.value)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "w.pth")
        torch.save({"a\nb\n": torch.ones(1)}, path)
        with pytest.raises(InputError, match="unknown a b") as told:
            load_weights(nn.Linear(1, 1), read_checkpoint(path), "w.pth")
        one_sentence(told.value)
        # An archive's end that speaks of several disks, behind something that is no archive.
        locator = struct.pack("<4sLQL", b"PK\x06\x07", 1, 0, 2)
        end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, 10, 0, 0)
        path.write_bytes(bytes(200) + locator + end)
        with pytest.raises(InputError, match="expected a PyTorch checkpoint"):
            read_checkpoint(path)
