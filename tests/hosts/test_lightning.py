"""FrequencyCallback in a real Lightning trainer."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from hfc_probe import Every, FrequencyAccuracy, InputError, KernelSpectra, PixelSpace, Samples

from ..conftest import ROOT
from ..wandb_files import history as wandb_history
from .conftest import MEASUREMENTS, dataset, network, same, scalars

pytest.importorskip(
    "lightning", reason="Lightning is not installed: pip install 'hfc_probe[lightning]'"
)
import lightning.pytorch as pl
from hfc_probe_lightning import FrequencyCallback
from lightning.pytorch import callbacks
from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger, WandbLogger

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


class Classifier(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.network = network()

    def forward(self, x):
        return self.network(x)

    def training_step(self, batch, _):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, _):
        self.log("val_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)


def fit(tmp_path, callbacks, *, epochs=2, ckpt_path=None, val=True, **options):
    pl.seed_everything(0, verbose=False)
    module = Classifier()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = pl.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            default_root_dir=tmp_path,
            callbacks=callbacks,
            enable_progress_bar=False,
            enable_model_summary=False,
            log_every_n_steps=1,
            **options,
        )
        train = DataLoader(dataset(24, 0), 4, shuffle=True)
        loaders = (train, DataLoader(dataset(16, 1), 8)) if val else (train,)
        trainer.fit(module, *loaders, ckpt_path=ckpt_path)
    return module, trainer


def callback(**options):
    return FrequencyCallback(measurements=MEASUREMENTS, budget=1.0, strict=True, **options)


def test_logs_beside_lightnings_own_and_leaves_training_alone(tmp_path):
    plain, _ = fit(tmp_path, [], logger=TensorBoardLogger(tmp_path / "plain"))
    loggers = [
        TensorBoardLogger(tmp_path / "a"),
        CSVLogger(tmp_path),
        TensorBoardLogger(tmp_path / "b"),
    ]
    probe = callback()
    probed, _ = fit(tmp_path, [probe], logger=loggers)
    assert same(plain.state_dict(), probed.state_dict())
    for name in ("a", "b"):
        found = scalars(tmp_path / name / "lightning_logs" / "version_0")
        assert found["hfc_lfc/r02"] == [6, 12]
        assert found["hfc_network.0/smoothness_mean"] == [2, 4, 6, 8, 10, 12]
        assert "val_loss" in found


def test_accumulated_gradients_count_optimizer_steps(tmp_path):
    probe = callback()
    fit(tmp_path, [probe], logger=TensorBoardLogger(tmp_path), accumulate_grad_batches=3)
    assert probe.probe.steps == 4
    assert probe.probe.epochs == 2
    assert scalars(tmp_path / "lightning_logs" / "version_0")["hfc_network.0/smoothness_mean"] == [
        2,
        4,
    ]


def test_a_checkpoint_goes_on(tmp_path):
    fit(tmp_path, [callback()], logger=TensorBoardLogger(tmp_path / "a"), epochs=1)
    checkpoint = next((tmp_path / "a").rglob("*.ckpt"))
    assert torch.load(checkpoint, weights_only=False)["hfc_probe"][0]["steps"] == 6
    probe = callback()
    fit(tmp_path, [probe], logger=TensorBoardLogger(tmp_path / "b"), epochs=2, ckpt_path=checkpoint)
    assert (probe.probe.steps, probe.probe.epochs) == (12, 2)
    assert scalars(tmp_path / "b" / "lightning_logs" / "version_0")["hfc_lfc/r02"] == [12]


@pytest.mark.parametrize(
    ("options", "averaging", "steps"),
    [
        ({"accumulate_grad_batches": 3, "gradient_clip_val": 0.1}, None, [2, 4]),
        ({"limit_train_batches": 3, "precision": "bf16-mixed"}, None, [2, 4, 6]),
        ({"val_check_interval": 2, "num_sanity_val_steps": 2}, None, [2, 4, 6, 8, 10, 12]),
        ({}, "EMAWeightAveraging", [2, 4, 6, 8, 10, 12]),
        ({}, "StochasticWeightAveraging", [2, 4, 6, 8, 10, 12]),
    ],
    ids=["accumulation", "limits", "validation within epochs", "EMA", "SWA"],
)
def test_trainers_of_every_kind_end_with_the_same_weights(tmp_path, options, averaging, steps):
    if averaging is not None and not hasattr(callbacks, averaging):
        pytest.skip(f"this version of lightning has no {averaging}")

    def averages():
        if averaging is None:
            return []
        kind = getattr(callbacks, averaging)
        if kind is callbacks.StochasticWeightAveraging:
            return [kind(swa_lrs=1e-2, swa_epoch_start=1)]
        return [kind(decay=0.9)]

    class Kernels(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            self.current = pl_module.network[0].weight.detach().clone()

    plain, _ = fit(tmp_path / "plain", averages(), logger=False, **options)
    probe, kernels = callback(), Kernels()
    logger = TensorBoardLogger(tmp_path)
    probed, _ = fit(tmp_path, [*averages(), probe, kernels], logger=logger, **options)
    assert same(plain.state_dict(), probed.state_dict())
    tags = scalars(tmp_path / "lightning_logs" / "version_0")
    # SWA adds an epoch that brings BatchNorm's statistics up to date, in one step of Lightning's.
    extra = [13] if averaging == "StochasticWeightAveraging" else []
    assert tags["hfc_network.0/smoothness_mean"] == [*steps, *extra]
    assert tags["hfc_lfc/r02"] == [steps[-1] // 2, steps[-1], *extra]
    measured = torch.from_numpy(probe.probe.results["kernel_spectra"].arrays()["kernels"])
    # Logged were the weights in training; the result is of the trained model, the average.
    assert torch.equal(measured, probed.network[0].weight)
    averages_differ = not torch.equal(kernels.current, probed.network[0].weight)
    assert averages_differ == (averaging == "EMAWeightAveraging")  # SWA sets them before its end


def test_a_csv_logger_has_the_numbers_beside_its_own(tmp_path):
    probe, logger = callback(), CSVLogger(tmp_path)
    plain, _ = fit(tmp_path / "plain", [], logger=CSVLogger(tmp_path / "plain"))
    probed, _ = fit(tmp_path, [probe], logger=logger)
    assert same(plain.state_dict(), probed.state_dict())
    with open(Path(logger.log_dir) / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    steps = {"hfc_lfc/r02": ["6", "12"], "val_loss": ["5", "11"]}
    assert {tag: [row["step"] for row in rows if row[tag]] for tag in steps} == steps
    for result in probe.probe.results.values():
        for tag, value in result.scalars().items():
            assert float([row[tag] for row in rows if row[tag]][-1]) == pytest.approx(value)
    files = {path.name for path in (Path(logger.log_dir) / "hfc_probe").iterdir()}
    assert {"frequency_accuracy_00000012.json", "hfc_network.0_kernels_00000012.png"} <= files


def test_a_wandb_logger_has_the_numbers_over_the_trainers_steps(tmp_path):
    wandb = pytest.importorskip("wandb", reason="wandb is not installed")
    settings = wandb.Settings(mode="offline", silent=True, disable_git=True)
    logger = WandbLogger(save_dir=tmp_path, experiment=wandb.init(dir=tmp_path, settings=settings))
    fit(tmp_path, [callback()], logger=logger)
    logger.experiment.finish()
    rows, artifacts = wandb_history(tmp_path)
    at = [row["trainer/global_step"] for row in rows if "hfc_lfc/r02" in row]
    assert at == [6, 12]
    assert [row["trainer/global_step"] for row in rows if "val_loss" in row] == [5, 11]
    assert {name.rpartition("-")[2] for name in artifacts} == {
        "frequency_accuracy",
        "kernel_spectra",
    }


def test_an_mlflow_logger_has_the_numbers(tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason="MLflow is not installed")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    logger = MLFlowLogger(tracking_uri=(tmp_path / "mlruns").as_uri())
    probe = callback()
    fit(tmp_path, [probe], logger=logger)
    client = logger.experiment
    history = client.get_metric_history(logger.run_id, "hfc_lfc/r02")
    expected = probe.probe.results["frequency_accuracy"].scalars()["hfc_lfc/r02"]
    assert [one.step for one in history] == [6, 12]
    assert history[-1].value == pytest.approx(expected)
    assert client.list_artifacts(logger.run_id, "hfc_probe")


def test_a_trainer_without_logger_is_told_and_results_kept(tmp_path, caplog):
    probe = callback()
    fit(tmp_path, [probe], logger=False, epochs=1)
    assert caplog.text.count("the trainer has no logger") == 1
    assert set(probe.probe.results) == {"frequency_accuracy", "kernel_spectra"}


def test_a_resumed_training_is_that_which_was_never_stopped(tmp_path):
    def run(name, added, **options):
        keep = callbacks.ModelCheckpoint(tmp_path / name, save_top_k=-1, every_n_epochs=1)
        logger = TensorBoardLogger(tmp_path, name=name, version=0)
        return fit(tmp_path, [*added, keep], logger=logger, **options)[0]

    run("whole", [callback()], epochs=3)
    run("stopped", [callback()], epochs=1)
    (checkpoint,) = (tmp_path / "stopped").glob("*.ckpt")
    probe = callback()
    plain = run("plain", [], epochs=3, ckpt_path=checkpoint)
    resumed = run("stopped", [probe], epochs=3, ckpt_path=checkpoint)
    assert same(plain.state_dict(), resumed.state_dict())
    expected, found = (scalars(tmp_path / n / "version_0") for n in ("whole", "stopped"))
    for tag in ("hfc_lfc/r02", "hfc_network.0/smoothness_mean"):
        assert found[tag] == expected[tag] == sorted(set(found[tag]))
    assert (probe.probe.steps, probe.probe.epochs) == (18, 3)


def test_a_checkpoint_without_the_probes_state_resumes_at_the_trainers_position(tmp_path):
    """The probe is added when a training is resumed, into a directory that holds later steps."""
    fit(tmp_path, [], logger=TensorBoardLogger(tmp_path / "a"), epochs=1)
    (checkpoint,) = (tmp_path / "a").rglob("*.ckpt")
    for _ in range(2):
        probe = callback(log_dir=tmp_path / "log")
        fit(tmp_path, [probe], logger=False, epochs=2, ckpt_path=checkpoint)
        assert (probe.probe.steps, probe.probe.epochs) == (12, 2)
    found = scalars(tmp_path / "log")
    assert found["hfc_lfc/r02"] == [12]
    assert found["hfc_network.0/smoothness_mean"] == [8, 10, 12]


def test_the_trained_model_is_measured_when_training_ends_unless_told_otherwise(tmp_path):
    for final, found in ((True, {"kernel_spectra"}), (False, set())):
        probe = FrequencyCallback(measurements={KernelSpectra(): Every(epochs=9)}, final=final)
        fit(tmp_path, [probe], logger=False, epochs=1)
        assert probe.probe.results.keys() == found


def test_a_step_of_two_optimizers_passes_no_due_step_by(tmp_path, monkeypatch):
    class Two(Classifier):
        automatic_optimization = False

        def training_step(self, batch, _):
            for optimizer in self.optimizers():
                optimizer.zero_grad()
                self.manual_backward(super().training_step(batch, _))
                optimizer.step()

        def configure_optimizers(self):
            return [torch.optim.SGD(part.parameters(), 0.1) for part in self.network[::6]]

    monkeypatch.setitem(globals(), "Classifier", Two)
    probe = FrequencyCallback(measurements={KernelSpectra(): Every(steps=3)}, budget=1.0)
    fit(tmp_path, [probe], logger=TensorBoardLogger(tmp_path), epochs=1)
    found = scalars(tmp_path / "lightning_logs" / "version_0")
    assert found["hfc_network.0/smoothness_mean"] == [4, 6, 10, 12]


DDP = """
import sys, torch, warnings
warnings.simplefilter("ignore")
import lightning.pytorch
from lightning.pytorch.loggers import TensorBoardLogger
from tests.hosts.test_lightning import Classifier, callback, dataset
from torch.utils.data import DataLoader

for name in ("plain", "probed"):
    lightning.pytorch.seed_everything(0, verbose=False)
    trainer = lightning.pytorch.Trainer(
        max_epochs=2, accelerator="cpu", devices=2, strategy="ddp", enable_progress_bar=False,
        enable_model_summary=False, callbacks=[callback()] if name == "probed" else [],
        logger=TensorBoardLogger(sys.argv[1], name=name, version=0), enable_checkpointing=False,
    )
    model = Classifier()
    trainer.fit(model, DataLoader(dataset(24, 0), 4, shuffle=True), DataLoader(dataset(16, 1), 8))
    if trainer.is_global_zero:
        torch.save(model.state_dict(), f"{sys.argv[1]}/{name}.pth")
        print("steps", trainer.global_step, "of", trainer.world_size)
"""


@pytest.mark.slow
def test_two_processes_end_with_the_same_weights_and_log_once(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(DDP)
    paths = os.pathsep.join([str(ROOT), str(ROOT / "plugins")])
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("steps 6 of 2") == 2
    states = [torch.load(tmp_path / f"{n}.pth", weights_only=True) for n in ("plain", "probed")]
    assert same(*states)
    found = scalars(tmp_path / "probed" / "version_0")
    assert found["hfc_lfc/r02"] == [3, 6]
    assert found["hfc_network.0/smoothness_mean"] == [2, 4, 6]
    assert len(list((tmp_path / "probed").rglob("events*"))) == 1


def test_limits_and_fast_runs_are_respected(tmp_path):
    probe = callback()
    fit(tmp_path, [probe], logger=False, epochs=1, limit_val_batches=1)
    assert len(probe.probe.samples) == 8
    probe = callback()
    fit(tmp_path, [probe], logger=False, epochs=1, limit_val_batches=0.5)
    assert len(probe.probe.samples) == 8
    probe = callback()
    fit(tmp_path, [probe], fast_dev_run=True)
    assert probe.probe.results["kernel_spectra" if probe.probe.steps > 1 else "frequency_accuracy"]


def test_data_of_ones_own_and_none_at_all(tmp_path):
    probe = callback(data=DataLoader(dataset(12, 2), 4))
    fit(tmp_path, [probe], logger=False, epochs=1, val=False)
    assert probe.probe.samples.image_shape == (3, 12, 12)
    with pytest.raises(InputError, match="pass data="):
        fit(tmp_path, [callback()], logger=False, epochs=1, val=False)


def test_a_loader_that_fabric_set_up_gives_a_random_choice():
    from lightning.fabric import Fabric

    data = dataset(64, 3)
    data.tensors = (data.tensors[0], torch.arange(64) // 16)  # sorted by class
    loader = Fabric(accelerator="cpu").setup_dataloaders(DataLoader(data, 8))
    assert not isinstance(loader, DataLoader)
    samples = Samples.collect(loader, limit=24, pixels=PixelSpace())
    assert samples.targets.unique().numel() == 4


def test_a_model_that_fabric_set_up_keeps_the_names_of_its_layers():
    from lightning.fabric import Fabric

    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    wrapped, _ = Fabric(accelerator="cpu").setup(model, optimizer)
    assert wrapped is not model
    names = KernelSpectra().measure(wrapped).scalars()
    assert list(names) == list(KernelSpectra().measure(model).scalars())


def test_a_measurement_that_fails_does_not_stop_the_trainer(tmp_path, caplog):
    class Raises(KernelSpectra):
        def compute(self, subject):
            raise RuntimeError("planted failure")

    probe = FrequencyCallback(measurements={Raises(): Every(steps=1)}, budget=1.0)
    _, trainer = fit(tmp_path, [probe], logger=False)
    assert trainer.global_step == 12
    assert "planted failure" in caplog.text


class Logging(Classifier):
    """Logs within forward, and keeps a metric there, as some published modules do."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        out = self.network(x)
        self.log("score", x.mean(), on_step=False, on_epoch=True)
        self.log_dict({"images": float(len(x))}, on_step=False, on_epoch=True, reduce_fx="sum")
        self.seen.append(len(x))
        return out


def test_what_a_module_logs_in_its_forward_is_of_the_users_images_alone(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "Classifier", Logging)
    every = {FrequencyAccuracy(radii=(2, 4)): Every(steps=1)}
    probe = FrequencyCallback(measurements=every, budget=1.0, strict=True)
    (one, plain), (two, probed) = (fit(tmp_path, c, logger=False) for c in ([], [probe]))
    assert probe.probe.results
    assert plain.callback_metrics["images"] == 24
    assert plain.callback_metrics.keys() == probed.callback_metrics.keys()
    for name, value in plain.callback_metrics.items():
        assert torch.equal(value, probed.callback_metrics[name]), name
    assert one.seen == two.seen
    assert "log" not in vars(two)


def test_two_callbacks_in_one_trainer_each_keep_their_state(tmp_path):
    def pair():
        first = FrequencyCallback(measurements={KernelSpectra(): Every(steps=2)}, budget=1.0)
        second = FrequencyCallback(
            measurements={FrequencyAccuracy(radii=(2,)): Every(epochs=1)}, budget=1.0
        )
        return [first, second]

    fit(tmp_path, pair(), logger=TensorBoardLogger(tmp_path / "a"), epochs=1)
    (checkpoint,) = (tmp_path / "a").rglob("*.ckpt")
    both = pair()
    logger = TensorBoardLogger(tmp_path / "b")
    fit(tmp_path, [*both], logger=logger, epochs=2, ckpt_path=checkpoint)
    runs = [c.probe.state_dict()["measurements"] for c in both]
    assert runs[0]["kernel_spectra"]["runs"] == 6
    assert runs[1]["frequency_accuracy"]["runs"] == 2


def test_two_callbacks_of_the_same_measurements_need_a_directory_each(tmp_path):
    with pytest.raises(InputError, match="kernel_spectra, which write the same tags; give the"):
        fit(tmp_path, [callback(), callback()], logger=TensorBoardLogger(tmp_path), epochs=1)
    other = callback(log_dir=tmp_path / "other")
    fit(tmp_path, [callback(), other], logger=TensorBoardLogger(tmp_path), epochs=1)
    assert scalars(tmp_path / "other")["hfc_lfc/r02"] == [6]
