"""Pixel space and the choice of samples: what a user's loader becomes."""

from __future__ import annotations

import math
import random
import warnings

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)
from torchvision import transforms
from torchvision.transforms import v2

from hfc_probe import InputError, PixelSpace, Samples
from hfc_probe.data.samples import find_normalization

IMAGENET = PixelSpace.imagenet()


def eight_bit(n=40, channels=3, size=6):
    return torch.randint(0, 256, (n, channels, size, size), dtype=torch.uint8)


class Photographs(Dataset):
    """8-bit images sorted by class, behind a transform, as torchvision's data sets are."""

    def __init__(self, n=40, classes=8, transform=None, channels=3):
        self.images = eight_bit(n, channels)
        self.targets = torch.arange(n) * classes // n
        self.transform = transform
        self.reads = 0

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        if not 0 <= index < len(self):
            raise IndexError(index)
        self.reads += 1
        image = self.images[index].float() / 255
        if self.transform is not None:
            image = self.transform(image)
        return image, int(self.targets[index])


def normalized(**kwargs):
    return Photographs(transform=transforms.Normalize(IMAGENET.mean, IMAGENET.std), **kwargs)


def test_a_normalised_loader_comes_back_as_the_8_bit_pixels_it_came_from():
    data = normalized()
    samples = Samples.collect(DataLoader(data, batch_size=7), pixels=IMAGENET, limit=None)
    assert samples.images.dtype == torch.uint8
    assert torch.equal(samples.images, data.images)
    assert torch.equal(samples.targets, data.targets)
    # and what the model would eat is what the loader gave, bit for bit
    again = IMAGENET.normalize(samples.pixels())
    expected = torch.stack([data[k][0] for k in range(len(data))])
    torch.testing.assert_close(again, expected, atol=1e-6, rtol=0)


def test_images_that_were_not_8_bit_stay_float():
    images = torch.rand(8, 3, 5, 5)
    samples = Samples.collect([(images, torch.zeros(8, dtype=torch.long))])
    assert samples.images.dtype == torch.float32
    assert torch.equal(samples.pixels(), images)


def test_the_choice_is_random_seeded_and_reads_only_what_it_takes():
    data = Photographs(400, 10)
    loader = DataLoader(data, batch_size=16)
    samples = Samples.collect(loader, limit=50, seed=3)
    assert data.reads == 50 + 8  # and a few a second time
    assert len(samples) == 50
    assert samples.targets.unique().numel() >= 8  # sorted data: the first 50 have 2 classes
    again = Samples.collect(loader, limit=50, seed=3)
    assert torch.equal(again.images, samples.images)
    assert not torch.equal(Samples.collect(loader, limit=50, seed=4).images, samples.images)


def test_collecting_leaves_every_random_state_alone():
    class Noisy(Photographs):
        def __getitem__(self, index):
            torch.rand(3)
            np.random.rand(3)
            random.random()
            return super().__getitem__(index)

    own = torch.Generator().manual_seed(5)
    for kind in ("map", "weighted", "workers"):
        data = Noisy()
        sampler = (
            WeightedRandomSampler([1.0] * 40, 40, generator=own) if kind == "weighted" else None
        )
        loader = DataLoader(
            data,
            8,
            shuffle=kind != "weighted",
            sampler=sampler,
            generator=own,
            num_workers=2 if kind == "workers" else 0,
        )
        before = (torch.get_rng_state(), own.get_state(), random.getstate(), np.random.get_state())
        Samples.collect(loader, limit=10)
        after = (torch.get_rng_state(), own.get_state(), random.getstate(), np.random.get_state())
        assert torch.equal(before[0], after[0]), kind
        assert torch.equal(before[1], after[1]), kind
        assert before[2] == after[2], kind
        assert all(np.array_equal(a, b) for a, b in zip(before[3], after[3], strict=True)), kind


def test_a_split_by_sampler_is_respected():
    data = Photographs(40)
    chosen = [3, 30, 17, 8]
    samples = Samples.collect(DataLoader(data, 2, sampler=SubsetRandomSampler(chosen)))
    assert torch.equal(samples.images, data.images[sorted(chosen)])


def test_a_batch_sampler_is_respected():
    data = Photographs(40)
    chosen = [3, 30, 17, 8]
    inner = BatchSampler(SubsetRandomSampler(chosen), 2, drop_last=False)

    class Own:
        def __iter__(self):
            return iter([[5, 6], [7, 8]])

    for batches, expected in ((inner, sorted(chosen)), (Own(), [5, 6, 7, 8])):
        samples = Samples.collect(DataLoader(data, batch_sampler=batches))
        assert torch.equal(samples.images, data.images[expected])


def test_the_loaders_own_collate_function_and_mappings_are_understood():
    data = Photographs(12)

    def collate(items):
        return {
            "pixel_values": torch.stack([image for image, _ in items]),
            "labels": torch.tensor([label for _, label in items]),
            "idx": list(range(len(items))),
        }

    samples = Samples.collect(DataLoader(data, 4, collate_fn=collate))
    assert torch.equal(samples.images, data.images)


ONE = torch.rand(1, 3, 4, 4)


@pytest.mark.parametrize(
    "transform",
    [
        transforms.Normalize((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)),
        transforms.Compose(
            [torch.nn.Identity(), transforms.Normalize((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))]
        ),
        v2.Compose([v2.Identity(), v2.Normalize((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))]),
        torch.nn.Sequential(torch.nn.Identity(), v2.Normalize((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))),
    ],
)
def test_a_normalisation_in_the_transforms_is_found(transform, caplog):
    expected = PixelSpace((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    data = Photographs(transform=transform)
    caplog.set_level("INFO", "hfc_probe")
    for holder in (data, Subset(data, [0, 1]), ConcatDataset([data, data])):
        assert find_normalization(DataLoader(holder)) == expected
    assert "0.1, 0.2, 0.3" in caplog.text
    samples = Samples.collect(DataLoader(Subset(data, range(10)), 5))
    assert torch.equal(samples.images, data.images[:10])


def test_no_normalisation_is_found_where_there_is_none():
    assert find_normalization(DataLoader(Photographs())) is None
    assert find_normalization(DataLoader(TensorDataset(torch.rand(3, 3, 4, 4)))) is None
    assert find_normalization([(torch.rand(3, 3, 4, 4), torch.zeros(3))]) is None


class Stream(IterableDataset):
    def __init__(self, n, classes, sort):
        self.n, self.classes, self.sort = n, classes, sort

    def __iter__(self):
        for k in range(self.n):
            target = k * self.classes // self.n if self.sort else k % self.classes
            yield torch.full((3, 4, 4), target / self.classes), target


def test_a_stream_gives_its_first_samples_and_warns_when_they_are_few_classes():
    samples = Samples.collect(DataLoader(Stream(1000, 100, sort=True), 32), limit=60)
    assert len(samples) == 60
    with pytest.warns(UserWarning, match=r"first 60 samples, and they cover 6 of 100 classes"):
        samples.warn_if_few_classes(100)
    mixed = Samples.collect(DataLoader(Stream(1000, 100, sort=False), 32), limit=60)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mixed.warn_if_few_classes(100)


def test_a_data_set_alone_grayscale_and_odd_sizes_are_taken():
    data = Photographs(9, 3, channels=1)
    assert torch.equal(Samples.collect(data).images, data.images)
    images = torch.rand(4, 5, 7, 3)
    assert Samples.collect([(images, [0, 1, 2, 0])]).image_shape == (5, 7, 3)


def test_a_pass_builds_no_tensors_of_statistics():
    from torch.utils._python_dispatch import TorchDispatchMode

    class Operations(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.names = []

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.names.append(func.__name__)
            return func(*args, **(kwargs or {}))

    pixels = PixelSpace((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    images = torch.rand(2, 3, 4, 4)
    with torch.inference_mode():
        pixels.normalize(images)  # the first one builds them, for training too
    with Operations() as seen:
        found = pixels.normalize(images)
    assert seen.names == ["sub.Tensor", "div_.Tensor"]
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (pixels.mean, pixels.std))
    assert torch.equal(found, (images - mean) / std)
    images.requires_grad_(True)
    pixels.normalize(images).sum().backward()
    torch.testing.assert_close(images.grad, (1 / std).expand_as(images))


def test_the_mean_is_over_all_pixels_of_a_channel():
    images = eight_bit(300)
    expected = (images.double() / 255).mean((0, 2, 3))
    torch.testing.assert_close(
        Samples(images, torch.zeros(300).long()).mean, expected, atol=1e-7, rtol=0
    )


def test_slight_overshoot_of_a_resize_is_clipped():
    images = torch.rand(4, 3, 5, 5)
    images[0, 0, 0, 0], images[1, 1, 1, 1] = -0.04, 1.06
    samples = Samples.collect([(images, torch.zeros(4).long())])
    assert float(samples.pixels().min()) == 0
    assert float(samples.pixels().max()) == 1


def batch(images, targets=None):
    return [(images, torch.zeros(len(images)).long() if targets is None else targets)]


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda: Samples.collect(batch(IMAGENET.normalize(torch.rand(8, 3, 4, 4)))),
            r"\[0, 1\], got -.* looks like ImageNet .*PixelSpace.imagenet\(\)",
        ),
        (lambda: Samples.collect(batch(torch.rand(8, 3, 4, 4) * 2 - 1)), r"mean 0.5, std 0.5"),
        (
            lambda: Samples.collect(batch(torch.rand(8, 3, 4, 4) * 255)),
            "divide 8-bit values by 255",
        ),
        (
            lambda: Samples.collect(batch(torch.randn(8, 3, 4, 4) * 9), pixels=IMAGENET),
            "does not undo",
        ),
        (lambda: Samples.collect(batch(torch.full((1, 3, 4, 4), math.nan))), "finite values"),
        (
            lambda: Samples.collect(batch(torch.zeros(2, 3, 4, 4, dtype=torch.int64))),
            "float, uint8 or uint16 images, got torch.int64",
        ),
        (lambda: Samples.collect([]), "at least one batch, got none"),
        (
            lambda: Samples.collect(
                DataLoader(TensorDataset(torch.rand(0, 3, 4, 4), torch.zeros(0)))
            ),
            "empty dataset",
        ),
        (
            lambda: Samples.collect(iter(batch(torch.rand(1, 3, 4, 4)))),
            "an iterator that the probe would use up",
        ),
        (lambda: Samples.collect(torch.rand(4, 3, 4, 4)), "an iterable of batches or Samples"),
        (
            lambda: Samples.collect([torch.rand(4, 3, 4, 4)]),
            r"batches as \(images, targets\) or a mapping, got Tensor",
        ),
        (lambda: Samples.collect([{"foo": 1, "bar": 2}]), "got foo, bar"),
        (
            lambda: Samples.collect([(torch.rand(4, 4), torch.zeros(4))]),
            r"\(N, C, T, H, W\), got \(4, 4\)",
        ),
        (
            lambda: Samples.collect(batch(torch.rand(4, 3, 4, 4), torch.rand(4, 10))),
            r"one-hot labels need .argmax\(1\)",
        ),
        (
            lambda: Samples.collect(batch(torch.rand(2, 3, 4, 4)) + batch(torch.rand(2, 3, 5, 5))),
            r"one size, got \(3, 4, 4\) and \(3, 5, 5\)",
        ),
        (
            lambda: Samples.collect(batch(torch.rand(2, 3, 4, 4)), limit=0),
            "limit: expected a whole number of samples of at least 1, got 0",
        ),
        (
            lambda: Samples.collect(
                batch(torch.rand(2, 3, 4, 4)), pixels=PixelSpace((0.5, 0.5), (0.5, 0.5))
            ),
            "statistics for 3 channels, got 2",
        ),
        (lambda: Samples(torch.rand(2, 3, 4, 4), torch.tensor([0, -1])), "at least 0, got -1"),
        (lambda: Samples(ONE, torch.tensor([0]), PixelSpace.imagenet()), "as normalization="),
        (
            lambda: Samples(ONE, torch.tensor([0]), "imagenet"),
            r'selection: expected "all", "random"',
        ),
        (
            lambda: Samples(ONE, torch.tensor([0]), normalization="imagenet"),
            "normalization: expected a PixelSpace such as",
        ),
        (lambda: Samples(ONE, torch.tensor([0]), caveats="few"), "a tuple of sentences, got 'few'"),
        (lambda: Samples(torch.rand(2, 3, 4, 4), torch.tensor([0.0, 1.0])), "whole class indices"),
        (
            lambda: Samples(torch.rand(2, 3, 4, 4), torch.tensor([0])),
            r"2 class indices .* got shape \(1,\)",
        ),
        (
            lambda: Samples(torch.rand(3, 4, 4), torch.tensor([0])),
            r"\(N, C, T, H, W\), got \(3, 4, 4\)",
        ),
        (lambda: Samples(torch.rand(0, 3, 4, 4), torch.tensor([])), "at least one image"),
        (lambda: Samples(torch.rand(2, 3, 4, 4) + 1, torch.tensor([0, 1])), r"\[0, 1\], got 1"),
        (lambda: PixelSpace((0.5,), (0.0,)), "std above 0"),
        (lambda: PixelSpace((0.5, 0.5), (0.5, 0.5, 0.5)), "as many means as stds"),
        (lambda: PixelSpace(("a",), (1.0,)), "PixelSpace mean: expected numbers"),
        (lambda: PixelSpace((123.7, 116.3, 103.5), (58.4, 57.1, 57.4)), "divide .* by 255"),
        (
            lambda: Samples(torch.rand(2, 8, 8, 3), torch.tensor([0, 1])),
            r"channels last; pass images.permute\(0, 3, 1, 2\)",
        ),
        (
            lambda: Samples.collect((torch.rand(2, 3, 4, 4), torch.tensor([0, 1]))),
            r"plain tensors as Samples\(images, targets\)",
        ),
        (lambda: Samples.collect(torch.nn.Sequential()), "the model comes first"),
        (lambda: Samples.collect([batch(torch.rand(2, 3, 4, 4))], pixels="imagenet"), "PixelSpace"),
    ],
)
def test_wrong_data_is_told_in_a_sentence(call, sentence):
    with pytest.raises(InputError, match=sentence):
        call()


def test_the_warning_of_unknown_normalisation_comes_once_per_loader(caplog):
    data = TensorDataset(torch.rand(6, 3, 8, 8), torch.arange(6))
    loader, another = DataLoader(data, 3), DataLoader(data, 2)
    for one in (loader, loader, another):
        Samples.collect(one)
    assert caplog.text.count("found no normalisation") == 2


class Streamed(IterableDataset):
    """What every worker reads whole unless it is told not to."""

    def __iter__(self):
        torch.manual_seed(3)
        return iter([(torch.rand(3, 8, 8), k % 4) for k in range(24)])


@pytest.mark.parametrize("workers", [0, 2])
def test_images_that_every_worker_reads_are_said_to_be_repeated(workers):
    loader = DataLoader(Streamed(), batch_size=8, num_workers=workers)
    found = [one for one in Samples.collect(loader).caveats if "are repetitions of others" in one]
    assert [one.split(",")[0] for one in found] == (
        ["24 of 48 images are repetitions of others"] if workers else []
    )


def test_channels_last_are_said_whatever_the_normalisation():
    batches = [(torch.rand(4, 32, 32, 3), torch.arange(4))]
    with pytest.raises(InputError, match=r"\(4, 32, 32, 3\) with the channels last"):
        Samples.collect(batches, pixels=PixelSpace.imagenet())
