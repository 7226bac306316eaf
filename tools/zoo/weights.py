# SPDX-License-Identifier: Apache-2.0
"""The modules behind the weights, each with an example to export it by.

Each function takes the files of its entry by name and needs the extra `zoo-export`.
"""

from __future__ import annotations

import importlib
import sys
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from burnish.errors import require

if TYPE_CHECKING:
    from types import ModuleType

    from burnish.frontends.pytorch import Example

_EXTRA = "zoo-export"


def minilm(files: Mapping[str, Path]) -> Example:
    """MiniLM-L6: int64 `[batch, sequence]` ids, mask and types to float32 `[.., .., 384]`."""
    require("torch", extra=_EXTRA)
    require("transformers", extra=_EXTRA)
    require("safetensors", extra=_EXTRA)
    import safetensors.torch
    import torch
    import transformers

    from burnish.frontends.pytorch import Example

    class Encoder(torch.nn.Module):
        """BERT, giving a tensor instead of an object with one in it."""

        def __init__(self) -> None:
            super().__init__()
            config = transformers.BertConfig.from_json_file(files["config.json"])
            self.bert = transformers.BertModel(config, add_pooling_layer=False)

        def forward(
            self, input_ids: object, attention_mask: object, token_type_ids: object
        ) -> object:
            return self.bert(
                input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
            ).last_hidden_state

    encoder = Encoder().eval()
    weights = safetensors.torch.load_file(files["model.safetensors"])
    # Beside the encoder's own weights there are a pooler's, which sentence vectors don't use.
    wanted = encoder.bert.state_dict().keys()
    encoder.bert.load_state_dict({name: weights[name] for name in wanted})
    ids = torch.ones(2, 16, dtype=torch.int64)
    return Example(
        encoder,
        (ids, torch.ones_like(ids), torch.zeros_like(ids)),
        dynamic_axes={
            name: {0: "batch", 1: "sequence"}
            for name in ("input_ids", "attention_mask", "token_type_ids")
        },
        output_names=("last_hidden_state",),
    )


def lite0(files: Mapping[str, Path]) -> Example:
    """EfficientNet-lite0: float32 `[batch, 3, 224, 224]` to logits `[batch, 1000]`."""
    require("torch", extra=_EXTRA)
    import torch

    from burnish.frontends.pytorch import Example

    code = _import_from(files["model.py"].parent)
    network = code.EfficientNet.from_name("efficientnet-lite0").eval()
    network.load_state_dict(
        torch.load(files["efficientnet-lite0-57934424.pth"], weights_only=True, map_location="cpu")
    )
    return Example(
        network,
        (torch.zeros(2, 3, 224, 224),),
        dynamic_axes={"inputs": {0: "batch"}},
        output_names=("logits",),
    )


def mnist_cnn(files: Mapping[str, Path]) -> Example:
    """Two convolutions and two dense layers: float32 `[batch, 1, 28, 28]` to `[batch, 10]`."""
    require("torch", extra=_EXTRA)
    import torch

    from burnish.frontends.pytorch import Example

    nn = torch.nn
    features = nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
    )
    classifier = nn.Sequential(nn.Linear(64 * 7 * 7, 128), nn.ReLU(), nn.Linear(128, 10))
    network = nn.Sequential(
        OrderedDict(features=features, flatten=nn.Flatten(), classifier=classifier)
    ).eval()
    network.load_state_dict(torch.load(files["mnist.pth"], weights_only=True, map_location="cpu"))
    return Example(
        network,
        (torch.zeros(2, 1, 28, 28),),
        dynamic_axes={"input": {0: "batch"}},
        output_names=("logits",),
    )


def _import_from(folder: Path) -> ModuleType:
    """Import the Python package in `folder` without installing it."""
    sys.path.insert(0, str(folder.parent))
    try:
        return importlib.import_module(folder.name)
    finally:
        sys.path.remove(str(folder.parent))
