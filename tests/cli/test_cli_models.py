"""``--model``: model files and folders of Hugging Face give the numbers of the model itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from hfc_probe import FrequencyAccuracy, InputError, PixelSpace, Samples
from hfc_probe.cli.folders import ClassFolders, FolderImages
from hfc_probe.cli.main import main
from hfc_probe.cli.models import load_model
from hfc_probe.cli.preprocessing import Preprocessing, preprocessing

from ..conftest import cli_runner

PIXELS = PixelSpace((0.4, 0.5, 0.6), (0.2, 0.2, 0.2))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 6, 3), nn.Linear(6, 4)

    def forward(self, x):
        return self.fc(torch.relu(self.conv(x)).mean((2, 3)))


def exported(net, path, batch):
    first = {0: torch.export.Dim("batch")} if batch is None else None
    example = torch.rand(batch or 2, 3, 12, 12)
    torch.export.save(torch.export.export(net, (example,), dynamic_shapes=(first,)), path)


def onnx_file(net, path, batch):
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    h, shape = onnx.helper, (batch or "n", 3, 12, 12)
    weights = {n: t.detach().numpy() for n, t in net.state_dict().items()}
    nodes = [
        h.make_node("Conv", ["x", "conv.weight", "conv.bias"], ["a"]),
        h.make_node("Relu", ["a"], ["b"]),
        h.make_node("GlobalAveragePool", ["b"], ["c"]),
        h.make_node("Flatten", ["c"], ["d"]),
        h.make_node("Gemm", ["d", "fc.weight", "fc.bias"], ["y"], transB=1),
    ]
    graph = h.make_graph(
        nodes,
        "net",
        [h.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [h.make_tensor_value_info("y", onnx.TensorProto.FLOAT, (shape[0], 4))],
        [onnx.numpy_helper.from_array(w, n) for n, w in weights.items()],
    )
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A network, and images of which it has most right."""
    monkeypatch.chdir(tmp_path)
    net = Net().eval()
    images = torch.randint(0, 256, (50, 3, 12, 12), dtype=torch.uint8)
    logits = net(PIXELS.normalize(images / 255))
    labels = logits.argmax(1)
    labels[::5] = (labels[::5] + 1) % 4
    np.savez("images.npz", images=images.numpy(), labels=labels.numpy())
    return net, Samples(images, labels)


def audit(*options):
    place = ["--data", "npz:images.npz", "--mean", "0.4,0.5,0.6", "--std", "0.2,0.2,0.2"]
    return cli_runner().invoke(main, ["audit", *options, *place, "--out", "out", "--radii", "2,4"])


@pytest.mark.parametrize("batch", [None, 8], ids=["any batch", "batches of 8"])
@pytest.mark.parametrize("name", ["net.onnx", "net.pt2", "net.pt"])
def test_a_file_gives_the_numbers_of_its_model(here, name, batch):
    net, samples = here
    if name == "net.onnx":
        onnx_file(net, name, batch)
    elif name == "net.pt2":
        exported(net, name, batch)
    else:
        torch.jit.trace(net, torch.rand(batch or 2, 3, 12, 12)).save(name)
    run = audit("--model", name)
    assert run.exit_code == 0, run.output + run.stderr
    found = json.loads(Path("out/frequency_accuracy.json").read_text())
    expected = FrequencyAccuracy(radii=(2, 4)).measure(net, samples, pixels=PIXELS)
    assert found["scalars"] == pytest.approx(expected.scalars())
    assert found["samples"] == 50


def test_an_onnx_file_has_no_gradients_and_says_so(here):
    net, _ = here
    onnx_file(net, "net.onnx", None)
    run = audit("--model", "net.onnx", "--measure", "fourier_sensitivity")
    assert run.exit_code == 2
    assert "got an ONNX file, which has none; load the model in PyTorch" in run.stderr


def test_two_onnx_files_are_two_models(here):
    net, _ = here
    onnx_file(net, "one.onnx", None)
    onnx_file(Net(), "two.onnx", None)
    one, two = (load_model(name, None).state_dict()["digest"] for name in ("one.onnx", "two.onnx"))
    assert not torch.equal(one, two)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("net.onnx", b"nothing", "expected an ONNX model in net.onnx, got"),
        ("net.pt2", b"nothing", "expected a program that torch.export.save has written in net.pt2"),
        ("net.pt", b"nothing", "expected a TorchScript model in net.pt, got"),
        ("missing.pt2", None, "missing.pt2"),
    ],
)
def test_a_file_of_something_else_is_refused_in_a_sentence(here, name, content, sentence):
    if name == "net.onnx":
        pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    if content is not None:
        Path(name).write_bytes(content)
    with pytest.raises(InputError, match=r"--model: expected") as error:
        load_model(name, None)
    assert sentence in str(error.value)


def test_weights_beside_a_file_that_has_its_own_are_refused(here):
    with pytest.raises(InputError, match=r"--weights: expected none with net.pt, which has"):
        load_model("net.pt", "other.pth")


@pytest.fixture
def hub(tmp_path):
    """A small transformer of Hugging Face with its processor, saved in a folder."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=24,
        patch_size=8,
        id2label={0: "cat", 1: "dog", 2: "eel"},
        label2id={"cat": 0, "dog": 1, "eel": 2},
    )
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path / "vit")
    mean, std = [0.3, 0.4, 0.5], [0.2, 0.3, 0.4]
    size = {"height": 24, "width": 24}
    own = transformers.ViTImageProcessor(size=size, image_mean=mean, image_std=std)
    own.save_pretrained(tmp_path / "vit")
    for n, name in enumerate(("eel", "cat", "dog")):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for k in range(4):
            noise = np.random.default_rng(10 * n + k).integers(0, 256, (6, 9, 3), dtype=np.uint8)
            picture = Image.fromarray(noise).resize((60, 40), Image.Resampling.BICUBIC)
            picture.save(tmp_path / "pictures" / name / f"{k}.png")
    return tmp_path, own


def test_a_folder_of_transformers_brings_its_preprocessing_and_class_names(hub, monkeypatch):
    folder, own = hub
    monkeypatch.chdir(folder)
    spec = "hf:vit"
    model = load_model(spec, None)
    how = preprocessing(spec, model)
    assert how == Preprocessing(
        PixelSpace((0.3, 0.4, 0.5), (0.2, 0.3, 0.4)), 24, None, "bilinear", True
    )
    images = FolderImages(ClassFolders.scan("pictures"), how.size, how)
    given = own(images=Image.open("pictures/cat/0.png"), return_tensors="pt")["pixel_values"]
    assert (how.pixels.normalize(images[0][0][None]) - given).abs().max() < 0.03
    run = cli_runner().invoke(
        main,
        ["audit", "--model", spec, "--data", "folder:pictures", "--out", "out"],
    )
    assert run.exit_code == 0, run.output + run.stderr
    found = json.loads(Path("out/frequency_accuracy.json").read_text())
    assert "id2label" in found["provenance"]["data"]
    assert found["provenance"]["normalization"] == "as hf publishes the model"
    assert "12 of 12 images resized" in found["provenance"]["resampling"]  # though all are 60×40
    labels = torch.tensor([0] * 4 + [1] * 4 + [2] * 4)  # cat, dog, eel: the model's order
    pixels = torch.stack([image for image, _ in images])
    right = (model(how.pixels.normalize(pixels)).logits.argmax(1) == labels).double().mean()
    assert found["scalars"]["hfc_accuracy/original"] == pytest.approx(float(right))


def test_a_model_without_this_head_is_refused(hub):
    transformers = pytest.importorskip("transformers")
    folder, own = hub
    body = transformers.ViTModel(transformers.ViTConfig.from_pretrained(folder / "vit"))
    body.save_pretrained(folder / "body")
    own.save_pretrained(folder / "body")
    with pytest.raises(InputError, match=r"with all its weights, got none for classifier\.bias"):
        load_model(f"hf:{folder / 'body'}", None)
    with pytest.raises(InputError, match=r"expected hf:nowhere to be an image classifier"):
        load_model("hf:nowhere", None)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"crop_pct": 0.95, "interpolation": "bicubic"}, (28, 0.95, "bicubic")),
        ({"crop_mode": "squash", "interpolation": "bilinear"}, (28, None, "bilinear")),
    ],
)
def test_the_data_configuration_of_timm_is_followed(config, expected):
    model = nn.Identity()
    model.pretrained_cfg = {"mean": (0.1,) * 3, "std": (0.2,) * 3, "input_size": (3, 28, 28)}
    model.pretrained_cfg |= config
    how = preprocessing("timm:any", model)
    assert (how.size, how.crop, how.interpolation) == expected
    assert how.pixels == PixelSpace((0.1,) * 3, (0.2,) * 3)
