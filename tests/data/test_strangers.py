"""Loaders in the shapes that public training scripts have: read right, and left as they were."""

from __future__ import annotations

import functools
import logging

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset
from torchvision import transforms

import hfc_probe
from hfc_probe import FrequencyAccuracy, InputError, PixelSpace, Samples
from hfc_probe.data.samples import find_normalization
from hfc_probe.datasets import PlantedFrequencies

IMAGENET = PixelSpace.imagenet()
NORMALIZE = transforms.Normalize(IMAGENET.mean, IMAGENET.std)


def eight_bit(n, size=8):
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8)


class Items(Dataset):
    """8-bit photographs, sorted by class, as dicts or pairs."""

    def __init__(self, n=32, classes=4, kind="pair"):
        self.photographs = eight_bit(n)
        self.classes = classes
        self.kind = kind

    def __len__(self):
        return len(self.photographs)

    def image(self, index):
        return self.photographs[index].float() / 255

    def __getitem__(self, index):
        if not 0 <= index < len(self):
            raise IndexError(index)
        image, target = self.image(index), index * self.classes // len(self)
        return (image, target) if self.kind == "pair" else {"img": image, "cls": target}


class Stream(IterableDataset):
    def __init__(self, items):
        self.items = items

    def __iter__(self):
        return iter([self.items[k] for k in range(len(self.items))])


class ToDevice:
    """A loader of a script's own, around a DataLoader."""

    def __init__(self, loader):
        self.dl = loader

    def __iter__(self):
        for images, targets in self.dl:
            yield images.to("cpu"), targets.to("cpu")

    def __len__(self):
        return len(self.dl)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4))


@pytest.mark.parametrize("shape", ["wrapped", "stream"])
def test_workers_that_stay_between_epochs_start_with_the_users_first_epoch(shape):
    """A reading by the probe may not be the one that starts them and draws their seed."""

    def states(probed):
        torch.manual_seed(0)
        items = Items() if shape == "wrapped" else Stream(Items())
        inner = DataLoader(items, 8, num_workers=1, persistent_workers=True)
        loader = ToDevice(inner) if shape == "wrapped" else inner
        if probed:
            Samples.collect(loader, pixels=PixelSpace(), limit=16)
        seen = []
        for _ in range(2):
            seen.append(torch.stack([images.sum() for images, _ in loader]))
            seen.append(torch.get_rng_state())
        return seen

    for plain, probed in zip(states(False), states(True), strict=True):
        assert torch.equal(plain, probed)


def test_a_generator_inside_a_loader_of_ones_own_is_put_back():
    own = torch.Generator().manual_seed(3)
    before = own.get_state()
    Samples.collect(ToDevice(DataLoader(Items(), 8, shuffle=True, generator=own)), limit=None)
    assert torch.equal(own.get_state(), before)


def test_timms_prefetching_loader_gives_a_random_choice_of_8_bit_pixels():
    timm = pytest.importorskip(
        "timm", reason="timm is not installed: pip install 'hfc_probe[timm]'"
    )

    class Pictures(Items):
        """Its transform is timm's to set; the last one there makes uint8 arrays."""

        def __getitem__(self, index):
            image = transforms.functional.to_pil_image(self.photographs[index])
            return self.transform(image), index * self.classes // len(self)

    loader = timm.data.create_loader(
        Pictures(64),
        (3, 8, 8),
        8,
        mean=IMAGENET.mean,
        std=IMAGENET.std,
        crop_pct=1.0,
        persistent_workers=False,
        device=torch.device("cpu"),
        num_workers=0,
    )
    assert not isinstance(loader, DataLoader)  # timm's prefetcher, or the test shows nothing
    assert find_normalization(loader) == IMAGENET
    samples = Samples.collect(loader, limit=24)
    assert samples.images.dtype == torch.uint8
    assert samples.targets.unique().numel() == 4  # sorted by class: the first 24 have two
    # What the model is given is what timm would have given it.
    given = torch.cat([images for images, _ in loader])
    assert torch.equal(Samples.collect(loader, limit=None).images, loader.dataset.photographs)
    torch.testing.assert_close(
        IMAGENET.normalize(Samples.collect(loader, limit=None).pixels()), given
    )


@pytest.mark.parametrize("kind", ["float", "uint8", "overshoot"])
def test_a_training_loop_that_normalises_by_itself_is_told_with_pixels(kind):
    images, targets = eight_bit(48).float() / 255, torch.arange(48) % 4
    if kind == "uint8":
        loader = [((images * 255).round().to(torch.uint8), targets)]
    elif kind == "overshoot":  # a bicubic resize of floats
        images[0, 0, 0, 0], images[1, 1, 1, 1] = -0.04, 1.05
        loader = [(images, targets)]
    else:
        loader = [(images, targets)]
    model = network().eval()
    result = FrequencyAccuracy(radii=(2,)).measure(model, loader, pixels=IMAGENET)
    # The accuracy that the script prints, of NORMALIZE(images) in its loop.
    with torch.no_grad():
        correct = (model(NORMALIZE(images.clamp(0, 1))).argmax(1) == targets).sum().item()
        unnormalised = (model(images).argmax(1) == targets).sum().item()
    assert correct != unnormalised
    assert result.scalars()["hfc_accuracy/original"] == pytest.approx(correct / 48)


def test_one_normalised_batch_that_looks_raw_does_not_decide():
    grey = torch.full((4, 3, 6, 6), 0.5)
    photographs = eight_bit(4, size=6).float() / 255
    pixels = PixelSpace((0.4,), (0.3,))
    loader = [(pixels.normalize(x), torch.zeros(4).long()) for x in (grey, photographs)]
    assert 0 < float(loader[0][0].min()) < float(loader[0][0].max()) + 1 < 2
    samples = Samples.collect(loader, pixels=pixels)
    expected = torch.cat([grey, photographs])
    torch.testing.assert_close(samples.pixels(), expected, atol=1e-5, rtol=0)


def test_images_without_a_known_normalisation_are_pointed_out_once(caplog):
    loader = DataLoader(Items(), 8)
    hfc_probe.attach(network(), loader, measurements=[FrequencyAccuracy(radii=(2,))]).close()
    assert caplog.text.count("found no normalisation") == 1
    assert "pixels=hfc_probe.PixelSpace(mean, std)" in caplog.text
    caplog.clear()
    for known in (PixelSpace(), IMAGENET):
        hfc_probe.attach(network(), loader, pixels=known, measurements=[FrequencyAccuracy()])
    Samples.collect(Samples(eight_bit(4), torch.zeros(4).long()))
    Samples.collect(DataLoader(PlantedFrequencies(4)))
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


class Named(Items):
    """A dataset whose transform has a name of its own."""

    def __init__(self, transform):
        super().__init__()
        self.image_transform = transform

    def image(self, index):
        return self.image_transform(super().image(index))


class SetTransform(Items):
    """As Hugging Face's datasets keep the function given to set_transform."""

    def __init__(self, function):
        super().__init__()
        self._format_kwargs = {"transform": function}

    def image(self, index):
        return self._format_kwargs["transform"](super().image(index))


class OwnLoader:
    """A loader of tensors that normalises in its loop, as cifar10-airbench's."""

    def __init__(self, photographs):
        self.photographs = photographs
        self.normalize = NORMALIZE

    def __iter__(self):
        images = self.photographs.float() / 255
        yield self.normalize(images), torch.zeros(len(images)).long()


def test_a_normalisation_is_found_in_a_loader_of_ones_own():
    loader = OwnLoader(eight_bit(6))
    assert torch.equal(Samples.collect(loader).images, loader.photographs)


def closure():
    compose = transforms.Compose([nn.Identity(), NORMALIZE])

    def function(image):
        return compose(image)

    return function


@pytest.mark.parametrize(
    "data",
    [
        Named(NORMALIZE),
        Named(functools.partial(lambda normalize, x: normalize(x), NORMALIZE)),
        Named(closure()),
        SetTransform(closure()),
    ],
    ids=["attribute", "partial", "closure", "set_transform"],
)
def test_a_normalisation_is_found_where_scripts_keep_it(data):
    assert find_normalization(DataLoader(data)) == IMAGENET
    samples = Samples.collect(DataLoader(data, 8), limit=None)
    assert torch.equal(samples.images, data.photographs)


def test_batches_as_ultralytics_makes_them():
    data = Items(kind="dict")
    assert torch.equal(Samples.collect(DataLoader(data, 8)).images, data.photographs)


class DaliForm:
    """The form of DALI's iterator: no length, itself its iterator, ``reset`` at the end alone."""

    def __init__(self, images, labels, pipelines=1):
        self.images, self.labels, self.pipelines, self.at, self.epochs = (
            images,
            labels,
            pipelines,
            0,
            0,
        )

    def __iter__(self):
        return self

    def __next__(self):
        if self.at >= len(self.images):
            raise StopIteration
        batch = []
        for _ in range(self.pipelines):
            part = slice(self.at, self.at + 4)
            batch.append({"data": self.images[part], "label": self.labels[part, None]})
            self.at += 4
        return batch

    def reset(self):
        assert self.at >= len(self.images)
        self.at, self.epochs = 0, self.epochs + 1


@pytest.mark.parametrize("pipelines", [1, 2])
@pytest.mark.parametrize("limit", [6, None])
def test_batches_as_dali_makes_them(pipelines, limit):
    photographs, labels = eight_bit(16), torch.arange(16, dtype=torch.int32) % 4
    loader = DaliForm(NORMALIZE(photographs.float() / 255), labels, pipelines)
    for _ in range(2):  # it starts anew after each reading
        samples = Samples.collect(loader, pixels=IMAGENET, limit=limit)
        assert torch.equal(samples.images, photographs[:limit])
        assert torch.equal(samples.targets, labels[:limit].long())
        assert samples.selection == ("first" if limit else "all")
    assert (loader.at, loader.epochs) == (0, 2)


def test_dalis_own_iterator(tmp_path):
    pytest.importorskip("nvidia.dali", reason="DALI is not installed")
    from nvidia.dali import fn, pipeline_def, types
    from nvidia.dali.plugin.pytorch import DALIClassificationIterator, LastBatchPolicy
    from PIL import Image

    photographs = eight_bit(8, size=16)
    for k, one in enumerate(photographs):
        (tmp_path / str(k % 2)).mkdir(exist_ok=True)
        Image.fromarray(one.permute(1, 2, 0).numpy()).save(tmp_path / str(k % 2) / f"{k}.png")

    @pipeline_def(batch_size=3, num_threads=1, device_id=None)
    def pipeline():
        files, labels = fn.readers.file(file_root=str(tmp_path), name="reader", pad_last_batch=True)
        images = fn.decoders.image(files, device="cpu", output_type=types.RGB)
        statistics = {name: [255 * v for v in getattr(IMAGENET, name)] for name in ("mean", "std")}
        images = fn.crop_mirror_normalize(images, output_layout="CHW", **statistics)
        return images, labels

    loader = DALIClassificationIterator(
        pipeline(), reader_name="reader", last_batch_policy=LastBatchPolicy.PARTIAL
    )
    order = [*range(0, 8, 2), *range(1, 8, 2)]  # by class, as the reader goes through folders
    for limit in (5, None):
        samples = Samples.collect(loader, pixels=IMAGENET, limit=limit)
        assert torch.equal(samples.images, photographs[order][:limit])
        assert samples.targets.tolist() == [0, 0, 0, 0, 1, 1, 1, 1][:limit]
    assert sum(len(batch[0]["label"]) for batch in loader) == 8


def test_what_to_pass_can_be_copied_from_the_message():
    loader = [(NORMALIZE(torch.rand(16, 3, 8, 8)), torch.zeros(16).long())]
    with pytest.raises(InputError, match=r"pass pixels=hfc_probe\.PixelSpace\.imagenet\(\)"):
        Samples.collect(loader)
