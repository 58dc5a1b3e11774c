"""AP over epochs from a training of a detector, which stays the same bit for bit."""

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader

from hfc_probe.detection import DetectionAudit

from ..detection.known_answer import PlantedShapes, build
from .conftest import same

pytest.importorskip("pycocotools", reason="pycocotools is not installed")
AUDIT = DetectionAudit(radii=(12,), bootstrap=0)
EPOCHS = 2


def loader(data):
    pairs = [(data.pictures[i], data.targets[i]) for i in data.pictures]
    return DataLoader(
        pairs, 2, shuffle=True, collate_fn=lambda batch: tuple(zip(*batch, strict=True))
    )


def curve(folder, tag):
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0}).Reload()
    assert "detection_audit/scalars" in " ".join(events.Tags()["tensors"])  # what the tab reads
    return [(e.step, round(e.value, 6)) for e in events.Scalars(f"hfc_detection/{tag}")]


def reference_loop(folder, audited):
    """Torchvision's references/detection/train.py: train_one_epoch, then evaluate."""
    from torch.utils.tensorboard import SummaryWriter

    torch.manual_seed(0)
    model, train, val = build(), loader(PlantedShapes(4, seed=0)), PlantedShapes(2, seed=1)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    results = []
    with SummaryWriter(str(folder)) as writer:
        for epoch in range(EPOCHS):
            model.train()
            for images, targets in train:
                losses = model(list(images), list(targets))
                optimizer.zero_grad()
                sum(losses.values()).backward()
                optimizer.step()
            if audited:
                result = AUDIT.measure(model, val)
                result.log(writer, epoch)
                results.append(result)
            assert model.training
    return model.state_dict(), results


@pytest.mark.slow
def test_the_reference_loop_of_torchvision(tmp_path):
    plain, _ = reference_loop(tmp_path / "plain", audited=False)
    trained, results = reference_loop(tmp_path / "audited", audited=True)
    assert same(plain, trained)
    for variant in AUDIT.variants:
        expected = [round(float(r.metrics[variant][0]), 6) for r in results]
        assert curve(tmp_path / "audited", f"AP/{variant}") == list(enumerate(expected))


@pytest.mark.slow
def test_lightning(tmp_path):
    pl = pytest.importorskip("lightning.pytorch", reason="lightning is not installed")
    val = PlantedShapes(2, seed=1)

    class Detector(pl.LightningModule):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.detector = build()

        def training_step(self, batch, index):
            return sum(self.detector(list(batch[0]), list(batch[1])).values())

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.01)

    class AuditCallback(pl.Callback):
        def on_train_epoch_end(self, trainer, module):
            result = AUDIT.measure(module.detector, val)
            if trainer.is_global_zero:
                result.log(trainer.logger.experiment, trainer.current_epoch)

    states = []
    for callbacks in ([], [AuditCallback()]):
        module = Detector()
        torch.manual_seed(1)
        logger = pl.loggers.TensorBoardLogger(tmp_path, name="", version=f"with{len(callbacks)}")
        pl.Trainer(
            max_epochs=EPOCHS, accelerator="cpu", logger=logger, callbacks=callbacks,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        ).fit(module, loader(PlantedShapes(4, seed=0)))  # fmt: skip
        states.append(module.state_dict())
    assert same(*states)
    assert [step for step, _ in curve(tmp_path / "with1", "AP/lfc_r12")] == [0, 1]
