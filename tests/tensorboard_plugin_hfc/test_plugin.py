"""The routes, in process: every answer has a status, and bytes are what was logged."""

import json
import struct
import subprocess
import sys
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from tensorboard.backend import application
from tensorboard.backend.event_processing import data_provider, plugin_event_multiplexer
from tensorboard.compat.proto.summary_pb2 import (
    DATA_CLASS_TENSOR,
    Summary,
    SummaryMetadata,
)
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.plugins import base_plugin
from tensorboard.util import tensor_util
from tensorboard.util.tensor_util import make_tensor_proto
from tensorboard_plugin_hfc import plugin as routes
from tensorboard_plugin_hfc.loader import HfcLoader
from torch.utils.tensorboard import SummaryWriter
from werkzeug.test import Client

import hfc_probe

from ..conftest import ROOT
from .runs import RADII, accuracy_result, heatmap_result

BASE = "/data/plugin/hfc"


def client_of(log_dir, *, with_store: bool = True) -> Client:
    """The routes; TensorBoard's Rust server has a data provider and no store."""
    multiplexer = plugin_event_multiplexer.EventMultiplexer(tensor_size_guidance={"hfc": 1000})
    multiplexer.AddRunsFromDirectory(str(log_dir))
    multiplexer.Reload()
    provider = data_provider.MultiplexerDataProvider(multiplexer, str(log_dir))
    store = multiplexer if with_store else None
    plugin = HfcLoader().load(base_plugin.TBContext(data_provider=provider, multiplexer=store))
    return Client(application.TensorBoardWSGI([plugin], data_provider=provider))


def index_of(client) -> dict:
    answer = client.get(f"{BASE}/index")
    assert answer.status_code == 200
    return json.loads(answer.data)


def unpacked(data: bytes) -> dict[tuple[str, str], tuple[dict, np.ndarray]]:
    """By run and tag: the header's entry and the values, read independently of pack()."""
    (length,) = struct.unpack("<I", data[:4])
    header = json.loads(data[4 : 4 + length])
    values = np.frombuffer(data[4 + length :], "<f4")
    out = {}
    for head in header["series"]:
        shape = (len(head["steps"]), *head["shape"])
        size = int(np.prod(shape)) if head["steps"] else 0
        own = values[head["offset"] : head["offset"] + size]
        out[head["run"], head["tag"]] = head, own.reshape(shape) if size else own
    return out


def tensors_of(client, run: str, tag: str, **more):
    answer = client.get(f"{BASE}/tensors", query_string={"run": run, "tag": tag, **more})
    assert answer.status_code == 200
    assert answer.content_type == "application/octet-stream"
    return unpacked(answer.data)[run, tag]


@pytest.fixture(scope="module")
def client(logs):
    return client_of(logs)


def test_the_index_names_runs_arrays_and_scalars(client):
    index = index_of(client)
    assert [run["name"] for run in index["runs"]] == ["rough", "smooth"]
    number, last, _ = index["tensors"]["rough"]["frequency_accuracy/hfc"]
    content = index["contents"][number]
    assert last == 240
    assert content["axes"] == [{"name": "radius", "unit": "cycles", "values": list(RADII)}]
    assert "hfc_cost/share" in index["scalars"]["rough"]
    assert index["problems"] == []
    # The same metadata are sent once, not once per run.
    assert index["tensors"]["smooth"]["frequency_accuracy/hfc"][0] == number


def test_values_are_those_that_were_logged(client):
    head, values = tensors_of(client, "smooth", "frequency_accuracy/hfc")
    assert head["steps"] == [20 * epoch for epoch in range(1, 13)]
    expected = accuracy_result([0.3] * 4, [0.125, 0.125, 0.1, 0.1]).arrays()["hfc"]
    np.testing.assert_allclose(values[-1], expected, atol=1e-6)
    head, values = tensors_of(client, "rough", "fourier_heatmap/4.0/error", step=240)
    assert head["steps"] == [240]
    np.testing.assert_allclose(values[0], heatmap_result(16, (0, 4), 0.7).arrays()["error"], 1e-6)
    head, values = tensors_of(client, "rough", "progress/epoch")
    assert values.tolist() == list(range(1, 13))


def test_one_step_is_read_without_decoding_the_others(logs, monkeypatch):
    question = {"run": "rough", "tag": "kernel_spectra/conv1/spectra", "step": 60}
    decoded = []
    decode = tensor_util.make_ndarray
    monkeypatch.setattr(
        tensor_util, "make_ndarray", lambda proto: decoded.append(proto) or decode(proto)
    )
    found = [
        client_of(logs, with_store=with_store).get(f"{BASE}/tensors", query_string=question).data
        for with_store in (True, False)
    ]
    assert found[0] == found[1]  # the same bytes, though
    assert len(decoded) == 12  # only without the store each of the twelve is decoded by itself


def test_scalars_become_json(client):
    answer = client.get(f"{BASE}/scalars?run=rough&tag=hfc_cost/share&tag=loss")
    series = json.loads(answer.data)["rough"]
    assert list(series) == ["hfc_cost/share"]
    assert series["hfc_cost/share"]["values"][0] == pytest.approx(0.02 + 0.01 * np.sin(1))


@pytest.mark.parametrize(
    ("path", "status", "sentence"),
    [
        ("tensors", 400, "at least one run="),
        ("tensors?run=rough", 400, "at least one run="),
        ("tensors?run=rough&tag=x&step=two", 400, "whole numbers"),
        ("tensors?" + "&".join(["run=r&tag=t"] * 70), 400, "at most 4096"),
        ("scalars?tag=x", 400, "at least one run="),
        ("images", 400, "at least one run="),
        ("image", 400, "the key of a picture"),
        ("image?key=nonsense", 400, "the key of a picture"),
        ("static/secret.js", 404, "no such file"),
    ],
)
def test_a_bad_question_is_answered_with_a_sentence(client, path, status, sentence):
    answer = client.get(f"{BASE}/{path}")
    assert answer.status_code == status
    assert sentence in json.loads(answer.data)["error"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_an_unknown_run_is_an_empty_answer(client):
    answer = client.get(f"{BASE}/tensors?run=none&tag=none")
    assert unpacked(answer.data) == {}


def test_only_get_is_answered(client):
    answer = client.post(f"{BASE}/index")
    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET, HEAD")


def test_every_static_file_is_served(client):
    names = routes.static_files()
    assert {"index.js", "style.css", "charts/lines.js", "views/curves.js"} <= set(names)
    for name, path in names.items():
        answer = client.get(f"{BASE}/static/{name}")
        kind = "text/css" if name.endswith(".css") else "text/javascript"
        assert (answer.status_code, answer.data) == (200, path.read_bytes())
        assert answer.content_type == f"{kind}; charset=utf-8"


def test_only_scripts_and_styles_that_lie_in_the_folder_are_served(client, tmp_path, monkeypatch):
    static = tmp_path / "static"
    (static / "views").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.js").write_text("secret")
    (static / "views" / "own.js").write_text("own")
    (static / "notes.txt").write_text("not for a browser")
    (static / "link.js").symlink_to(tmp_path / "outside" / "secret.js")
    (static / "folder").symlink_to(tmp_path / "outside")
    monkeypatch.setattr(routes, "STATIC", static.resolve())
    assert client.get(f"{BASE}/static/views/own.js").data == b"own"
    for name in ("link.js", "folder/secret.js", "notes.txt", "views", "views/../views/own.js/"):
        assert client.get(f"{BASE}/static/{name}").status_code == 404


def test_wheel_and_sdist_hold_every_file(tmp_path):
    steps = ["egg_info", "--egg-base", tmp_path, "build", "--build-base", tmp_path / "build"]
    steps += ["bdist_wheel", "-d", tmp_path, "sdist", "-d", tmp_path]
    subprocess.run([sys.executable, "setup.py", "-q", *steps], cwd=ROOT, check=True)
    (wheel,), (sdist,) = tmp_path.glob("*.whl"), tmp_path.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as one, tarfile.open(sdist) as other:
        for held in (one.namelist(), other.getnames()):
            for name in routes.static_files():
                assert any(n.endswith(f"tensorboard_plugin_hfc/static/{name}") for n in held)
        packed = {name.partition("/")[2] for name in other.getnames()}
    # Whoever unpacks it can run the tests and the examples.
    parts = ("tests", "examples", "plugins", "hfc_probe")
    sources = {str(p.relative_to(ROOT)) for part in parts for p in (ROOT / part).rglob("*.py")}
    assert packed >= sources | {"CHANGELOG.md", "CITATION.cff", "pyproject.toml"}
    assert f"version: {hfc_probe.__version__}\n" in (ROOT / "CITATION.cff").read_text()


@pytest.mark.parametrize(
    "path",
    [
        "static/../plugin.py",
        "static/%2e%2e/plugin.py",
        "static/..%2fplugin.py",
        "static/%2e%2e%2fplugin.py",
        "static/%252e%252e%252fplugin.py",
        "static//etc/passwd",
        "static/%2fetc%2fpasswd",
        "static/index.js%00",
        "static/sub/index.js",
        "static/charts",
        "static/charts/",
        "static/charts/../index.js/..",
        "static/charts/%2e%2e%2f%2e%2e%2fplugin.py",
        "static/charts/..%5c..%5cplugin.py",
        "static/",
        "nothing",
    ],
)
def test_nothing_beside_the_static_files_can_be_had(client, path):
    assert client.get(f"{BASE}/{path}").status_code == 404


def test_pictures_are_served_and_nothing_else_is(tmp_path):
    with SummaryWriter(str(tmp_path / "run")) as writer:
        writer.add_image("hfc_examples/figure", torch.rand(3, 8, 8), 3)
        writer.add_image("private/figure", torch.rand(3, 8, 8), 3)
        image = Summary.Image(encoded_image_string=b"<svg onload='alert(1)'/>", height=1, width=1)
        value = Summary.Value(tag="hfc_examples/script", image=image)
        writer._get_file_writer().add_summary(Summary(value=[value]), 3)
    client = client_of(tmp_path)
    assert set(index_of(client)["images"]["run"]) == {"hfc_examples/figure", "hfc_examples/script"}
    answers = {}
    for name in ("figure", "script"):
        listed = client.get(f"{BASE}/images?run=run&tag=hfc_examples/{name}")
        (one,) = json.loads(listed.data)["images"]
        assert one["step"] == 3
        answers[name] = client.get(f"{BASE}/image", query_string={"key": one["keys"][0]})
    assert answers["figure"].content_type == "image/png"
    assert answers["figure"].data.startswith(b"\x89PNG")
    assert answers["script"].status_code == 400
    assert json.loads(client.get(f"{BASE}/images?run=run&tag=private/figure").data)["images"] == []


def hfc_value(tag: str, array, axes, *, content: bytes | None = None) -> Summary.Value:
    """A tensor summary under our name."""
    if content is None:
        what = {"version": 1, "measurement": "frequency_accuracy", "array": "hfc", "unit": "x"}
        content = json.dumps(what | {"axes": axes}).encode()
    metadata = SummaryMetadata(
        plugin_data=SummaryMetadata.PluginData(plugin_name="hfc", content=content),
        data_class=DATA_CLASS_TENSOR,
    )
    tensor = array if isinstance(array, TensorProto) else make_tensor_proto(array)
    return Summary.Value(tag=tag, metadata=metadata, tensor=tensor)


def write_values(path, steps: dict[int, list[Summary.Value]]) -> None:
    with SummaryWriter(str(path)) as writer:
        for step, values in steps.items():
            writer._get_file_writer().add_summary(Summary(value=values), step)


PAIR = [{"name": "radius", "values": [4, 8]}]


def test_another_shape_than_promised_is_left_out_and_said(tmp_path):
    arrays = {1: np.float32([1, 2]), 2: np.float32([1, 2, 3]), 3: np.float32([[4, 5]])}
    arrays |= {4: np.array([b"a", b"b"]), 5: np.float32([6, np.nan])}
    write_values(
        tmp_path / "run",
        {step: [hfc_value("g/hfc", array, PAIR)] for step, array in arrays.items()},
    )
    head, values = tensors_of(client_of(tmp_path), "run", "g/hfc")
    assert head["steps"] == [1, 5]
    np.testing.assert_array_equal(values, np.float32([[1, 2], [6, np.nan]]))
    assert "3 of 5 steps are left out of g/hfc" in head["note"]


def test_an_axis_of_free_length_must_keep_it(tmp_path):
    axes = [{"name": "kernel"}]
    lengths = {1: 3, 2: 4, 3: 4}
    write_values(
        tmp_path / "run",
        {step: [hfc_value("g/hfc", np.ones(n, np.float32), axes)] for step, n in lengths.items()},
    )
    head, values = tensors_of(client_of(tmp_path), "run", "g/hfc")
    assert (head["steps"], values.shape) == ([2, 3], (2, 4))
    assert "1 of 3 step is left out of g/hfc: another shape than the latest, 4" in head["note"]


def test_a_damaged_tensor_hides_no_other(tmp_path):
    broken = TensorProto(dtype=1, tensor_content=b"12345")  # five bytes are no float32
    broken.tensor_shape.dim.add(size=2)
    good = np.float32([1, 2])
    values = [hfc_value("g/hfc", broken, PAIR), hfc_value("g/good", good, PAIR)]
    write_values(tmp_path / "run", {1: values})
    client = client_of(tmp_path)
    assert "damaged" in tensors_of(client, "run", "g/hfc")[0]["note"]
    answer = client.get(f"{BASE}/tensors?run=run&tag=g/hfc&tag=g/good")
    np.testing.assert_array_equal(unpacked(answer.data)["run", "g/good"][1], [good])


def test_tensors_of_others_under_our_name_are_named_as_problems(tmp_path):
    one = np.float32([1, 2])
    newer = json.dumps({"version": 9, "axes": []}).encode()
    write_values(
        tmp_path / "run",
        {
            1: [
                hfc_value("theirs", one, [], content=b"\x08\x01"),
                hfc_value("n", one, [], content=newer),
            ]
        },
    )
    client = client_of(tmp_path)
    index = index_of(client)
    assert index["tensors"] == {}
    assert {problem["tag"] for problem in index["problems"]} == {"theirs", "n"}
    assert any("version 9" in problem["why"] for problem in index["problems"])
    assert [run["name"] for run in index["runs"]] == ["run"]


def test_a_truncated_event_file_keeps_what_is_whole(tmp_path):
    one = {step: [hfc_value("g/hfc", np.float32([step, 2]), PAIR)] for step in (1, 2, 3)}
    write_values(tmp_path / "run", one)
    (path,) = (tmp_path / "run").iterdir()
    path.write_bytes(path.read_bytes()[:-30])
    head, _ = tensors_of(client_of(tmp_path), "run", "g/hfc")
    assert head["steps"] == [1, 2]


def test_a_step_logged_twice_keeps_the_later(tmp_path):
    path = tmp_path / "run"
    with SummaryWriter(str(path)) as writer:
        for number in (1, 2):
            value = hfc_value("g/hfc", np.float32([number, 0]), PAIR)
            writer._get_file_writer().add_summary(Summary(value=[value]), 7, 100.0 + number)
    head, values = tensors_of(client_of(tmp_path), "run", "g/hfc")
    assert (head["steps"], values[:, 0].tolist()) == ([7], [2.0])


def test_no_runs_at_all(tmp_path):
    client = client_of(tmp_path)
    assert index_of(client)["runs"] == []
    assert json.loads(client.get("/data/plugins_listing").data)["hfc"]["enabled"] is False


def test_scalars_alone_are_enough_for_a_tab(tmp_path):
    with SummaryWriter(str(tmp_path / "theirs")) as writer:
        writer.add_scalar("loss", 1.0, 1)
    listing = "/data/plugins_listing"
    assert json.loads(client_of(tmp_path).get(listing).data)["hfc"]["enabled"] is False
    with SummaryWriter(str(tmp_path / "ours")) as writer:
        writer.add_scalar("hfc_detection/AP/original", 0.4, 1)
    assert json.loads(client_of(tmp_path).get(listing).data)["hfc"]["enabled"] is True


def test_a_probe_logs_its_epochs(tmp_path):
    """The tab's axis of training: which epoch had ended at each step."""
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.Flatten())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with hfc_probe.attach(
        model,
        None,
        optimizer=optimizer,
        log_dir=tmp_path / "run",
        measurements=[hfc_probe.KernelSpectra()],
        budget=1.0,
    ) as probe:
        for _ in range(2):
            for _ in range(3):
                optimizer.step()
            probe.end_epoch()
    head, values = tensors_of(client_of(tmp_path), "run", "progress/epoch")
    assert (head["steps"], values.tolist()) == ([3, 6], [1.0, 2.0])
