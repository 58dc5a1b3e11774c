"""A real TensorBoard with each of its two loaders."""

import json
import time
import urllib.request
from urllib.error import HTTPError

import numpy as np
import pytest

from .conftest import EPOCHS, START_SECONDS, tensorboard_server
from .runs import write_run
from .test_plugin import unpacked


def fetch(url: str):
    with urllib.request.urlopen(url, timeout=20) as answer:
        return answer.headers, answer.read()


def wait_for(address, **steps):
    """Until the server has read the runs up to these steps; it answers before that."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        tensors = json.loads(fetch(f"{address}/data/plugin/hfc/index")[1])["tensors"]
        last = {run: min((n[1] for n in tensors.get(run, {}).values()), default=0) for run in steps}
        if last == steps:
            return
        time.sleep(0.1)
    pytest.fail(f"expected the server to read {steps}, got {last}")


@pytest.fixture(scope="module", params=["true", "false"], ids=["rust", "python"])
def either(request, environment, logs):
    with tensorboard_server(environment, logs, "--load_fast", request.param) as address:
        wait_for(address, rough=20 * EPOCHS, smooth=20 * EPOCHS)
        yield address


def test_both_loaders_give_the_same_numbers(either):
    _, data = fetch(f"{either}/data/plugin/hfc/tensors?run=rough&tag=frequency_accuracy/hfc")
    head, values = unpacked(data)["rough", "frequency_accuracy/hfc"]
    assert head["steps"] == [20 * epoch for epoch in range(1, EPOCHS + 1)]
    np.testing.assert_allclose(values[-1], [0.6, 0.4, 0.2, 0.125], atol=0.006)
    index = json.loads(fetch(f"{either}/data/plugin/hfc/index")[1])
    assert [run["name"] for run in index["runs"]] == ["rough", "smooth"]
    assert len(index["tensors"]["smooth"]) == len(index["tensors"]["rough"]) > 20


def test_the_tab_is_offered_and_served(either):
    listing = json.loads(fetch(f"{either}/data/plugins_listing")[1])["hfc"]
    assert (listing["enabled"], listing["tab_name"]) == (True, "HFC")
    headers, _ = fetch(f"{either}/data/plugin_entry.html?name=hfc")
    assert "script-src 'self'" in headers["Content-Security-Policy"]


@pytest.mark.parametrize(
    "path", ["..%2fplugin.py", "%2e%2e/loader.py", "%2e%2e%2f%2e%2e%2fsetup.py"]
)
def test_no_way_out_of_the_static_folder(either, path):
    with pytest.raises(HTTPError) as caught:
        fetch(f"{either}/data/plugin/hfc/static/{path}")
    assert caught.value.code == 404


def test_more_steps_are_kept_than_tensorboard_would_by_itself(environment, tmp_path):
    write_run(tmp_path / "run", 130, uses_hfc=True, parts=("curves",))
    kept = {}
    for loader, flags in (("true", ()), ("false", ("--samples_per_plugin", "hfc=5"))):
        with tensorboard_server(environment, tmp_path, "--load_fast", loader, *flags) as address:
            wait_for(address, run=20 * 130)
            query = "run=run&tag=frequency_accuracy/hfc"
            _, data = fetch(f"{address}/data/plugin/hfc/tensors?{query}")
        head, _ = unpacked(data)["run", "frequency_accuracy/hfc"]
        kept[loader] = len(head["steps"])
    assert kept["true"] == 130
    assert kept["false"] <= 6  # the user's flag wins
