"""What the reader takes for ours."""

import json

import pytest
from tensorboard_plugin_hfc.metadata import Content, ContentError, parse

from hfc_probe.core import event_file

GOOD = {
    "version": 1,
    "hfc_probe": "0.1.0",
    "measurement": "fourier_heatmap",
    "array": "error",
    "unit": "error rate",
    "axes": [{"name": "i", "values": [-1, 0, 1]}, {"name": "kernel"}],
    "norm": 4.0,
}


def test_version_1_is_read_with_everything_beside_it():
    content = parse(json.dumps(GOOD).encode())
    assert (content.measurement, content.array, content.unit) == (
        "fourier_heatmap",
        "error",
        "error rate",
    )
    assert content.plain()["norm"] == 4.0
    assert content.mismatch((3, 99)) is None
    assert content.mismatch((4, 99)) == "expected 3×any, got 4×99"
    assert content.mismatch(()) == "expected 3×any, got a number"


def test_what_the_library_writes_is_a_version_that_the_tab_reads():
    assert parse(json.dumps(GOOD | {"version": event_file.CONTENT_VERSION}).encode())


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"\xff\xfe", "not JSON"),
        (b"", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"3", "no version"),
        (b"{}", "no version"),
        (json.dumps(GOOD | {"version": 2}).encode(), "version 2"),
        (json.dumps(GOOD | {"version": True}).encode(), "version True"),
        (json.dumps(GOOD | {"measurement": 3}).encode(), "no measurement"),
        (json.dumps(GOOD | {"axes": "rows"}).encode(), "no axes"),
        (json.dumps(GOOD | {"axes": [{"name": "i", "values": [None]}]}).encode(), "no axes"),
        (json.dumps(GOOD | {"axes": [{"name": "i", "values": [float("nan")]}]}).encode(), "axes"),
    ],
)
def test_anything_else_is_a_sentence(content, sentence):
    with pytest.raises(ContentError, match=sentence):
        parse(content)


def test_an_axis_may_have_names_for_places():
    axes = [{"name": "metric", "values": ["AP", "AP50"]}]
    assert parse(json.dumps(GOOD | {"axes": axes}).encode()).mismatch((2,)) is None


def test_a_number_has_no_axes():
    assert Content("progress", "epoch", "epoch", (), {}).mismatch(()) is None
