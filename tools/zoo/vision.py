# SPDX-License-Identifier: Apache-2.0
"""Networks for images in the least size that has every part; random weights, nothing downloaded.

Detectors and a UNet are written here after the published architectures; the others are built from
configurations of transformers. `exported` gives the ONNX file of one, from the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from burnish.tools.zoo import tiny

if TYPE_CHECKING:
    from torch import Tensor, nn

    from burnish.frontends.pytorch import Example, Exporter

_WIDTH = 8


@dataclass(frozen=True)
class Network:
    """A network, and how often its export has to be found to contain each fused operator.

    Attributes:
        build: Makes the module with its inputs; deterministic.
        fused: Operator -> how many of it there are, where the target wants it.
        attentions: Attention layers.
    """

    name: str
    build: Callable[[], Example]
    fused: Mapping[str, int]
    attentions: int = 0


# --- detectors ---------------------------------------------------------------------------------


def _conv(ins: int, outs: int, kernel: int = 1, stride: int = 1) -> nn.Module:
    from torch import nn

    conv = nn.Conv2d(ins, outs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outs, eps=1e-3), nn.SiLU())


def _module(forward: Callable[..., Any], **parts: Any) -> nn.Module:
    """A module of these parts; `forward` takes it first."""
    from torch import nn

    made = type("Tiny", (nn.Module,), {"forward": forward})()
    for name, part in parts.items():
        setattr(made, name, part)
    return made


def _bottleneck(width: int) -> nn.Module:
    def forward(self: Any, x: Tensor) -> Tensor:
        return x + self.second(self.first(x))

    return _module(forward, first=_conv(width, width, 3), second=_conv(width, width, 3))


def _c2f(ins: int, outs: int) -> nn.Module:
    """YOLOv8's block: split in two, one half through a chain whose every step is kept."""
    import torch

    def forward(self: Any, x: Tensor) -> Tensor:
        kept = list(self.into(x).chunk(2, 1))
        kept.append(self.chain(kept[-1]))
        return self.out(torch.cat(kept, 1))

    half = outs // 2
    return _module(
        forward, into=_conv(ins, outs), chain=_bottleneck(half), out=_conv(3 * half, outs)
    )


def _c3(ins: int, outs: int) -> nn.Module:
    """YOLOv5's block: two convolutions beside each other, one of them with a chain behind it."""
    import torch

    def forward(self: Any, x: Tensor) -> Tensor:
        return self.out(torch.cat((self.chain(self.left(x)), self.right(x)), 1))

    half = outs // 2
    left, right, out = _conv(ins, half), _conv(ins, half), _conv(outs, outs)
    return _module(forward, left=left, right=right, out=out, chain=_bottleneck(half))


def _sppf(width: int) -> nn.Module:
    """Poolings in a row, each of them kept."""
    import torch
    from torch import nn

    def forward(self: Any, x: Tensor) -> Tensor:
        kept = [self.into(x)]
        for _ in range(3):
            kept.append(self.pool(kept[-1]))
        return self.out(torch.cat(kept, 1))

    half = width // 2
    parts = {"into": _conv(width, half), "out": _conv(4 * half, width)}
    return _module(forward, pool=nn.MaxPool2d(5, 1, 2), **parts)


def _pyramid(block: Callable[[int, int], nn.Module]) -> nn.Module:
    """A backbone of strides 2 to 8 and a neck, up and down again; maps of strides 4 and 8."""
    import torch
    from torch import nn

    def forward(self: Any, x: Tensor) -> list[Tensor]:
        fine = self.second(self.first(x))
        coarse = self.third(fine)
        fine = self.up(torch.cat((self.resize(coarse), fine), 1))
        coarse = self.down(torch.cat((self.stride(fine), coarse), 1))
        return [fine, coarse]

    n = _WIDTH
    return _module(
        forward,
        first=_conv(3, n, 3, 2),
        second=nn.Sequential(_conv(n, n, 3, 2), block(n, n)),
        third=nn.Sequential(_conv(n, 2 * n, 3, 2), _sppf(2 * n)),
        resize=nn.Upsample(scale_factor=2, mode="nearest"),
        up=block(3 * n, n),
        stride=_conv(n, n, 3, 2),
        down=block(3 * n, 2 * n),
    )


def yolov8(classes: int = 3, bins: int = 4) -> Example:
    """YOLOv8's detector: a softmax over `bins` distances to each side, and no objectness."""
    import torch
    from torch import nn

    def forward(self: Any, images: Tensor) -> Tensor:
        maps = self.body(images)
        found = [
            torch.cat((box(y), score(y)), 1).flatten(2)
            for y, box, score in zip(maps, self.boxes, self.scores, strict=True)
        ]
        sides, scores = torch.cat(found, 2).split((4 * bins, classes), 1)
        batch, _, anchors = sides.shape
        chances = sides.view(batch, 4, bins, anchors).transpose(2, 1).softmax(1)
        near, far = self.mean(chances).view(batch, 4, anchors).chunk(2, 1)
        low, high = self.centres - near, self.centres + far
        box = torch.cat(((low + high) / 2, high - low), 1) * self.strides
        return torch.cat((box, scores.sigmoid()), 1)

    n = _WIDTH
    mean = nn.Conv2d(bins, 1, 1, bias=False)  # the expected distance, of weights 0, 1, 2, ...
    heads = [
        nn.ModuleList(
            nn.Sequential(_conv(width, n, 3), nn.Conv2d(n, outs, 1)) for width in (n, 2 * n)
        )
        for outs in (4 * bins, classes)
    ]
    model = _module(forward, body=_pyramid(_c2f), mean=mean, boxes=heads[0], scores=heads[1])
    centres, strides = _grid()
    model.register_buffer("centres", centres)
    model.register_buffer("strides", strides)
    example = _image(model, "images", 32)
    mean.weight.data[:] = torch.arange(bins).view(1, bins, 1, 1)
    return example


def yolov5(classes: int = 3, anchors: int = 2) -> Example:
    """YOLOv5's detector: boxes relative to anchors, decoded by sigmoid, square and grid."""
    import torch
    from torch import nn

    def forward(self: Any, images: Tensor) -> Tensor:
        found = []
        for y, head, centre, stride in zip(
            self.body(images), self.heads, self.centres, (4, 8), strict=True
        ):
            batch, _, height, width = head(y).shape
            y = head(y).view(batch, anchors, 5 + classes, height, width)
            y = y.permute(0, 1, 3, 4, 2).contiguous().sigmoid()
            place, size, score = y.split((2, 2, 1 + classes), 4)
            place, size = (place * 2 + centre) * stride, (size * 2) ** 2 * self.sizes
            found.append(torch.cat((place, size, score), 4).view(batch, -1, 5 + classes))
        return torch.cat(found, 1)

    n, outs = _WIDTH, anchors * (5 + classes)
    heads = nn.ModuleList(nn.Conv2d(width, outs, 1) for width in (n, 2 * n))
    model: Any = _module(forward, body=_pyramid(_c3), heads=heads)
    model.centres = [_centres(side).movedim(0, -1) - 1 for side in (8, 4)]
    model.sizes = torch.tensor([[10.0, 13.0], [33.0, 23.0]]).view(1, anchors, 1, 1, 2)
    return _image(model, "images", 32)


def _centres(side: int) -> Tensor:
    """Centres of the cells of a map, [2, side, side], in cells."""
    import torch

    line = torch.arange(side) + 0.5
    return torch.stack(torch.meshgrid(line, line, indexing="xy"))


def _grid() -> tuple[Tensor, Tensor]:
    """Centres, [2, anchors], and strides, [anchors], of the maps of an image of 32 x 32."""
    import torch

    sides = {8: 4.0, 4: 8.0}
    centres = [_centres(side).flatten(1) for side in sides]
    strides = [torch.full((side * side,), stride) for side, stride in sides.items()]
    return torch.cat(centres, 1), torch.cat(strides)


# --- diffusion ---------------------------------------------------------------------------------


def _residual(ins: int, outs: int, time: int) -> nn.Module:
    """Norm, SiLU, convolution, twice, with the embedding of the time step added in between."""
    from torch import nn

    def forward(self: Any, x: Tensor, time: Tensor) -> Tensor:
        y = self.first(x) + self.time(time)[:, :, None, None]
        return self.skip(x) + self.second(y)

    def layer(ins: int) -> nn.Module:
        return nn.Sequential(nn.GroupNorm(4, ins), nn.SiLU(), nn.Conv2d(ins, outs, 3, padding=1))

    skip = nn.Identity() if ins == outs else nn.Conv2d(ins, outs, 1)
    embed = nn.Sequential(nn.SiLU(), nn.Linear(time, outs))
    return _module(forward, first=layer(ins), second=layer(outs), time=embed, skip=skip)


def _spatial_transformer(width: int, context: int, heads: int = 2) -> nn.Module:
    """Attention of all pixels to each other and to a text, and a gated feed-forward layer."""
    import torch.nn.functional as f
    from torch import nn

    def attend(self: Any, name: str, x: Tensor, states: Tensor) -> Tensor:
        q, k, v = (getattr(self, name)[i](y) for i, y in enumerate((x, states, states)))
        size = width // heads
        q, k, v = (y.view(y.shape[0], -1, heads, size).transpose(1, 2) for y in (q, k, v))
        y = f.scaled_dot_product_attention(q, k, v)
        y = y.transpose(1, 2).reshape(x.shape[0], -1, width)
        return getattr(self, name)[3](y)

    def forward(self: Any, x: Tensor, text: Tensor) -> Tensor:
        batch, _, height, tall = x.shape
        y = self.into(self.norm(x)).permute(0, 2, 3, 1).reshape(batch, height * tall, width)
        first, second, third = self.norms
        own = first(y)
        y = y + attend(self, "own", own, own)
        y = y + attend(self, "cross", second(y), text)
        value, gate = self.widen(third(y)).chunk(2, -1)
        y = y + self.narrow(value * f.gelu(gate))
        y = y.reshape(batch, height, tall, width).permute(0, 3, 1, 2)
        return x + self.out(y)

    def projections(states: int) -> nn.Module:
        own = [nn.Linear(size, width, bias=False) for size in (width, states, states)]
        return nn.ModuleList([*own, nn.Linear(width, width)])

    return _module(
        forward,
        norm=nn.GroupNorm(4, width, eps=1e-6),
        into=nn.Conv2d(width, width, 1),
        out=nn.Conv2d(width, width, 1),
        norms=nn.ModuleList(nn.LayerNorm(width) for _ in range(3)),
        own=projections(width),
        cross=projections(context),
        widen=nn.Linear(width, 4 * width),
        narrow=nn.Linear(2 * width, width),
    )


def unet(context: int = 12) -> Example:
    """A UNet of latent diffusion: latents, time steps and a text to the noise in the latents."""
    import torch
    from torch import nn

    from burnish.frontends.pytorch import Example

    n, time = _WIDTH, 4 * _WIDTH

    def forward(self: Any, sample: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
        angles = timestep[:, None] * self.frequencies
        t = self.embed(torch.cat((angles.cos(), angles.sin()), -1))
        top = self.down(self.into(sample), t)
        low = self.attend(self.middle(self.stride(top), t), text)
        low = self.smooth(nn.functional.interpolate(low, scale_factor=2.0, mode="nearest"))
        return self.out(self.up(torch.cat((low, top), 1), t))

    torch.manual_seed(0)
    model = _module(
        forward,
        embed=nn.Sequential(nn.Linear(n, time), nn.SiLU(), nn.Linear(time, time)),
        into=nn.Conv2d(4, n, 3, padding=1),
        down=_residual(n, n, time),
        stride=nn.Conv2d(n, 2 * n, 3, 2, 1),
        middle=_residual(2 * n, 2 * n, time),
        attend=_spatial_transformer(2 * n, context),
        smooth=nn.Conv2d(2 * n, 2 * n, 3, padding=1),
        up=_residual(3 * n, n, time),
        out=nn.Sequential(nn.GroupNorm(4, n), nn.SiLU(), nn.Conv2d(n, 4, 3, padding=1)),
    )
    model.register_buffer("frequencies", 10000.0 ** (-torch.arange(n // 2) / (n // 2)))
    args = torch.randn(2, 4, 8, 8), torch.tensor([10.0, 500.0]), torch.randn(2, 5, context)
    batch = {0: "batch"}
    axes = {"sample": {**batch, 2: "height", 3: "width"}, "timestep": batch, "text": batch}
    return Example(_disturbed(model).eval(), args, {}, axes)


def stylizer() -> Example:
    """A generator of images with InstanceNorm, of which the last has no scale."""
    from torch import nn

    n = _WIDTH
    layers = [
        *(nn.ReflectionPad2d(1), nn.Conv2d(3, n, 3), nn.InstanceNorm2d(n, affine=True), nn.ReLU()),
        *(nn.Conv2d(n, 2 * n, 3, 2, 1), nn.InstanceNorm2d(2 * n, affine=True), nn.ReLU()),
        *(nn.ConvTranspose2d(2 * n, n, 4, 2, 1), nn.InstanceNorm2d(n), nn.ReLU()),
        *(nn.Conv2d(n, 3, 3, padding=1), nn.Tanh()),
    ]
    return _image(nn.Sequential(*layers), "input", 16)


# --- for phones --------------------------------------------------------------------------------


def _gated(width: int, gate: Callable[[], nn.Module]) -> nn.Module:
    """Squeeze and excitation: each channel times what a small network makes of all means."""
    from torch import nn

    def forward(self: Any, x: Tensor) -> Tensor:
        return x * self.gate(x)

    small = width // 4
    layers = [nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, small, 1), nn.ReLU()]
    return _module(forward, gate=nn.Sequential(*layers, nn.Conv2d(small, width, 1), gate()))


def mobilenet_v3() -> Example:
    """Blocks of MobileNetV3: depthwise, gated, with HardSwish."""
    from torch import nn

    n = 2 * _WIDTH
    layers: list[nn.Module] = [nn.Conv2d(3, n, 3, 2, 1, bias=False), nn.BatchNorm2d(n)]
    for _ in range(2):
        layers += [nn.Hardswish(), nn.Conv2d(n, n, 5, 1, 2, groups=n, bias=False)]
        layers += [nn.BatchNorm2d(n), _gated(n, nn.Hardsigmoid), nn.Conv2d(n, n, 1, bias=False)]
        layers += [nn.BatchNorm2d(n)]
    layers += [nn.Hardswish(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(n, 5)]
    return _image(nn.Sequential(*layers), "input", 16)


def shufflenet_v2() -> Example:
    """Blocks of ShuffleNetV2: half of the channels goes on as it is, then both are shuffled."""
    import torch
    from torch import nn

    n = _WIDTH

    def block(self: Any, x: Tensor) -> Tensor:
        kept, y = x.chunk(2, 1)
        y = torch.cat((kept, self.branch(y)), 1)
        batch, channels, height, width = y.shape
        y = y.view(batch, 2, channels // 2, height, width).transpose(1, 2).contiguous()
        return y.view(batch, channels, height, width)

    def branch() -> nn.Module:
        pointwise = [nn.Conv2d(n, n, 1, bias=False), nn.BatchNorm2d(n), nn.ReLU()]
        depthwise = [nn.Conv2d(n, n, 3, 1, 1, groups=n, bias=False), nn.BatchNorm2d(n)]
        last = [nn.Conv2d(n, n, 1, bias=False), nn.BatchNorm2d(n), nn.ReLU()]
        return nn.Sequential(*pointwise, *depthwise, *last)

    blocks = [_module(block, branch=branch()) for _ in range(3)]
    head = [nn.Conv2d(2 * n, n, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(n, 5)]
    return _image(nn.Sequential(nn.Conv2d(3, 2 * n, 3, 2, 1), *blocks, *head), "input", 16)


# --- of transformers ---------------------------------------------------------------------------


def of_config(family: str, **sizes: Any) -> Example:
    """A model of images of transformers, by the name of its configuration."""
    import torch
    import transformers

    def forward(self: Any, pixel_values: Tensor) -> Tensor:
        return self.model(pixel_values).last_hidden_state

    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**sizes)
    return _image(
        _module(forward, model=getattr(transformers, f"{family}Model")(config)), "pixel_values", 32
    )


_CONVNEXT: dict[str, Any] = {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2}
_SWIN: dict[str, Any] = {"image_size": 32, "patch_size": 4, "embed_dim": 16, "window_size": 4}
_SWIN |= {"depths": [2, 2], "num_heads": [2, 4]}
_POOLFORMER: dict[str, Any] = {"hidden_sizes": [8, 16], "depths": [1, 1], "num_encoder_blocks": 2}
_POOLFORMER |= {"patch_sizes": [7, 3], "strides": [4, 2], "padding": [2, 1], "mlp_ratio": 2.0}
_REGNET: dict[str, Any] = {
    "embedding_size": 8,
    "hidden_sizes": [8, 16],
    "depths": [1, 1],
    "groups_width": 8,
}

_UNET = {"GroupNormalization": 8, "LayerNormalization": 3, "QuickGelu": 9, "Gelu": 1}

NETWORKS: Mapping[str, Network] = {
    item.name: item
    for item in (
        Network("yolov8", yolov8, {"QuickGelu": 22, "Conv": 27}),
        Network("yolov5", yolov5, {"QuickGelu": 21, "Conv": 23}),
        Network("unet", unet, _UNET, attentions=2),
        Network("stylizer", stylizer, {"InstanceNormalization": 3, "Pad": 1}),
        Network("mobilenet-v3", mobilenet_v3, {"Conv": 9, "HardSwish": 3, "HardSigmoid": 2}),
        # Each shuffle is gathered in halves, but the last, which the convolution behind takes in.
        Network("shufflenet-v2", shufflenet_v2, {"Conv": 11, "Gather": 4, "Transpose": 0}),
        Network(
            "convnext",
            lambda: of_config("ConvNext", **_CONVNEXT),
            {"LayerNormalization": 4, "Gelu": 2},
        ),
        Network(
            "swin",
            lambda: of_config("Swin", **_SWIN),
            {"LayerNormalization": 11, "Gelu": 4},
            attentions=4,
        ),
        Network(
            "poolformer",
            lambda: of_config("PoolFormer", **_POOLFORMER),
            {"GroupNormalization": 4, "Gelu": 2},
        ),
        Network("regnet-y", lambda: of_config("RegNet", **_REGNET, layer_type="y"), {"Conv": 13}),
    )
}


def exported(name: str, exporter: Exporter = "dynamo", opset: int | None = None) -> Path:
    """Give the ONNX file of a network, exporting it unless the cache has it.

    Args:
        name: One of `NETWORKS`.
        exporter: Which of torch's exporters to use.
        opset: For which operator set; by default the exporter's choice.

    Raises:
        InputError: it cannot be exported.
        MissingExtraError: torch or transformers is not installed.
    """
    return tiny.exported(name, NETWORKS[name].build, exporter, opset=opset, sources=(__file__,))


def _image(model: nn.Module, name: str, side: int) -> Example:
    """A module of one image, `[batch, 3, side, side]`."""
    import torch

    from burnish.frontends.pytorch import Example

    pixels = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    return Example(_disturbed(model).eval(), (pixels,), {}, {name: {0: "batch"}})


def _disturbed(model: nn.Module) -> nn.Module:
    """Give biases, scales and statistics values that show a mistake with them."""
    import torch

    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        for name, buffer in model.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.add_(0.1 * torch.rand_like(buffer))
    return model
