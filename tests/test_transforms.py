"""APR-P, APR-S and the frequency filters as they are used in a data pipeline."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset, default_collate
from torchvision import tv_tensors
from torchvision.transforms import v2

from hfc_probe import InputError, PixelSpace, fourier, transforms


def images(n=4, size=16, seed=0):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed))


def recombined(amplitude_of, phase_of, axes):
    """The definition, in NumPy: |A| exp(i arg B), back to the image, clipped."""
    a, b = (np.fft.fftn(x.double().numpy(), axes=axes) for x in (amplitude_of, phase_of))
    back = np.fft.ifftn(np.abs(a) * np.exp(1j * np.angle(b)), axes=axes).real
    return torch.from_numpy(back).clamp(0, 1).float()


@pytest.mark.parametrize("over_channels", [False, True])
def test_mix_keeps_the_phase_and_takes_another_images_amplitude(over_channels):
    x, labels = images(), torch.arange(4)
    mix = transforms.AmplitudePhaseMix(p=1.0, over_channels=over_channels, seed=3)
    out, kept = mix(x, labels)
    assert torch.equal(kept, labels)
    generator = torch.Generator().manual_seed(3 * 1_000_003)
    torch.rand((), generator=generator)
    order = torch.randperm(4, generator=generator)
    axes = (1, 2, 3) if over_channels else (2, 3)
    torch.testing.assert_close(out, recombined(x[order], x, axes), atol=1e-5, rtol=0)
    assert out.min() >= 0
    assert out.max() <= 1


def test_mix_is_clipped_where_the_authors_cast_wraps():
    x = (255 * images(8, 32)).round().to(torch.uint8)
    out = transforms.AmplitudePhaseMix(p=1.0, seed=0)(x)
    assert out.dtype == torch.uint8
    order = None
    for candidate in range(8):  # find an image whose amplitude the first one took
        back = recombined(x[[candidate]].float() / 255, x[:1].float() / 255, (2, 3))
        if (back * 255 - out[:1].float()).abs().max() <= 0.51:
            order = candidate
    assert order is not None
    unclipped = fourier.recombine(x[[order]].float(), x[:1].float())
    wrapped = unclipped.to(torch.int32).to(torch.uint8)  # what astype(uint8) gives
    outside = (unclipped <= -1) | (unclipped >= 256)
    assert outside.any()
    assert (wrapped.float() - out[:1].float())[outside].abs().min() > 100


def test_mix_appends_the_original_and_leaves_batches_alone_at_p_zero():
    x, labels = images(), torch.arange(4)
    out, twice = transforms.AmplitudePhaseMix(p=1.0, keep_original=True, seed=0)(x, labels)
    assert torch.equal(out[:4], x)
    assert torch.equal(twice, torch.cat([labels, labels]))
    assert torch.equal(transforms.AmplitudePhaseMix(p=0.0)(x), x)


def test_mix_in_a_collate_function_is_seeded_and_differs_between_workers():
    data = TensorDataset(images(32), torch.arange(32))

    def batches(seed):
        mix = transforms.AmplitudePhaseMix(p=1.0, seed=seed)
        loader = DataLoader(
            data,
            batch_size=16,
            num_workers=2,
            collate_fn=lambda batch: mix(*default_collate(batch)),
        )
        return [x for x, _ in loader]

    first, again = batches(1), batches(1)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    # The two workers get one batch each; the same permutation in both would be one draw.
    x = data.tensors[0]
    assert not torch.equal(_order_of(first[0], x[:16]), _order_of(first[1], x[16:]))


def _order_of(mixed, x):
    """The permutation that a mixed batch was made with, found by trying every donor."""
    return torch.stack(
        [
            torch.stack(
                [
                    (fourier.recombine(x[[k]], x[[n]]).clamp(0, 1) - mixed[n]).abs().max()
                    for k in range(len(x))
                ]
            ).argmin()
            for n in range(len(x))
        ]
    )


@pytest.mark.parametrize("over_channels", [False, True])
def test_self_recombines_an_image_with_its_augmented_copy(over_channels):
    x = images(1)[0]
    flip = v2.RandomHorizontalFlip(p=1.0)  # the first copy is x flipped, the second x again
    apply = transforms.AmplitudePhaseSelf(flip, p=1.0, over_channels=over_channels, seed=0)
    axes = (0, 1, 2) if over_channels else (1, 2)
    a = recombined(x.flip(-1), x, axes)
    b = recombined(x, x.flip(-1), axes)
    seen = set()
    for _ in range(12):
        out = apply(x)
        error = [float((out - y).abs().max()) for y in (a, b)]
        assert min(error) < 1e-5
        seen.add(int(np.argmin(error)))
    assert seen == {0, 1}


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_self_with_its_own_augmentations(dtype):
    x = images(1, 32)[0]
    x = (x * 255).to(torch.uint8) if dtype == torch.uint8 else x
    apply = transforms.AmplitudePhaseSelf(seed=5)
    outs = [apply(x) for _ in range(8)]
    assert all(o.dtype == dtype and o.shape == x.shape for o in outs)
    assert len({o.double().sum().item() for o in outs}) > 4
    other = transforms.AmplitudePhaseSelf(seed=5)
    assert all(torch.equal(other(x), o) for o in outs)
    state = torch.get_rng_state()
    apply(x)
    assert torch.equal(torch.get_rng_state(), state)


def test_low_and_high_pass_are_the_split_and_work_in_a_pipeline():
    x = images()
    low, high = fourier.split(x, 3)
    torch.testing.assert_close(transforms.LowPass(3)(x), low.clamp(0, 1))
    torch.testing.assert_close(transforms.HighPass(3)(x), (high + 0.5).clamp(0, 1))
    torch.testing.assert_close(transforms.HighPass(3, background=None)(x), high)
    pipeline = v2.Compose([transforms.LowPass(3), v2.Normalize((0.5,) * 3, (0.5,) * 3)])
    image, label = pipeline((tv_tensors.Image(x[0]), 7))
    assert label == 7
    assert isinstance(image, tv_tensors.Image)
    torch.testing.assert_close(image.as_subclass(torch.Tensor), (low[0].clamp(0, 1) - 0.5) / 0.5)


def test_random_band_removes_one_ring_and_nothing_else():
    x = 0.4 + 0.2 * images(1, 32)
    out = transforms.RandomBand(4, low=3, seed=1)(x)
    lost = torch.fft.fftshift(torch.fft.fft2(x - out)).abs().mean((0, 1))
    distance = fourier.distance(32, 32)
    hit = distance[lost > 1e-4]
    assert hit.min() > 3
    assert hit.max() <= 16
    assert hit.max() - hit.min() <= 4
    inside = (distance >= hit.min()) & (distance <= hit.max())
    left = torch.fft.fftshift(torch.fft.fft2(out)).abs().mean((0, 1))
    assert left[inside].max() < 1e-3


def test_frequency_filter_in_front_of_a_model_commutes_with_normalisation():
    pixels = PixelSpace.imagenet()
    x = images()
    for keep, part in zip(("low", "high"), fourier.split(x, 2), strict=True):
        layer = transforms.FrequencyFilter(2, keep=keep, pixels=pixels)
        torch.testing.assert_close(
            layer(pixels.normalize(x)), pixels.normalize(part), atol=1e-5, rtol=0
        )


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: transforms.AmplitudePhaseMix(p=1.5), "p: expected a number from 0 to 1"),
        (lambda: transforms.AmplitudePhaseMix()(images()[0]), r"expected a batch \(N, C, H, W\)"),
        (lambda: transforms.LowPass(-1), "radius: expected a number of at least 0"),
        (lambda: transforms.LowPass(2)(images() * 3 - 1), "put it before Normalize"),
        (lambda: transforms.RandomBand(0), "width: expected a number above 0"),
        (lambda: transforms.RandomBand(9)(images()), "expected images that hold a band"),
        (lambda: transforms.FrequencyFilter(2, keep="middle"), 'keep: expected "low" or "high"'),
        (lambda: transforms.HighPass(1, background=2), "background: expected a number from 0 to 1"),
    ],
)
def test_bad_input_is_one_sentence(call, words):
    with pytest.raises(InputError, match=words):
        call()


def test_mix_unclipped_is_the_authors_mixed_batch():
    """Their mix_data: FFT over channels and both axes, amplitude of another, phase of one's own."""
    x = images(6)
    mix = transforms.AmplitudePhaseMix(p=1.0, over_channels=True, clip=False, seed=5)
    draws = transforms.AmplitudePhaseMix(seed=5)
    draws._uniform()
    order = torch.randperm(6, generator=draws._draws())
    a, b = (np.fft.fftn(v.double().numpy(), axes=(1, 2, 3)) for v in (x[order], x))
    expected = np.fft.ifftn(np.abs(a) * np.exp(1j * np.angle(b)), axes=(1, 2, 3)).real
    out = mix(x)
    np.testing.assert_allclose(out, expected, atol=1e-5)
    assert float(out.min()) < -0.01
    clipped = transforms.AmplitudePhaseMix(p=1.0, over_channels=True, seed=5)(x)
    assert torch.equal(clipped, out.clamp(0, 1))
    assert mix((x * 255).to(torch.uint8)).dtype == torch.uint8


@pytest.mark.parametrize(
    "transform", [transforms.LowPass(3), transforms.HighPass(3), transforms.RandomBand(4)]
)
def test_what_is_not_an_image_is_refused_or_left_alone(transform):
    picture = np.zeros((16, 16, 3), np.uint8)
    for sample in (picture, (picture, 3), {"image": picture, "label": torch.tensor(3)}):
        with pytest.raises(InputError, match=r"expected a tensor .* got ndarray.*ToImage"):
            transform(sample)
    mask = tv_tensors.Mask(torch.randint(2, (16, 16), dtype=torch.uint8))
    boxes = tv_tensors.BoundingBoxes([[1, 2, 9, 9]], format="XYXY", canvas_size=(16, 16))
    image = tv_tensors.Image(images(1, 16)[0])
    out, kept, same = transform(image, mask, boxes)
    assert not torch.equal(out, image)
    assert torch.equal(kept, mask)
    assert torch.equal(same, boxes)
    label, out = transform((torch.tensor(3), images(1)[0]))  # the label first
    assert label == 3
    assert not torch.equal(out, images(1)[0])


def test_high_pass_keeps_both_signs():
    x = images()
    with pytest.raises(InputError, match="which cannot hold values below 0"):
        transforms.HighPass(3, background=None)((x * 255).to(torch.uint8))
    out = transforms.HighPass(3)((0.25 + x / 2).mul(255).to(torch.uint8)).float() / 255 - 0.5
    expected = fourier.split((0.25 + x / 2).mul(255).to(torch.uint8) / 255, 3)[1]
    torch.testing.assert_close(out, expected, atol=1 / 255, rtol=0)


def test_rescaled_parts_fill_the_pixel_range():
    """What the authors train on: LFC(r) or HFC(r), each image divided by its own maximum."""
    x = images()
    low = transforms.LowPass(3, closed=False, rescale="max")(x)
    high = transforms.HighPass(3, background=None, closed=False, rescale="max")(x)
    parts = fourier.split(x, 3, closed=False)
    for out, part in zip((low, high), parts, strict=True):
        torch.testing.assert_close(out, part / part.amax((1, 2, 3), keepdim=True))
