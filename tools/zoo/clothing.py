# SPDX-License-Identifier: Apache-2.0
"""A small ResNet for Fashion-MNIST, trained here: no weights of others, and a clean test set.

One pass over the training images, of which the last are kept to calibrate and tune with; about a
minute on two cores, once. Its accuracy is about 0.9 on images that nothing has seen.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from burnish.errors import require
from burnish.tools.zoo.fashion import TRAINED, normalize, read_fashion

if TYPE_CHECKING:
    import torch

    from burnish.frontends.pytorch import Example

WIDTHS = (32, 64, 128)
_BATCH = 128
_PEAK_RATE = 0.2


def resnet(files: Mapping[str, Path]) -> Example:
    """Train it, and give it to export: float32 `[batch, 1, 28, 28]` to logits `[batch, 10]`."""
    require("torch", extra="zoo-export")
    import torch

    from burnish.frontends.pytorch import Example

    images, labels = read_fashion(files, "train")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = _network()
        _train(
            network,
            torch.from_numpy(normalize(images[:TRAINED])),
            torch.from_numpy(labels[:TRAINED].astype("int64")),
        )
    return Example(
        network.eval().to(memory_format=torch.contiguous_format),
        (torch.zeros(2, 1, 28, 28),),
        dynamic_axes={"input": {0: "batch"}},
        output_names=("logits",),
    )


def _network() -> torch.nn.Module:
    """Three stages of one basic block each (He et al., 2015), halving the image twice."""
    from torch import nn

    def conv(inputs: int, outputs: int, size: int, stride: int) -> torch.nn.Sequential:
        layer = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)
        return nn.Sequential(layer, nn.BatchNorm2d(outputs))

    class Block(nn.Module):
        def __init__(self, inputs: int, outputs: int, stride: int) -> None:
            super().__init__()
            self.first = conv(inputs, outputs, 3, stride)
            self.second = conv(outputs, outputs, 3, 1)
            same = inputs == outputs and stride == 1
            self.skip = nn.Identity() if same else conv(inputs, outputs, 1, stride)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (self.second(self.first(x).relu()) + self.skip(x)).relu()

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = conv(1, WIDTHS[0], 3, 1)
            pairs = zip((WIDTHS[0], *WIDTHS), WIDTHS, strict=False)
            self.blocks = nn.Sequential(
                *(Block(a, b, 1 if index == 0 else 2) for index, (a, b) in enumerate(pairs))
            )
            self.head = nn.Linear(WIDTHS[-1], 10)

        def forward(self, input: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.head(self.blocks(self.stem(input).relu()).mean((2, 3)))
            return found

    return Net()


def _train(network: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> None:
    """One epoch of SGD with momentum; the rate rises, then falls (L. N. Smith, 2017)."""
    import torch

    network.train().to(memory_format=torch.channels_last)
    steps = len(images) // _BATCH
    optimizer = torch.optim.SGD(
        network.parameters(), lr=_PEAK_RATE, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=_PEAK_RATE, total_steps=steps, pct_start=0.3
    )
    order = list(range(len(images)))
    random.Random(0).shuffle(order)
    for step in range(steps):
        chosen = torch.tensor(order[step * _BATCH : (step + 1) * _BATCH])
        batch = images[chosen].contiguous(memory_format=torch.channels_last)
        loss = torch.nn.functional.cross_entropy(network(batch), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
