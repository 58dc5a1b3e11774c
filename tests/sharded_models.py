"""Models for the tests of sharding: what hosts do to modules, in small."""

from __future__ import annotations

import functools
import types

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm


class Conv(nn.Module):
    """BatchNorm (its last block frozen), Dropout, a frozen layer, an ignored-by-none bias."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
            for _ in range(2)
        )
        self.blocks[1][1].eval()
        self.blocks[1][0].bias.requires_grad_(False)
        self.dropout = nn.Dropout(0.3)
        self.head = nn.Linear(6, 5)

    def forward(self, images: Tensor) -> Tensor:
        features = self.norm(self.stem(images)).relu()
        for block in self.blocks:
            features = features + block(features)
        return self.head(self.dropout(features.mean((2, 3))))


class Attention(nn.Module):
    """Patches, attention, and a head tied to the class embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, stride=4)
        self.position = nn.Parameter(torch.randn(1, 4, 8))
        self.attention = nn.MultiheadAttention(8, 2, dropout=0.1, batch_first=True)
        self.classes = nn.Embedding(7, 8)
        self.head = nn.Linear(8, 7, bias=False)
        self.head.weight = self.classes.weight

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2) + self.position
        tokens = tokens + self.attention(tokens, tokens, tokens)[0]
        return self.head(tokens.mean(1) + self.classes.weight[0])


class Counter:
    """A helper that holds a submodule, as adapters and attention processors do."""

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer

    def __call__(self, features: Tensor) -> Tensor:
        return self.layer(features)


class Tangled(nn.Module):
    """Every way round ``_modules`` to reach a layer, and state that a forward pass writes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = spectral_norm(nn.Conv2d(3, 4, 3, padding=1))
        self.layers = nn.ModuleList(nn.Conv2d(4, 4, 1) for _ in range(7))
        self.recurrent = nn.LSTM(4, 4, batch_first=True)
        self.head = nn.Linear(4, 5)
        self.register_buffer("calls", torch.zeros(1))
        self.noise = torch.Generator().manual_seed(1)
        self.seen: list[tuple[int, ...]] = []
        self.listed = [self.layers[0]]
        self.bound = self.layers[1].forward
        self.partial = functools.partial(lambda layer, x: layer(x), self.layers[2])
        layer = self.layers[3]
        self.closure = lambda x: layer(x)
        self.helper = Counter(self.layers[4])
        # A host's patch: a forward of the instance's own around the class's.
        inner = self.layers[5].forward
        self.layers[5].forward = types.MethodType(lambda module, x: inner(x) + 1, self.layers[5])
        self.layers[6].register_forward_hook(self.after)
        self.lock = (_ for _ in ())  # cannot be copied

    def after(self, module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        return output + self.layers[0].bias[:, None, None]

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1  # in evaluation mode too
        self.seen.append(tuple(images.shape))
        self.last = self.stem(images)  # with its graph
        features = self.last + torch.rand(1, generator=self.noise)
        for layer in self.listed:
            features = layer(features)
        for call in (self.bound, self.partial, self.closure, self.helper, *self.layers[5:]):
            features = call(features).tanh()
        sequence = features.flatten(2).transpose(1, 2)
        return self.head(self.recurrent(sequence)[0].mean(1))
