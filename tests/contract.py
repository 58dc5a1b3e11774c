"""What every measurement owes, built in or a user's own: ``tests/measurements/test_contract.py``.

Each function takes a result, and fails if the result breaks one promise of
:class:`hfc_probe.Result`.
"""

from __future__ import annotations

import dataclasses
import io
import json
import pickle

import numpy as np
import pytest
from PIL import Image

import hfc_probe
from hfc_probe.core.drawing import png

# Lines that are computed for the figure: a fit, a mean. Matplotlib names unlabelled ones "_…".
DERIVED = ("_", "fit", "mean over", "model", "people")
UNITS = ("cycles", "(", "%", "accuracy", "rate", "share", "number", "count", "power", "smoothness")


def is_labelled(result):
    """Every scalar has a label, in words that differ, and finite labels of radii."""
    scalars, labels = result.scalars(), result.labels()
    assert np.isfinite(list(scalars.values())).all()
    assert set(scalars) <= set(labels)
    assert all(tag.startswith("hfc_") and tag.count("/") >= 1 for tag in scalars)
    texts = [labels[tag].text for tag in scalars]
    assert all(texts)
    assert len(set(texts)) == len(texts)


def intervals_hold_their_values(result):
    """Bounds of scalars and of arrays stand on the two sides of what they bound."""
    scalars = result.scalars()
    for tag, (low, high) in result.intervals().items():
        assert low - 1e-9 <= scalars[tag] <= high + 1e-9, tag
    arrays = result.arrays()
    bounded = [name.removesuffix("_lower") for name in arrays if name.endswith("_lower")]
    bounded += ["error"] if "lower" in arrays and "error" in arrays else []
    for name in bounded:
        prefix = "" if name == "error" and "error_lower" not in arrays else f"{name}_"
        if name not in arrays:
            continue
        low, value, high = (arrays[n] for n in (f"{prefix}lower", name, f"{prefix}upper"))
        known = np.isfinite(low) & np.isfinite(value) & np.isfinite(high)
        assert (low[known] <= value[known] + 1e-9).all(), name
        assert (value[known] <= high[known] + 1e-9).all(), name


def survives_json(result, folder):
    """JSON without NaN that holds the scalars, arrays, sentence and where all of it comes from."""
    path = result.save(folder / f"{result.name}.json")
    loaded = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert loaded["measurement"] == result.name
    assert loaded["summary"] == result.sentence()
    assert loaded["scalars"] == pytest.approx(result.scalars())
    for name, array in result.arrays().items():
        if np.issubdtype(array.dtype, np.number) and not name.startswith("example_"):
            kept = np.array(loaded["arrays"][name], dtype=float).reshape(array.shape)
            np.testing.assert_allclose(kept, array.astype(float), err_msg=name)
    for key in ("version", "date", "samples", "model"):
        assert loaded["provenance"][key] is not None
    assert [p.name for p in folder.rglob(".*")] == []  # no temporary file stays


def is_frozen_and_pickles(result):
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.settings = {}
    again = pickle.loads(pickle.dumps(result))
    assert again.scalars() == pytest.approx(result.scalars(), nan_ok=True)


def figure_shows_the_arrays(result):
    """Axes say what they show and in which unit; lines and maps are the arrays' numbers."""
    figure = result.figure()
    shown = [one for one in figure.axes if one.get_visible() and one.axison]
    assert shown
    known = [np.unique(np.round(v[np.isfinite(v)].astype(float), 6)) for v in _numbers(result)]
    named = 0
    for axes in shown:
        labels = [text for text in (axes.get_xlabel(), axes.get_ylabel()) if text]
        named += any(unit in text for text in labels for unit in UNITS)
        for line in axes.get_lines():
            values = np.asarray(line.get_ydata(), dtype=float)
            if len(values) > 2 and not str(line.get_label()).startswith(DERIVED):
                assert any(_within(values, one) for one in known), line.get_label()
    assert named, "no axis says its unit"
    picture = np.asarray(Image.open(io.BytesIO(png(figure))))
    assert picture.std() > 5
    assert min(picture.shape[:2]) > 300


def _numbers(result):
    """Numbers that a line may show: arrays as they are, as percentages, as logarithms."""
    for array in result.arrays().values():
        if array.size and np.issubdtype(array.dtype, np.number):
            yield array.ravel()
            yield 100 * array.ravel()
            with np.errstate(all="ignore"):
                yield np.log10(array.ravel().astype(float))


def _within(values, known):
    values = np.round(values[np.isfinite(values)], 6)
    return bool(len(known)) and np.isin(values, known).all()


def text_and_page_show_the_numbers(result):
    assert result.sentence() in " ".join(str(result).split())
    html = result._repr_html_()
    assert "<table" in html
    assert "data:image/png;base64," in html


def reaches_the_event_file(result, folder):
    """TensorBoard's own reader finds every scalar and the arrays."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder)) as writer:
        result.log(writer, 3)
    log = EventAccumulator(str(folder), {"scalars": 0, "tensors": 0}).Reload()
    found = {tag: log.Scalars(tag)[0] for tag in log.Tags()["scalars"]}
    assert set(result.scalars()) <= set(found)
    for tag, value in result.scalars().items():
        assert found[tag].step == 3
        assert found[tag].value == pytest.approx(value, rel=1e-5, abs=1e-6)
    assert any(tag.startswith(f"{result.name}/") for tag in log.Tags()["tensors"])


def fulfil(result: hfc_probe.Result, folder):
    """All of it."""
    is_labelled(result)
    intervals_hold_their_values(result)
    survives_json(result, folder / "json")
    is_frozen_and_pickles(result)
    figure_shows_the_arrays(result)
    text_and_page_show_the_numbers(result)
    reaches_the_event_file(result, folder / "log")
