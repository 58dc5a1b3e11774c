"""Figures of a trained network are right through every loader: which samples, which pixels."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    DistributedSampler,
    Sampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)
from torchvision import transforms, tv_tensors

from hfc_probe import FrequencyAccuracy, InputError, PixelSpace, Samples
from hfc_probe.data.samples import find_normalization

IMAGENET = PixelSpace.imagenet()
HALF = PixelSpace((0.5,) * 3, (0.5,) * 3)
MEASURE = FrequencyAccuracy(radii=(8,))


class Photographs(Dataset):
    """8-bit photographs behind a function of its own."""

    def __init__(self, samples, function=None, transform=None):
        self.images, self.targets = samples.images, samples.targets
        self.function, self.transform = function, transform

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        image = self.images[index]
        image = image.float() / 255 if self.function is None else self.function(image)
        return image if self.transform is None else self.transform(image), int(self.targets[index])


class Eats(nn.Module):
    """The network for inputs of another form."""

    def __init__(self, network, to_pixels):
        super().__init__()
        self.network, self.to_pixels = network, to_pixels

    def forward(self, x):
        return self.network(IMAGENET.normalize(self.to_pixels(x)))


@pytest.fixture(scope="module")
def photographs(cifar):
    return cifar.subset(40, seed=1)


@pytest.fixture(scope="module")
def truth(photographs, resnet20):
    """Correct originals, LFC and HFC of the network on its own normalisation."""
    return MEASURE.measure(resnet20, photographs, pixels=IMAGENET).scalars()


def agrees(result, truth):
    assert result.keys() == truth.keys()
    for tag, value in truth.items():
        assert result[tag] == pytest.approx(value, abs=1e-6), tag


def norm(space):
    return lambda image: space.normalize(image[None].float() / 255)[0]


# Loaders whose images the model takes as they are, and what the model makes of them.
SPREAD = {
    "8-bit": (lambda x: x, lambda x: x / 255),
    "float up to 255": (lambda x: x.float(), lambda x: x / 255),
    "unit": (lambda x: x.float() / 255, lambda x: x),
    "half": (norm(HALF), lambda x: x * 0.5 + 0.5),
    "own": (norm(PixelSpace((0.43, 0.4, 0.37), (0.27, 0.28, 0.3))),
            PixelSpace((0.43, 0.4, 0.37), (0.27, 0.28, 0.3)).unnormalize),
}  # fmt: skip


@pytest.mark.parametrize("kind", SPREAD)
def test_the_model_is_given_what_the_loader_yields(kind, photographs, resnet20, truth):
    function, to_pixels = SPREAD[kind]
    loader = DataLoader(Photographs(photographs, function), 32)
    agrees(MEASURE.measure(Eats(resnet20, to_pixels), loader).scalars(), truth)


@pytest.mark.parametrize("said", ["imagenet", "cifar", "identity"])
@pytest.mark.parametrize("held", ["transform", "function"])
def test_what_is_said_gives_way_to_what_the_images_show(said, held, photographs, resnet20, truth):
    """pixels= of another normalisation than the loader's own, held where it is found, or not."""
    given = {"imagenet": IMAGENET, "cifar": PixelSpace.cifar10(), "identity": PixelSpace()}[said]
    data = (
        Photographs(photographs, transform=transforms.Normalize(HALF.mean, HALF.std))
        if held == "transform"
        else Photographs(photographs, norm(HALF))
    )
    samples = Samples.collect(DataLoader(data, 32), pixels=given, limit=None)
    assert samples.normalization.is_close(HALF)
    assert torch.equal(samples.images, photographs.images)
    assert any("pixels= says" in one and "0.5" in one for one in samples.caveats)
    model = Eats(resnet20, HALF.unnormalize)
    agrees(MEASURE.measure(model, DataLoader(data, 32), pixels=given).scalars(), truth)


def test_right_words_bring_no_caveat(photographs):
    data = Photographs(photographs, transform=transforms.Normalize(IMAGENET.mean, IMAGENET.std))
    for given in (None, IMAGENET):
        samples = Samples.collect(DataLoader(data, 32), pixels=given)
        assert samples.caveats == ()
        assert samples.normalization == IMAGENET
    assert samples.provenance == {
        "data": "Photographs, 40 samples",
        "normalization": "given",
        "selection": "all",
    }


def test_a_normalisation_that_is_kept_and_not_applied(photographs, resnet20, truth):
    class Keeps(Photographs):
        normalize = transforms.Normalize(IMAGENET.mean, IMAGENET.std)

    loader = DataLoader(Keeps(photographs), 32)
    assert find_normalization(loader) == IMAGENET
    agrees(MEASURE.measure(Eats(resnet20, lambda x: x), loader).scalars(), truth)
    (caveat,) = Samples.collect(loader).caveats
    assert "was not applied" in caveat


def test_two_normalisations_in_a_row(photographs, resnet20, truth):
    twice = transforms.Compose(
        [transforms.Normalize(HALF.mean, HALF.std), transforms.Normalize((0.1,) * 3, (0.7,) * 3)]
    )
    loader = DataLoader(Photographs(photographs, transform=twice), 32)
    both = find_normalization(loader)
    assert both.is_close(PixelSpace((0.55,) * 3, (0.35,) * 3))
    agrees(MEASURE.measure(Eats(resnet20, both.unnormalize), loader).scalars(), truth)


def test_data_sets_side_by_side_are_normalised_alike_or_refused(photographs):
    one, other = (
        Photographs(photographs, transform=transforms.Normalize(space.mean, space.std))
        for space in (IMAGENET, HALF)
    )
    assert find_normalization(DataLoader(ConcatDataset([one, one]))) == IMAGENET
    with pytest.raises(InputError, match="normalised differently"):
        Samples.collect(DataLoader(ConcatDataset([one, other]), 8))


def test_float_images_on_no_grid_are_told_only_of_contradictions(photographs):
    soft = photographs.pixels() * 0.9 + 0.03 * torch.rand(40, 3, 32, 32)
    data = TensorDataset(HALF.normalize(soft), photographs.targets)
    assert Samples.collect(DataLoader(data, 32), pixels=HALF).caveats == ()
    data = Photographs(photographs, lambda x: x / 255 * 0.9 + 0.03 * torch.rand(x.shape))
    data.transform = transforms.Normalize(HALF.mean, HALF.std)
    samples = Samples.collect(DataLoader(data, 32), pixels=IMAGENET)
    assert samples.normalization == HALF
    assert "own transforms say" in samples.caveats[0]


def test_statistics_that_do_not_fit_are_refused_in_words_that_help(photographs):
    data = Photographs(photographs, lambda x: torch.randn(x.shape) * 5)
    data.transform = transforms.Normalize(HALF.mean, HALF.std)
    with pytest.raises(InputError, match=r"found in the data .* does not undo"):
        Samples.collect(DataLoader(data, 32))
    with pytest.raises(InputError, match=r"PixelSpace\(\(0,\), \(1/255,\)\)"):
        Samples.collect(DataLoader(Photographs(photographs, lambda x: x * torch.rand(x.shape)), 32))
    with pytest.raises(InputError, match="8-bit values by 255"):
        PixelSpace((0.485, 0.456, 0.406), (58.4, 57.1, 57.4))


def test_mean_and_std_swapped_are_pointed_out(photographs, resnet20):
    for space in (IMAGENET, PixelSpace.cifar10()):
        assert not space.looks_swapped
        swapped = PixelSpace(space.std, space.mean)
        for data in (photographs, DataLoader(Photographs(photographs), 32)):
            assert "swapped" in Samples.collect(data, pixels=swapped).caveats[0]


def test_albumentations_modes_are_read_or_refused():
    class Normalize:
        """As Albumentations keeps it."""

        mean, std, max_pixel_value = (0.1,) * 3, (0.2,) * 3, 255.0

        def __init__(self, normalization):
            self.normalization = normalization

    class Data(Dataset):
        def __init__(self, transform):
            self.transform = transform

    assert find_normalization(Data(Normalize("standard"))) == PixelSpace((0.1,) * 3, (0.2,) * 3)
    with pytest.raises(InputError, match="each image"):
        find_normalization(Data(Normalize("image_per_channel")))


@pytest.mark.parametrize("kind", ["mixed", "crops", "noise", "plain", "reordered", "workers"])
def test_images_that_change_at_each_reading_are_pointed_out(kind, photographs):
    def mix(items):
        images, targets = torch.utils.data.default_collate(items)
        return images * 0.6 + images.roll(1, 0) * 0.4, targets

    def reorder(items):
        return torch.utils.data.default_collate(sorted(items, key=lambda item: item[1]))

    transform = {
        "crops": transforms.RandomCrop(32, padding=4),
        "noise": lambda x: (x + 0.1 * torch.rand_like(x)).clamp(0, 1),
        "workers": transforms.RandomCrop(32, padding=4),
    }.get(kind)
    loader = DataLoader(
        Photographs(photographs, transform=transform) if kind != "workers" else Cropped(),
        16,
        collate_fn={"mixed": mix, "reordered": reorder}.get(kind),
        num_workers=kind == "workers",
    )
    before = torch.get_rng_state()
    samples = Samples.collect(loader, pixels=PixelSpace(), limit=30)
    assert torch.equal(torch.get_rng_state(), before)
    said = any("other images at each reading" in one for one in samples.caveats)
    assert said == (kind not in ("plain", "reordered"))


class Cropped(Dataset):
    def __len__(self):
        return 20

    def __getitem__(self, index):
        return transforms.RandomCrop(8)(torch.arange(768.0).view(3, 16, 16) / 768), index % 4


class Numbers(Dataset):
    """Sample k is an image of brightness k / 255."""

    def __init__(self, n=100):
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        return torch.full((1, 4, 4), index / 255), index % 10


def drawn(loader, **kwargs):
    return Samples.collect(loader, pixels=PixelSpace(), **kwargs).images[:, 0, 0, 0].tolist()


class Positions(Sampler):
    """Its indices are positions in its subset."""

    def __init__(self):
        self.subset, self.indices, self.passes = [50, 60, 70, 80], [0, 1, 2, 3], 0

    def __len__(self):
        return 4

    def __iter__(self):
        self.passes += 1
        self.indices.reverse()
        return iter([self.subset[k] for k in self.indices])


class ByName(Positions):
    def __init__(self):
        super().__init__()
        self.names, self.indices = [50, 60, 70, 80], {"a": 1}

    def __iter__(self):
        return iter(self.names)


@pytest.mark.parametrize("ranks", [1, 3])
def test_a_sampler_that_repeats_indices_and_leaves_others_out_is_said(ranks):
    timm = pytest.importorskip("timm.data.distributed_sampler")
    data = Subset(Numbers(), range(64))
    sampler = timm.RepeatAugSampler(data, ranks, 0, selected_round=0)
    found = Samples.collect(DataLoader(data, 8, sampler=sampler), pixels=PixelSpace())
    assert len(found.images.flatten(1).unique(dim=0)) == 22
    assert found.caveats == (
        "RepeatAugSampler repeats indices and gives 22 of the 64 samples of the data set; pass a "
        "loader of validation data without it.",
    )
    for shared in (False, True):  # padding repeats too, and leaves none out
        padded = DistributedSampler(data, ranks, 0, shuffle=shared)
        loader = DataLoader(data, 8, sampler=padded)
        assert Samples.collect(loader, pixels=PixelSpace()).caveats == ()


def test_a_sampler_is_believed_for_what_it_yields():
    positions = Positions()
    assert drawn(DataLoader(Numbers(), 2, sampler=positions)) == [50, 60, 70, 80]
    assert (positions.passes, positions.indices) == (0, [0, 1, 2, 3])  # it was a copy
    assert drawn(DataLoader(Numbers(), 2, sampler=ByName())) == [50, 60, 70, 80]
    assert drawn(DataLoader(Numbers(), 2, sampler=range(7, 9))) == [7, 8]
    assert drawn(DataLoader(Numbers(), 2, sampler=torch.utils.data.SequentialSampler([0] * 3))) == [
        0, 1, 2,
    ]  # fmt: skip
    inner = BatchSampler(positions, 3, drop_last=True)
    assert drawn(DataLoader(Numbers(), batch_sampler=inner)) == [50, 60, 70, 80]
    own = torch.Generator().manual_seed(1)
    weights = [0.0] * 90 + [1.0] * 10
    found = drawn(
        DataLoader(Numbers(), 4, sampler=WeightedRandomSampler(weights, 30, generator=own))
    )
    assert len(found) == 30
    assert min(found) >= 90
    assert torch.equal(own.get_state(), torch.Generator().manual_seed(1).get_state())


def wrapper(kind):
    if kind == "lightning":
        distributed = pytest.importorskip("lightning.fabric.utilities.distributed")
        return distributed.DistributedSamplerWrapper

    class Indices(Dataset):
        def __init__(self, sampler):
            self.sampler = sampler

        def __len__(self):
            return len(self.sampler)

        def __getitem__(self, index):
            return list(self.sampler)[index]

    class Wrapper(DistributedSampler):
        """As many scripts have it: another sampler's indices, shared among processes."""

        def __init__(self, sampler, **kwargs):
            super().__init__(Indices(sampler), **kwargs)

        def __iter__(self):
            held = list(self.dataset.sampler)
            return iter([held[k] for k in super().__iter__()])

    return Wrapper


@pytest.mark.parametrize("kind", ["lightning", "by hand"])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_the_shares_of_all_processes_make_the_set(kind, world):
    inner = SubsetRandomSampler(range(80, 100))
    for rank in range(world):
        sampler = wrapper(kind)(inner, num_replicas=world, rank=rank, shuffle=False)
        assert drawn(DataLoader(Numbers(), 8, sampler=sampler)) == list(range(80, 100))
        assert sampler.rank == rank
    plain = DistributedSampler(Numbers(), num_replicas=3, rank=1)
    assert drawn(DataLoader(Numbers(), 8, sampler=plain), limit=None) == list(range(100))


def test_a_share_whose_others_cannot_be_told_is_pointed_out():
    class Share(Sampler):
        rank, num_replicas = 1, 2

        def __len__(self):
            return 5

        def __iter__(self):
            assert self.rank == 1
            return iter(range(5, 10))

    samples = Samples.collect(DataLoader(Numbers(), 4, sampler=Share()), pixels=PixelSpace())
    assert len(samples) == 5
    assert "one of 2 processes" in samples.caveats[0]


def test_a_loader_with_an_iter_of_its_own_is_read_as_it_is(photographs, resnet20, truth):
    class Normalizing(DataLoader):
        passes = 0

        def __iter__(self):
            self.passes += 1
            for images, targets in super().__iter__():
                yield IMAGENET.normalize(images), targets

    loader = Normalizing(Photographs(photographs), 32)
    agrees(MEASURE.measure(resnet20, loader).scalars(), truth)
    assert loader.passes == 0
    assert Samples.collect(loader, limit=24).selection == "first"
    assert Samples.collect(loader).selection == "all"

    class Augmenting(DataLoader):
        def __iter__(self):
            for images, targets in super().__iter__():
                yield images * torch.rand(len(images), 1, 1, 1), targets

    caveats = Samples.collect(Augmenting(Photographs(photographs), 32)).caveats
    assert any("other images" in one for one in caveats)


def test_images_and_labels_of_many_types(caplog):
    images = torch.randint(0, 256, (6, 3, 4, 4), dtype=torch.uint8)
    labels = torch.arange(6)
    deep = torch.from_numpy(images.numpy().astype(np.uint16) * 257)
    for given in (tv_tensors.Image(images), images.as_subclass(tv_tensors.Image), deep):
        for targets in (
            labels,
            labels.as_subclass(tv_tensors.Mask),
            {"label": labels},
            [*range(6)],
        ):
            samples = Samples.collect([(given, targets)], pixels=IMAGENET)
            assert type(samples.images) is type(samples.targets) is torch.Tensor
            torch.testing.assert_close(samples.pixels(), images / 255)
            assert samples.targets.tolist() == list(range(6))
    assert type(Samples(tv_tensors.Image(images), labels).images) is torch.Tensor
    torch.testing.assert_close(Samples(deep, labels).pixels(), images / 255)
    for wrong, what in (
        (["cat"] * 6, "'cat'"),
        ([None] * 6, "NoneType"),
        (None, "NoneType"),
        ({"name": ["cat"] * 6}, "name"),
    ):
        with pytest.raises(InputError, match=f"labels: expected .*{what}"):
            Samples.collect([(images, wrong)])
    with pytest.raises(InputError, match=r"one data set or loader, got 2 by name \(train, test\)"):
        Samples.collect({"train": [], "test": []})


def test_subsets_keep_what_is_known(photographs):
    samples = Samples.collect(DataLoader(Photographs(photographs), 32)).subset(9)
    assert samples.caveats
    assert samples.normalization == PixelSpace()
    assert samples.provenance["selection"] == "random"
    held = Samples.collect(DataLoader(Subset(Photographs(photographs), range(9)), 3))
    assert held.provenance["data"] == "Subset of Photographs, 9 samples"


def test_caveats_are_logged_once_per_loader(photographs, caplog):
    loader = DataLoader(Photographs(photographs, lambda x: x), 32)
    for _ in range(2):
        assert "8-bit values" in Samples.collect(loader).caveats[0]
    assert [r.levelno for r in caplog.records].count(logging.WARNING) == 1


def test_a_further_field_that_looks_like_labels_is_said():
    images, labels = torch.rand(12, 3, 8, 8), torch.arange(12) % 3
    three = DataLoader(TensorDataset(images, torch.arange(12) % 2, labels), batch_size=4)
    samples = Samples.collect(three)
    assert samples.targets.tolist() == [0, 1] * 6
    assert any("field 2 looks like labels too" in one for one in samples.caveats)
    two = DataLoader(TensorDataset(images, labels, torch.rand(12)), batch_size=4)
    assert not any("looks like labels" in one for one in Samples.collect(two).caveats)
