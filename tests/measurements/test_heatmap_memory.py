"""Heatmaps of a training: each starts from the last, and a jump is noticed and measured again."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

import hfc_probe
from hfc_probe import FourierHeatmap, Samples, fourier
from hfc_probe.measurements.fourier_heatmap.field import Seen

from . import test_heatmap_estimators as planted

SIZE, N, CELLS = 16, 400, 130
SETTINGS = FourierHeatmap(norm=1.5, samples=N, forwards=N + 12 * CELLS)


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 36, 5),
    ).eval()


def samples_for(model: nn.Module) -> Samples:
    """Images that the network has right, so that every error is the noise's."""
    torch.manual_seed(9)
    images = torch.rand(N, 3, SIZE, SIZE)
    with torch.no_grad():
        return Samples(images, model(images).argmax(1))


def moved(model: nn.Module, by: float) -> nn.Module:
    other = copy.deepcopy(model)
    torch.manual_seed(3)
    with torch.no_grad():
        for weight in other.parameters():
            weight += by * weight.std() * torch.randn_like(weight)
    return other


def sequence(*models):
    """A map of each from the memory of the one before, and the exhaustive maps."""
    samples, last, found = samples_for(models[0]), None, []
    for model in models:
        last = SETTINGS.run(model, samples, last=last)
        found.append(last)
    whole = FourierHeatmap(norm=1.5, samples=N)
    return found, [whole.run(model, samples).error for model in models]


def covered(result, truth):
    return ((result.lower - 1e-9 <= truth) & (truth <= result.upper + 1e-9)).mean()


@pytest.mark.slow
def test_a_later_map_of_the_same_network_takes_a_part_of_the_passes_and_is_as_good():
    model = network(0)
    maps, truths = sequence(model, model, model)
    assert maps[1].passes < 0.7 * maps[0].passes
    off = [np.sqrt(((m.error - t) ** 2).mean()) for m, t in zip(maps, truths, strict=True)]
    assert max(off[1:]) < 1.1 * off[0]
    assert min(covered(m, t) for m, t in zip(maps, truths, strict=True)) >= 0.93


@pytest.mark.slow
def test_a_jump_is_noticed_measured_again_and_no_interval_is_wrong_for_long():
    model = network(0)
    jumped = moved(model, 1.0)
    maps, truths = sequence(model, model, jumped, jumped)
    assert np.abs(truths[2] - truths[1]).mean() > 0.1
    assert maps[2].passes > 1.5 * maps[1].passes
    assert covered(maps[2], truths[2]) >= 0.9
    assert covered(maps[3], truths[3]) >= 0.93


def test_a_probe_hands_the_last_map_to_the_next():
    model = network(0)
    samples = samples_for(model)
    with hfc_probe.attach(
        model, samples, measurements=[SETTINGS], budget=1, strict=True, final=False
    ) as probe:
        probe.end_epoch()
        first = probe.results["fourier_heatmap"]
        probe.end_epoch()
        second = probe.results["fourier_heatmap"]
    assert second.passes < 0.7 * first.passes
    again = SETTINGS.run(model, samples, last=first)
    np.testing.assert_array_equal(second.error, again.error)


def test_a_spike_of_the_last_map_is_sampled_by_itself_again():
    weights = dict.fromkeys(fourier.half_plane(SIZE, SIZE), 0.0)
    weights[(3, 4)] = 1.0  # its neighbours on the grid do no harm at all
    model = planted.Linear(weights)
    samples = planted.images_for(model)
    settings = FourierHeatmap(norm=1.0, samples=planted.N, forwards=planted.N + 12 * CELLS)
    first = settings.run(model, samples)
    second = settings.run(model, samples, last=first)
    truth = FourierHeatmap(norm=1.0, samples=planted.N).measure(model, samples).error
    at = (SIZE // 2 + 3, SIZE // 2 + 4)
    assert first.unsafe == second.unsafe == ((3, 4),)
    assert second.lower[at] <= truth[at] <= second.upper[at]
    assert second.error[truth == 0].max() < 0.05


def test_a_map_of_the_two_likeliest_classes_is_about_those_two():
    model = network(0)
    samples = samples_for(moved(model, 1.0))
    whole = FourierHeatmap(norm=1.5, samples=N, topk=2).measure(model, samples)
    few = FourierHeatmap(norm=1.5, samples=N, topk=2, forwards=SETTINGS.forwards).measure(
        model, samples
    )
    assert np.sqrt(((few.error - whole.error) ** 2).mean()) < 0.04
    assert covered(few, whole.error) >= 0.93


class Same(nn.Module):
    """The same logits for every image."""

    def __init__(self, logits: list[float]) -> None:
        super().__init__()
        self.register_buffer("logits", torch.tensor(logits))

    def forward(self, x):
        return self.logits.repeat(len(x), 1)


def all_of(value: bool):
    def score(model, inputs, targets):
        return torch.full((len(inputs),), value)

    return score


@pytest.mark.parametrize(
    ("logits", "score", "error"),
    [
        ([0.0, 0.0], all_of(True), 0),
        ([0.0, 0.0], all_of(False), 1),
        ([0.0, 0.0, 0.0], None, 0),
        ([1.0, 0.0], None, 0),
    ],
    ids=["all right", "all wrong", "zero logits", "saturated"],
)
def test_margins_that_are_all_equal_make_a_map_and_a_later_one(logits, score, error):
    samples = Samples(torch.rand(N, 1, SIZE, SIZE), torch.zeros(N, dtype=torch.long))
    settings = FourierHeatmap(norm=1.5, samples=N, forwards=SETTINGS.forwards, score=score)
    first = settings.run(Same(logits).eval(), samples)
    for found in (first, settings.run(Same(logits).eval(), samples, last=first)):
        assert np.abs(found.error - error).max() < 0.005
        assert ((found.lower <= error) & (error <= found.upper)).all()
        assert (found.upper - found.lower).max() < 0.07


def test_a_map_of_other_images_or_noise_is_no_start():
    model = network(0)
    samples = samples_for(model)
    few = dataclasses.replace(SETTINGS, forwards=N + 4 * CELLS)
    alone = few.run(model, samples)
    flipped = Samples(samples.images.flip(3), samples.targets)
    wider = nn.Sequential(model, nn.ConstantPad1d((0, 1), -99.0)).eval()
    others = [
        dataclasses.replace(few, norm=1.0).run(model, samples),
        dataclasses.replace(few, seed=1).run(model, samples),
        dataclasses.replace(few, topk=2).run(model, samples),
        few.run(model, flipped),
        few.run(wider, samples),
    ]
    for last in others:
        np.testing.assert_array_equal(few.run(model, samples, last=last).error, alone.error)
    # The same one, though some of the images are looked at, and in another way.
    some = dataclasses.replace(few, samples=300)
    last = some.run(model, samples)
    effort = dataclasses.replace(some, autocast=True)
    again = effort.run(model, samples, last=last)
    assert np.abs(again.error - effort.run(model, samples).error).max() > 0


def test_a_training_that_returns_to_a_checkpoint_starts_from_no_later_map():
    model = network(0)
    with hfc_probe.attach(
        model, samples_for(model), measurements=[SETTINGS], budget=1, strict=True, final=False
    ) as probe:
        state = probe.state_dict()
        probe.end_epoch()
        first = probe.results["fourier_heatmap"]
        probe.load_state_dict(state)
        assert probe.results == {}
        probe.end_epoch()
        assert probe.results["fourier_heatmap"].passes == first.passes


def test_a_jump_takes_no_more_passes_than_were_asked_for():
    model = network(0)
    samples = samples_for(model)
    settings = dataclasses.replace(SETTINGS, forwards=N + 30 * CELLS)
    first = settings.run(model, samples)
    apart = np.arange(CELLS) % 5 == 0
    memory = dataclasses.replace(first.memory, apart=apart)
    last = dataclasses.replace(first, memory=memory)
    jump = settings.run(moved(model, 1.0), samples, last=last)
    assert 0.98 * settings.forwards < jump.passes <= settings.forwards
    assert jump.passes <= settings.cost(N, (3, SIZE, SIZE))


def test_what_is_remembered_of_an_image_is_spread_over_the_directions():
    cells = np.repeat(np.arange(64), 5)
    images = np.tile(np.arange(5), 64)
    seen = Seen(cells, images, np.zeros(320), np.zeros(320))
    newer = Seen(np.array([3]), np.array([0]), np.zeros(1), np.full(1, -1.0))
    kept = (seen + newer).later(0.1, 16)
    for image in range(5):
        own = np.sort(kept.cells[kept.images == image])
        assert len(own) == 16
        assert own[3] < 32 < own[12]
    assert (kept.times == -0.9).sum() == 1  # the newest first of all


def test_after_a_network_that_says_one_thing_the_map_of_another_is_learnt_anew():
    model = network(0)
    samples = samples_for(model)
    truth = FourierHeatmap(norm=1.5, samples=N).run(model, samples).error
    first = SETTINGS.run(Same([1.0, 0.0, 0.0, 0.0, 0.0]).eval(), samples)
    second = SETTINGS.run(model, samples, last=first)
    alone = SETTINGS.run(model, samples)
    off = [np.sqrt(((m.error - truth) ** 2).mean()) for m in (second, alone)]
    assert off[0] < 1.2 * off[1]
    assert covered(second, truth) >= 0.93
    # A later map has to be as sure as the second, not as the first.
    assert second.memory.deviation > 2 * first.memory.deviation


class Energy(nn.Module):
    """Two classes by one coefficient, which the others' energy, weighed, pulls towards zero.

    So the error of a cell is a function of its weight, of any size.
    """

    def __init__(self, weights: dict[tuple[int, int], float]) -> None:
        super().__init__()
        directions = fourier.half_plane(SIZE, SIZE)
        waves = [fourier.basis(i, j, SIZE, SIZE).flatten() for i, j in directions]
        self.register_buffer("waves", torch.stack(waves).T)
        self.register_buffer("weights", torch.tensor([weights[at] for at in directions]))
        self.read = directions.index((0, 1))

    def forward(self, x):
        found = (x[:, 0] - 0.5).flatten(1) @ self.waves
        total = found[:, self.read]
        total = total.sign() * (total.abs() - found**2 @ self.weights)
        return torch.stack([-total, total], 1)


def ring(radius: float, spikes: dict[tuple[int, int], float] | None = None) -> Energy:
    """Errors that are smooth over the frequencies, largest at a radius, but for spikes."""
    weights = {
        (i, j): 0.004 + 0.03 * float(np.exp(-((np.hypot(i, j) - radius) ** 2) / 8))
        for i, j in fourier.half_plane(SIZE, SIZE)
    }
    return Energy(weights | {(0, 1): 0.004} | (spikes or {}))


def read_by(model: Energy) -> Samples:
    """Images with their classes by the coefficient alone."""
    images = planted.images_for(planted.Linear(planted.smooth_weights())).images
    found = (images[:, 0] - 0.5).flatten(1) @ model.waves[:, model.read]
    return Samples(images, (found > 0).long())


def test_intervals_cover_if_margins_are_nearly_certain():
    models = ring(3.0), ring(3.3)
    samples, inside, half = read_by(models[0]), [], []
    for seed in range(3):  # the cells of one map are off together
        whole = FourierHeatmap(norm=1.0, samples=planted.N, seed=seed)
        few, last = dataclasses.replace(whole, forwards=planted.N + 12 * CELLS), None
        for model in models:
            last = few.run(model, samples, last=last)
            inside.append(covered(last, whole.run(model, samples).error))
            half.append((last.upper - last.lower).mean() / 2)
    assert np.mean(inside[::2]) >= 0.93
    assert np.mean(inside[1::2]) >= 0.93
    assert max(half) < 0.04


def test_a_new_spike_is_found_within_three_later_maps_and_smooth_cells_are_not_set_apart():
    at = (6, -5)
    smooth, spiked = ring(3.0), ring(3.0, {at: 0.03})
    samples = read_by(smooth)
    settings = FourierHeatmap(norm=1.0, samples=planted.N, forwards=planted.N + 30 * CELLS)
    first = settings.run(smooth, samples)
    place = at[0] + SIZE // 2, at[1] + SIZE // 2
    truth = FourierHeatmap(norm=1.0, samples=planted.N).run(spiked, samples).error[place]
    assert truth > first.error[place] + 0.25
    last = first
    for _ in range(3):
        last = settings.run(spiked, samples, last=last)
    assert last.unsafe == (at,)
    assert last.lower[place] <= truth <= last.upper[place]
    last, set_apart = first, 0
    for _ in range(4):
        last = settings.run(smooth, samples, last=last)
        assert last.passes < 2.5 * planted.N
        set_apart += len(last.unsafe)
    assert set_apart <= 1
