"""FrequencyHook in a real MMEngine runner."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from hfc_probe import ImageScore, InputError, Samples

from .conftest import MEASUREMENTS, network, same, scalars

pytest.importorskip(
    "mmengine", reason="MMEngine is not installed: pip install 'hfc_probe[mmengine]'"
)
from hfc_probe_mmengine import FrequencyHook, _pairs, _predict
from mmengine.model import BaseModel, ImgDataPreprocessor
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement

MEAN, STD = [120.0, 110.0, 100.0], [60.0, 58.0, 57.0]


class Items(Dataset):
    """8-bit images in the order BGR with a data sample, as OpenMMLab's pipelines pack them."""

    def __init__(self, n, seed):
        generator = torch.Generator().manual_seed(seed)
        self.images = torch.randint(0, 256, (n, 3, 12, 12), generator=generator).byte()

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        sample = BaseDataElement(gt_label=torch.tensor([index % 4]))
        return {"inputs": self.images[index], "data_samples": sample}


class Classifier(BaseModel):
    def __init__(self):
        super().__init__(ImgDataPreprocessor(mean=MEAN, std=STD, bgr_to_rgb=True))
        self.network = network()

    def forward(self, inputs, data_samples=None, mode="tensor"):
        logits = self.network(inputs)
        if mode == "loss":
            labels = torch.cat([one.gt_label for one in data_samples])
            return {"loss": nn.functional.cross_entropy(logits, labels)}
        return logits


def collate(items):  # MMEngine's pseudo_collate, which leaves images in a list
    return {name: [item[name] for item in items] for name in items[0]}


def run(folder, *, probe=True, epochs=2, resume=False, back_ends=("Local",), **options):
    torch.manual_seed(1)
    hook = FrequencyHook(**{"measurements": MEASUREMENTS, "budget": 1.0, "strict": True} | options)
    model = Classifier()
    runner = Runner(
        model,
        str(folder),
        train_dataloader=DataLoader(Items(24, 0), 4, shuffle=True, collate_fn=collate),
        val_dataloader=DataLoader(Items(16, 1), 8, collate_fn=collate),
        val_evaluator=[],
        val_cfg={},
        train_cfg={"by_epoch": True, "max_epochs": epochs, "val_interval": 99},
        optim_wrapper={"optimizer": torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)},
        custom_hooks=[hook] if probe else [],
        visualizer={
            "type": "Visualizer",
            "vis_backends": [{"type": f"{name}VisBackend"} for name in back_ends],
        },
        resume=resume,
        experiment_name=f"{folder.name}_{probe}_{epochs}_{resume}",
        randomness={"seed": 0},
        log_level="WARNING",
    )
    runner.train()
    return runner, hook.probe if probe else None


@pytest.mark.slow
def test_training_is_the_same_and_the_log_is_where_mmengines_is(tmp_path):
    plain, _ = run(tmp_path / "plain", probe=False)
    probed, probe = run(tmp_path / "probed", back_ends=("Local", "Tensorboard"))
    assert same(plain.model.state_dict(), probed.model.state_dict())
    assert plain.optim_wrapper.state_dict()["state"].keys() == {*range(6)}
    for k, state in plain.optim_wrapper.state_dict()["state"].items():
        assert torch.equal(
            state["momentum_buffer"],
            probed.optim_wrapper.state_dict()["state"][k]["momentum_buffer"],
        )
    found = scalars(f"{probed.log_dir}/vis_data")
    assert found["hfc_lfc/r02"] == [6, 12]
    assert found["hfc_network.0/smoothness_mean"] == [2, 4, 6, 8, 10, 12]
    assert "loss" in found  # MMEngine's own
    lines = Path(probed.log_dir, "vis_data", "scalars.json").read_text().splitlines()
    assert sum("hfc_lfc/r02" in json.loads(line) for line in lines) == 2
    assert probe.results.keys() == {"frequency_accuracy", "kernel_spectra"}


def test_the_model_is_given_what_its_preprocessor_makes_of_the_images(tmp_path):
    runner, probe = run(tmp_path)
    loader = runner.val_dataloader
    model, correct = runner.model.eval(), 0
    for batch in loader:
        logits = model(**model.data_preprocessor(batch), mode="tensor")
        labels = torch.cat([one.gt_label for one in batch["data_samples"]])
        correct += int((logits.argmax(1) == labels).sum())
    assert probe.results["frequency_accuracy"].scalars()["hfc_accuracy/original"] == correct / 16
    assert probe.results["frequency_accuracy"].caveats == ()
    # Without a TensorBoard back end, the HFC tab's log is there all the same.
    assert scalars(f"{runner.log_dir}/vis_data")["hfc_lfc/r02"] == [6, 12]


def test_images_that_are_given_go_through_the_preprocessor_too(tmp_path):
    items, labels = Items(16, 1), torch.arange(16) % 4
    _, found = run(tmp_path / "theirs", epochs=1)
    _, given = run(tmp_path / "given", epochs=1, data=Samples(items.images, labels))
    name = "frequency_accuracy"
    assert given.results[name].scalars() == found.results[name].scalars()
    assert given.results[name].provenance["std"] == [1 / 255]


def test_a_validation_loader_of_another_task_is_refused_in_a_sentence():
    class Masks(Items):
        def __getitem__(self, index):
            sample = BaseDataElement(gt_sem_seg=torch.zeros(12, 12))
            return {"inputs": self.images[index], "data_samples": sample}

    with pytest.raises(InputError, match="expected one gt_label in each data sample"):
        list(_pairs(DataLoader(Masks(4, 0), 2, collate_fn=collate)))


def test_a_resumed_run_goes_on(tmp_path, monkeypatch):
    # MMEngine 0.10 keeps objects of its own in checkpoints, which torch 2.6 and later refuse.
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    run(tmp_path, epochs=1)
    runner, probe = run(tmp_path, epochs=3, resume=True)
    # Runs of one second share a directory.
    assert scalars(f"{runner.log_dir}/vis_data")["hfc_lfc/r02"][-2:] == [12, 18]
    assert (probe.steps, probe.epochs) == (18, 3)
    assert probe.state_dict()["measurements"]["frequency_accuracy"]["runs"] == 3


def test_another_task_is_measured_through_predict(tmp_path):
    images = torch.rand(8, 3, 12, 12)
    score = ImageScore((2,), score="cosine", targets="clean")
    _, probe = run(
        tmp_path,
        data=Samples(images, torch.arange(8)),
        measurements=[score],
        predict=lambda model, x: model.network[:6](x),
    )
    assert probe.results["image_score"].scalars()["hfc_cosine/original"] == pytest.approx(1)


def test_mmpretrains_own_classifier():
    try:
        from mmpretrain.models import ImageClassifier
    except Exception as error:  # version 1.2 needs mmcv and transformers before 4.48
        pytest.skip(f"MMPretrain cannot be imported ({type(error).__name__})")

    model = ImageClassifier(
        {"type": "mmpretrain.ResNet", "depth": 18},
        {"type": "mmpretrain.GlobalAveragePooling"},
        {"type": "mmpretrain.LinearClsHead", "num_classes": 4, "in_channels": 512},
        data_preprocessor={"mean": MEAN, "std": STD, "to_rgb": True, "num_classes": 4},
    )
    assert hasattr(model.data_preprocessor, "_enable_normalize")
    images = torch.randint(0, 256, (4, 3, 32, 32))
    expected = model.eval()(**model.data_preprocessor({"inputs": list(images.byte())}))
    assert torch.allclose(_predict(model, images.float()), expected, atol=1e-5)
