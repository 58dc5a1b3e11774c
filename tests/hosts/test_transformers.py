"""FrequencyCallback in a real Hugging Face Trainer."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch.utils.data import Dataset

from hfc_probe import Every, InputError, KernelSpectra, PixelSpace

from ..wandb_files import history as wandb_history
from .conftest import MEASUREMENTS, same, scalars

transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed: pip install 'hfc_probe[transformers]'"
)
pytest.importorskip(
    "accelerate", reason="accelerate is not installed: pip install 'hfc_probe[transformers]'"
)
from hfc_probe_transformers import FrequencyCallback

# What the trainer calls its image processor: another name before transformers 4.46.
PARAMETERS = inspect.signature(transformers.Trainer.__init__).parameters
PROCESSOR = "processing_class" if "processing_class" in PARAMETERS else "tokenizer"


class Images(Dataset):
    """Items as an image processor makes them, normalised with mean and std 0.5."""

    def __init__(self, n, seed):
        generator = torch.Generator().manual_seed(seed)
        self.pixels = torch.randint(0, 256, (n, 3, 16, 16), generator=generator).to(torch.uint8)

    def __len__(self):
        return len(self.pixels)

    def __getitem__(self, index):
        if index >= len(self):
            raise IndexError(index)
        return {"pixel_values": self.pixels[index] / 127.5 - 1, "labels": index % 4}


def model():
    torch.manual_seed(0)
    return transformers.ViTForImageClassification(
        transformers.ViTConfig(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            image_size=16,
            patch_size=4,
            num_labels=4,
        )
    )


def train(tmp_path, callbacks, data=None, collator=None, resume=None, **options):
    train_data, eval_data = data or (Images(16, 0), Images(12, 1))
    args = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        num_train_epochs=options.pop("num_train_epochs", 2),
        per_device_train_batch_size=4,
        per_device_eval_batch_size=8,
        report_to=options.pop("report_to", ["tensorboard"]),
        logging_steps=1,
        use_cpu=True,
        save_strategy=options.pop("save_strategy", "no"),
        seed=0,
        disable_tqdm=True,
        **options,
    )
    processor = transformers.ViTImageProcessor(size={"height": 16, "width": 16})
    trainer = transformers.Trainer(
        model=model(),
        args=args,
        train_dataset=train_data,
        eval_dataset=eval_data,
        data_collator=collator,
        callbacks=callbacks,
        **{PROCESSOR: processor},
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def written(output_dir, number=0):
    """What the callback wrote in the first training into a directory, or in a later one."""
    runs = sorted((output_dir / "runs").glob("hfc_probe_*"), key=lambda one: one.stat().st_ctime_ns)
    return scalars(runs[number])


def callback(**options):
    return FrequencyCallback(measurements=MEASUREMENTS, budget=1.0, strict=True, **options)


def test_logs_beside_trainers_own_and_leaves_training_alone(tmp_path):
    plain = train(tmp_path / "plain", [])
    probe = callback(data=Images(12, 1))
    probed = train(tmp_path / "probed", [probe])
    assert same(plain.model.state_dict(), probed.model.state_dict())
    found = written(tmp_path / "probed")
    assert found["hfc_lfc/r02"] == [4, 8]
    layer = next(tag for tag in found if tag.endswith("smoothness_mean"))
    assert "patch_embeddings" in layer
    assert found[layer] == [2, 4, 6, 8]
    others = [p for p in (tmp_path / "probed" / "runs").iterdir() if "hfc_probe" not in p.name]
    assert others  # Trainer's own, beside
    # The processor's mean and std were undone: the 8-bit pixels are back.
    assert torch.equal(probe.probe.samples.images, Images(12, 1).pixels)


def test_report_to_is_followed(tmp_path):
    wandb = pytest.importorskip("wandb", reason="wandb is not installed")
    settings = wandb.Settings(mode="offline", silent=True, disable_git=True)
    with wandb.init(dir=tmp_path, settings=settings):
        train(tmp_path, [callback(data=Images(12, 1))], report_to=["wandb"])
    rows, _ = wandb_history(tmp_path)
    assert [row["hfc_step"] for row in rows if "hfc_lfc/r02" in row] == [4, 8]
    losses = [row["train/global_step"] for row in rows if "train/loss" in row]
    assert losses == list(range(1, 9))
    assert written(tmp_path)["hfc_lfc/r02"] == [4, 8]


def test_accumulated_gradients_count_optimizer_steps(tmp_path):
    options = {"gradient_accumulation_steps": 2}
    plain = train(tmp_path / "plain", [], **options)
    probe = callback(data=Images(12, 1))
    probed = train(tmp_path / "probed", [probe], **options)
    assert same(plain.model.state_dict(), probed.model.state_dict())
    assert plain.state.global_step == probe.probe.steps == 4
    assert written(tmp_path / "probed")["hfc_lfc/r02"] == [2, 4]


def test_a_second_training_into_the_same_directory_is_a_run_of_its_own(tmp_path):
    for _ in range(2):
        train(tmp_path, [callback(data=Images(12, 1))], num_train_epochs=1)
    assert [written(tmp_path, k)["hfc_lfc/r02"] for k in (0, 1)] == [[4], [4]]


def test_a_training_resumed_into_the_same_log_dir_has_every_step_once(tmp_path):
    log = tmp_path / "run" / "log"
    train(tmp_path / "run", [callback(data=Images(12, 1), log_dir=log)], save_strategy="epoch")
    # As if it had been killed in its second epoch: back to the checkpoint of the first.
    probe = callback(data=Images(12, 1), log_dir=log)
    saved = str(tmp_path / "run" / "checkpoint-4")
    plain = train(tmp_path / "plain", [], resume=saved)
    resumed = train(tmp_path / "run", [probe], resume=saved)
    assert same(plain.model.state_dict(), resumed.model.state_dict())
    assert (probe.probe.steps, probe.probe.epochs) == (8, 2)
    found = scalars(log)
    assert found["hfc_lfc/r02"] == [4, 8]
    layer = next(tag for tag in found if tag.endswith("smoothness_mean"))
    assert found[layer] == [2, 4, 6, 8]


def test_the_trainers_evaluation_loader_serves_from_its_first_evaluation_on(tmp_path):
    probe = callback(pixels=PixelSpace((0.5,), (0.5,)))
    train(tmp_path, [probe], eval_strategy="epoch")
    assert torch.equal(probe.probe.samples.images, Images(12, 1).pixels)
    assert written(tmp_path)["hfc_lfc/r02"][-1] == 8


def test_items_that_only_the_trainers_collator_reads_are_taken(tmp_path):
    """As in the image classification example of transformers: pictures beside the tensors."""

    class Pictures(Images):
        def __getitem__(self, index):
            item = super().__getitem__(index)
            return {"image": object(), "label": item.pop("labels"), **item}

    def collate(items):
        return {
            "pixel_values": torch.stack([item["pixel_values"] for item in items]),
            "labels": torch.tensor([item["label"] for item in items]),
        }

    probe = callback(data=Pictures(12, 1))
    train(
        tmp_path,
        [probe],
        data=(Pictures(16, 0), Pictures(12, 1)),
        collator=collate,
        remove_unused_columns=False,
        max_steps=1,
    )
    assert torch.equal(probe.probe.samples.images, Images(12, 1).pixels)


def test_a_processor_that_the_data_never_passed_through_is_not_believed(tmp_path, caplog):
    class Raw(Images):
        def __getitem__(self, index):
            item = super().__getitem__(index)
            return {**item, "pixel_values": (item["pixel_values"] + 1) / 2}

    probe = callback(data=Raw(12, 1))
    trainer = train(tmp_path, [probe], data=(Raw(16, 0), Raw(12, 1)), num_train_epochs=1)
    logits, labels, _ = trainer.predict(Raw(12, 1))
    found = probe.probe.results["frequency_accuracy"].scalars()["hfc_accuracy/original"]
    assert found == pytest.approx((logits.argmax(1) == labels).mean())
    assert "found no normalisation" in caplog.text


def test_the_trained_model_is_measured_when_training_ends_unless_told_otherwise(tmp_path):
    every = {KernelSpectra(): Every(epochs=9)}
    for final, found in ((True, {"kernel_spectra"}), (False, set())):
        probe = FrequencyCallback(Images(4, 1), measurements=every, final=final)
        train(tmp_path, [probe], num_train_epochs=1)
        assert probe.probe.results.keys() == found


def test_no_data_is_said(tmp_path, caplog):
    train(tmp_path, [callback()])
    assert "pass FrequencyCallback(data=eval_dataset)" in caplog.text


def test_several_data_sets_by_name_are_refused_in_a_sentence(tmp_path):
    with pytest.raises(InputError, match=r"one data set, got 2 by name \(validation, test\)"):
        train(tmp_path, [callback(data={"validation": Images(4, 1), "test": Images(4, 2)})])


def test_a_processor_of_other_statistics_than_the_data_gives_way(tmp_path):
    """Items are normalised with 0.5, and the processor says ImageNet's."""
    probe = callback(data=Images(12, 1))
    probe.on_train_begin(
        transformers.TrainingArguments(output_dir=str(tmp_path), use_cpu=True),
        transformers.TrainerState(),
        transformers.TrainerControl(),
        model=model(),
        **{
            PROCESSOR: transformers.ViTImageProcessor(
                image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225]
            )
        },
    )
    assert torch.equal(probe.probe.samples.images, Images(12, 1).pixels)
    assert probe.probe.samples.normalization.is_close(PixelSpace((0.5,), (0.5,)))
    assert "pixels= says" in probe.probe.samples.caveats[0]
    probe.probe.close()
