"""FrequencyHandler in a real Ignite trainer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hfc_probe import Every, KernelSpectra

from .conftest import MEASUREMENTS, network, same, scalars

pytest.importorskip("ignite", reason="Ignite is not installed: pip install 'hfc_probe[ignite]'")
from hfc_probe_ignite import FrequencyHandler
from ignite.engine import Events, create_supervised_trainer
from ignite.handlers import Checkpoint, DiskSaver
from ignite.handlers.tensorboard_logger import TensorboardLogger


def run(loaders, tmp_path, *, probe):
    torch.manual_seed(1)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    trainer = create_supervised_trainer(model, optimizer, nn.functional.cross_entropy)
    handler = None
    if probe:
        logger = TensorboardLogger(log_dir=str(tmp_path / "log"))
        handler = FrequencyHandler(
            model, loaders[1], logger=logger, measurements=MEASUREMENTS, budget=1.0, strict=True
        ).attach(trainer)
        saver = Checkpoint({"probe": handler}, DiskSaver(str(tmp_path / "saved")))
        trainer.add_event_handler(Events.EPOCH_COMPLETED, saver)
        trainer.add_event_handler(Events.COMPLETED, logger.close)
    trainer.run(loaders[0], max_epochs=2)
    return model, handler


def test_logs_into_ignites_logger_and_leaves_training_alone(loaders, tmp_path):
    plain, _ = run(loaders, tmp_path, probe=False)
    probed, handler = run(loaders, tmp_path, probe=True)
    assert same(plain.state_dict(), probed.state_dict())
    found = scalars(tmp_path / "log")
    assert found["hfc_lfc/r02"] == [6, 12]
    assert found["hfc_0/smoothness_mean"] == [2, 4, 6, 8, 10, 12]
    state = torch.load(next((tmp_path / "saved").glob("*.pt")), weights_only=True)
    assert state["steps"] == 12
    fresh = FrequencyHandler(network(), loaders[1], measurements=MEASUREMENTS)
    fresh.load_state_dict(state)
    assert (fresh.probe.steps, fresh.probe.epochs) == (12, 2)
    assert handler.probe.results.keys() == {"frequency_accuracy", "kernel_spectra"}


def test_the_trained_model_is_measured_when_training_ends_unless_told_otherwise(loaders):
    for final, found in ((True, {"kernel_spectra"}), (False, set())):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        trainer = create_supervised_trainer(model, optimizer, nn.functional.cross_entropy)
        every = {KernelSpectra(): Every(epochs=9)}
        handler = FrequencyHandler(model, None, measurements=every, final=final).attach(trainer)
        trainer.run(loaders[0], max_epochs=1)
        assert handler.probe.results.keys() == found


def test_accumulated_gradients_count_the_optimizers_steps(loaders, tmp_path):
    def train(probe):
        torch.manual_seed(1)
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        trainer = create_supervised_trainer(
            model, optimizer, nn.functional.cross_entropy, gradient_accumulation_steps=3
        )
        if probe:
            handler = FrequencyHandler(
                model,
                loaders[1],
                log_dir=tmp_path,
                optimizer=optimizer,
                measurements=MEASUREMENTS,
                budget=1.0,
                strict=True,
            ).attach(trainer)
        trainer.run(loaders[0], max_epochs=2)
        return model, handler.probe if probe else None

    (plain, _), (probed, probe) = train(False), train(True)
    assert same(plain.state_dict(), probed.state_dict())
    assert (probe.steps, probe.epochs) == (4, 2)
    assert scalars(tmp_path)["hfc_lfc/r02"] == [2, 4]


def test_a_resumed_trainer_goes_on(loaders, tmp_path):
    def parts(name):
        torch.manual_seed(1)
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        trainer = create_supervised_trainer(model, optimizer, nn.functional.cross_entropy)
        logger = TensorboardLogger(log_dir=str(tmp_path / name))
        handler = FrequencyHandler(
            model, loaders[1], logger=logger, measurements=MEASUREMENTS, budget=1.0, strict=True
        ).attach(trainer)
        # tensorboardX, which Ignite prefers, writes in a thread: what it holds comes with close().
        trainer.add_event_handler(Events.COMPLETED, logger.close)
        return {"trainer": trainer, "model": model, "optimizer": optimizer, "probe": handler}

    first = parts("first")
    first["trainer"].run(loaders[0], max_epochs=1)
    saved = {name: part.state_dict() for name, part in first.items()}
    torch.save(saved, tmp_path / "checkpoint.pt")
    probe = first["probe"].probe
    assert (probe.steps, probe.epochs) == (6, 1)
    second = parts("second")
    Checkpoint.load_objects(second, torch.load(tmp_path / "checkpoint.pt", weights_only=True))
    second["trainer"].run(loaders[0], max_epochs=3)
    assert scalars(tmp_path / "first")["hfc_lfc/r02"] == [6]
    assert scalars(tmp_path / "second")["hfc_lfc/r02"] == [12, 18]
    assert scalars(tmp_path / "second")["hfc_0/smoothness_mean"] == [8, 10, 12, 14, 16, 18]
    assert second["probe"].probe.state_dict()["measurements"]["frequency_accuracy"]["runs"] == 3
    late = parts("late")  # a checkpoint that was saved without the probe
    probe = late.pop("probe").probe
    Checkpoint.load_objects(late, torch.load(tmp_path / "checkpoint.pt", weights_only=True))
    late["trainer"].run(loaders[0], max_epochs=3)
    assert (probe.steps, probe.epochs) == (18, 3)
    expected, found = (scalars(tmp_path / name) for name in ("second", "late"))
    for tag in ("hfc_lfc/r02", "hfc_lfc/r04"):
        assert found[tag] == expected[tag]
    # The first position stated passes steps 2, 4 and 6, which a fresh probe has not measured.
    assert found["hfc_0/smoothness_mean"] == [7, *expected["hfc_0/smoothness_mean"]]
