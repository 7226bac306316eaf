# SPDX-License-Identifier: Apache-2.0
"""Transformers built from their configurations alone: tiny, of random weights, nothing downloaded.

They are what exporters write today for each architecture, in the least size that still has every
part: two layers, width 64, four heads. `exported` gives the ONNX file of one, from the cache.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from burnish.errors import InputError, require

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from burnish.frontends.pytorch import Example, Exporter

LAYERS, WIDTH, HEADS, WORDS = 2, 64, 4, 100
BATCH, LENGTH = 2, 8


@dataclass(frozen=True)
class Architecture:
    """A family of models, and what an export of its tiny member has to be found to contain.

    Attributes:
        build: Makes the module with its inputs; deterministic.
        attentions: Attention layers.
        norms: Normalization layers: LayerNorm or RMSNorm.
        rotary: Tensors that are rotated by their position: queries and keys of each layer.
    """

    name: str
    build: Callable[[], Example]
    attentions: int
    norms: int
    rotary: int = 0


def bert_like(family: str, **options: Any) -> Example:
    """A model of text by its usual sizes; `options` are what its configuration calls otherwise."""
    sizes = {
        "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "intermediate_size": 2 * WIDTH,
        "vocab_size": WORDS,
        "max_position_embeddings": 40,
    }
    return _text(_model(family, sizes | options))


def gpt2() -> Example:
    """GPT-2: causal, one product for queries, keys and values."""
    sizes = {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": HEADS, "n_positions": 40}
    return _text(_model("GPT2", sizes | {"vocab_size": WORDS}), use_cache=False)


def llama_like(family: str, heads: int) -> Example:
    """A decoder with rotary positions, RMSNorm and `heads` heads of keys and values."""
    return _text(_llama(family, heads), use_cache=False)


def llama_with_past() -> Example:
    """Llama, one step of decoding: keys and values of what came before are inputs and outputs."""
    import torch

    def forward(
        self: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        past_keys: list[Tensor],
        past_values: list[Tensor],
    ) -> list[Tensor]:
        from transformers import DynamicCache

        cache = DynamicCache(config=self.model.config)
        for layer in range(LAYERS):
            cache.update(past_keys[layer], past_values[layer], layer)
        out = self.model(input_ids, attention_mask, past_key_values=cache, use_cache=True)
        kept = [item for layer in cache.layers for item in (layer.keys, layer.values)]
        return [out.last_hidden_state, *kept]

    torch.manual_seed(1)
    model = _llama("Llama", heads=2)
    keys, values = (
        [torch.randn(BATCH, 2, LENGTH, WIDTH // HEADS) for _ in range(LAYERS)] for _ in range(2)
    )
    mask = torch.ones(BATCH, LENGTH + 1, dtype=torch.int64)
    return _example(model, forward, (torch.randint(0, WORDS, (BATCH, 1)), mask, keys, values), {})


def vit() -> Example:
    """ViT: an encoder of patches, without a mask."""
    return _image(_model("ViT", _IMAGE_SIZES, add_pooling_layer=False))


def clip_text() -> Example:
    """CLIP's tower of text: causal and padded."""
    return bert_like("CLIPText", eos_token_id=2)


def clip_vision() -> Example:
    """CLIP's tower of images."""
    return _image(_model("CLIPVision", _IMAGE_SIZES))


def whisper_encoder() -> Example:
    """Whisper's encoder of spectrograms."""
    import torch

    def forward(self: Any, input_features: Tensor) -> Tensor:
        return self.model(input_features).last_hidden_state

    encoder = _whisper().encoder
    return _example(
        encoder, forward, (torch.randn(BATCH, 20, 40),), {"input_features": {0: "batch"}}
    )


def whisper_decoder() -> Example:
    """Whisper's decoder: causal attention to itself, and attention to what the encoder gave."""
    import torch

    def forward(self: Any, input_ids: Tensor, attention_mask: Tensor, states: Tensor) -> Tensor:
        out = self.model(input_ids, attention_mask, encoder_hidden_states=states, use_cache=False)
        return out.last_hidden_state

    text = {0: "batch", 1: "sequence"}
    axes = {"input_ids": text, "attention_mask": text, "states": {0: "batch"}}
    args = *_tokens(), torch.randn(BATCH, 20, WIDTH)
    return _example(_whisper().decoder, forward, args, axes)


def t5_encoder() -> Example:
    """T5's encoder: a bias by relative position, no scale, RMSNorm."""
    return _text(_t5().encoder)


def t5_decoder() -> Example:
    """T5's decoder: causal attention with a bias, and attention to what the encoder gave."""
    import torch

    def forward(self: Any, input_ids: Tensor, states: Tensor, mask: Tensor) -> Tensor:
        out = self.model(
            input_ids,
            encoder_hidden_states=states,
            encoder_attention_mask=mask,
            use_cache=False,
        )
        return out.last_hidden_state

    axes = {
        "input_ids": {0: "batch", 1: "sequence"},
        "states": {0: "batch", 1: "encoded"},
        "mask": {0: "batch", 1: "encoded"},
    }
    ids, mask = _tokens()
    args = ids[:, :6], torch.randn(BATCH, LENGTH, WIDTH), mask
    return _example(_t5().decoder, forward, args, axes)


ARCHITECTURES: Mapping[str, Architecture] = {
    item.name: item
    for item in (
        Architecture("bert", lambda: bert_like("Bert"), LAYERS, 2 * LAYERS + 1),
        Architecture(
            "roberta", lambda: bert_like("Roberta", pad_token_id=1), LAYERS, 2 * LAYERS + 1
        ),
        Architecture(
            "distilbert",
            lambda: bert_like(
                "DistilBert", dim=WIDTH, n_layers=LAYERS, n_heads=HEADS, hidden_dim=2 * WIDTH
            ),
            LAYERS,
            2 * LAYERS + 1,
        ),
        Architecture(
            "albert", lambda: bert_like("Albert", embedding_size=32), LAYERS, 2 * LAYERS + 1
        ),
        Architecture(
            "deberta-v2",
            lambda: bert_like(
                "DebertaV2",
                relative_attention=True,
                position_buckets=16,
                pos_att_type=["p2c", "c2p"],
                norm_rel_ebd="layer_norm",
                share_att_key=True,
                position_biased_input=False,
            ),
            LAYERS,
            2 * LAYERS + 1,  # that of the table of relative positions is constant
        ),
        Architecture("gpt2", gpt2, LAYERS, 2 * LAYERS + 1),
        Architecture(
            "llama", lambda: llama_like("Llama", 2), LAYERS, 2 * LAYERS + 1, rotary=2 * LAYERS
        ),
        Architecture("llama-past", llama_with_past, LAYERS, 2 * LAYERS + 1, rotary=2 * LAYERS),
        Architecture(
            "qwen2", lambda: llama_like("Qwen2", 1), LAYERS, 2 * LAYERS + 1, rotary=2 * LAYERS
        ),
        Architecture("vit", vit, LAYERS, 2 * LAYERS + 1),
        Architecture("clip-text", clip_text, LAYERS, 2 * LAYERS + 1),
        Architecture("clip-vision", clip_vision, LAYERS, 2 * LAYERS + 1),
        Architecture("whisper-encoder", whisper_encoder, LAYERS, 2 * LAYERS + 1),
        Architecture("whisper-decoder", whisper_decoder, 2 * LAYERS, 3 * LAYERS + 1),
        Architecture("t5-encoder", t5_encoder, LAYERS, 2 * LAYERS + 1),
        Architecture("t5-decoder", t5_decoder, 2 * LAYERS, 3 * LAYERS + 1),
    )
}


def exported(name: str, exporter: Exporter = "dynamo", opset: int | None = None) -> Path:
    """Give the ONNX file of an architecture, exporting it unless the cache has it.

    Args:
        name: One of `ARCHITECTURES`.
        exporter: Which of torch's exporters to use.
        opset: For which operator set; by default the exporter's choice.

    Raises:
        InputError: no such architecture, or it cannot be exported.
        MissingExtraError: torch or transformers is not installed.
    """
    from burnish.tools.zoo.fetch import cache_folder, make_folder

    if name not in ARCHITECTURES:
        raise InputError(
            f"unknown architecture {name!r}", hint=f"known: {', '.join(ARCHITECTURES)}"
        )
    folder = cache_folder() / "architectures"
    path = folder / f"{name}-{exporter}-{_digest(opset)}.onnx"
    if not path.is_file():
        make_folder(folder)
        _export(name, exporter, opset, path)
    return path


def _export(name: str, exporter: Exporter, opset: int | None, path: Path) -> None:
    from burnish.backends import onnxfile
    from burnish.frontends import pytorch

    require("transformers", extra="zoo-export")
    with _quiet():
        example = ARCHITECTURES[name].build()
        loaded = pytorch.export(example, exporter=exporter, opset=opset, where=name)
    for node in loaded.model.graph.all_nodes():
        # It holds paths, so that the same model would be other bytes elsewhere.
        node.metadata_props.pop("pkg.torch.onnx.stack_trace", None)
    onnxfile.save(loaded.model, path)


def _digest(opset: int | None) -> str:
    """Of all that an export depends on: this file, and the versions of the exporter's parts."""
    packages = ("torch", "onnxscript", "onnx-ir", "transformers")
    facts = [opset, *(importlib.metadata.version(package) for package in packages)]
    text = json.dumps(facts) + Path(__file__).read_text()
    return hashlib.sha256(text.encode()).hexdigest()[:12]


# --- parts -------------------------------------------------------------------------------------

_IMAGE_SIZES = {
    "image_size": 16,
    "patch_size": 8,
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": 2 * WIDTH,
}


def _text(model: torch.nn.Module, **options: Any) -> Example:
    def forward(self: Any, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        out = self.model(input_ids=input_ids, attention_mask=attention_mask, **options)
        return out.last_hidden_state

    axes = {0: "batch", 1: "sequence"}
    return _example(model, forward, _tokens(), {"input_ids": axes, "attention_mask": axes})


def _image(model: torch.nn.Module) -> Example:
    import torch

    def forward(self: Any, pixel_values: Tensor) -> Tensor:
        return self.model(pixel_values).last_hidden_state

    pixels = torch.randn(BATCH, 3, 16, 16)
    return _example(model, forward, (pixels,), {"pixel_values": {0: "batch"}})


def _example(
    model: torch.nn.Module,
    forward: Callable[..., Any],
    args: tuple[Any, ...],
    axes: Mapping[str, Mapping[int, str]],
) -> Example:
    """The model behind a `forward` of tensors alone, which both exporters take."""
    import torch

    from burnish.frontends.pytorch import Example

    module = type("Tiny", (torch.nn.Module,), {"forward": forward})()
    module.model = model
    return Example(module.eval(), args, {}, axes)


def _model(family: str, sizes: dict[str, Any], **options: Any) -> torch.nn.Module:
    import torch
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**sizes)
    model: torch.nn.Module = getattr(transformers, f"{family}Model")(config, **options)
    with torch.no_grad():  # or all biases are 0 and all scales 1, and no mistake with them shows
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def _whisper() -> Any:
    sizes = {"vocab_size": WORDS, "d_model": WIDTH, "num_mel_bins": 20, "max_source_positions": 20}
    sizes |= {"encoder_layers": LAYERS, "decoder_layers": LAYERS, "max_target_positions": 40}
    sizes |= {"encoder_attention_heads": HEADS, "decoder_attention_heads": HEADS}
    sizes |= {"encoder_ffn_dim": 2 * WIDTH, "decoder_ffn_dim": 2 * WIDTH}
    sizes |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    return _model("Whisper", sizes)


def _llama(family: str, heads: int) -> Any:
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
    sizes |= {"intermediate_size": 2 * WIDTH, "vocab_size": WORDS, "num_key_value_heads": heads}
    return _model(family, sizes)


def _t5() -> Any:
    sizes = {"vocab_size": WORDS, "d_model": WIDTH, "d_kv": WIDTH // HEADS, "d_ff": 2 * WIDTH}
    return _model("T5", sizes | {"num_layers": LAYERS, "num_heads": HEADS})


def _tokens() -> tuple[torch.Tensor, torch.Tensor]:
    """Token numbers and their mask, int64 `[batch, sequence]`; the last text is padded."""
    import torch

    torch.manual_seed(1)
    mask = torch.ones(BATCH, LENGTH, dtype=torch.int64)
    mask[-1, -3:] = 0
    return torch.randint(3, WORDS, (BATCH, LENGTH)), mask


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers' remarks on what else could be installed from the user."""
    import logging

    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
