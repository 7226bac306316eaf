# SPDX-License-Identifier: Apache-2.0
"""Transformers as exporters write them today, and what is to be found in each.

`exported` gives the ONNX file of one, from the cache; `burnish.tools.zoo.families` builds them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from burnish.errors import InputError
from burnish.tools.zoo import families, tiny
from burnish.tools.zoo.families import (
    HEADS,
    LAYERS,
    WIDTH,
    audio,
    gpt,
    gpt2,
    image,
    llama,
    t5_decoder,
    t5_encoder,
    text,
    translator,
    whisper_decoder,
    whisper_encoder,
    windowed,
    with_past,
)

if TYPE_CHECKING:
    from burnish.frontends.pytorch import Example, Exporter


@dataclass(frozen=True)
class Architecture:
    """A family of models, and what an export of its tiny member has to be found to contain.

    Attributes:
        build: Makes the module with its inputs; deterministic.
        attentions: Attention layers.
        norms: Normalization layers: LayerNorm or RMSNorm.
        rotary: Tensors that are rotated by their position: queries and keys of each layer.
        causal: Attentions whose mask is just that no token sees a later one.
        past: Attentions to which keys and values of what came before are inputs.
        exporters: Those that can export it.
    """

    name: str
    build: Callable[[], Example]
    attentions: int
    norms: int
    rotary: int = 0
    causal: int = 0
    past: int = 0
    exporters: tuple[Exporter, ...] = ("dynamo", "torchscript")


_NORM_TWICE = 2 * LAYERS + 1
_BERT_SIZES: dict[str, Any] = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}
_EAGER: dict[str, Any] = {"attn_implementation": "eager"}
# Where TorchScript's file is no valid model: in float16, its attention adds float32 to float16.
_DYNAMO: tuple[Exporter, ...] = ("dynamo",)

_TABLE = (
    # Encoders of text.
    Architecture("bert", lambda: text("Bert"), LAYERS, _NORM_TWICE),
    Architecture("bert-eager", lambda: text("Bert", **_EAGER), LAYERS, _NORM_TWICE),
    Architecture(
        "bert-half", lambda: text("Bert", half=True), LAYERS, _NORM_TWICE, exporters=_DYNAMO
    ),
    Architecture("bert-eager-half", lambda: text("Bert", half=True, **_EAGER), LAYERS, _NORM_TWICE),
    Architecture("roberta", lambda: text("Roberta", pad_token_id=1), LAYERS, _NORM_TWICE),
    Architecture(
        "distilbert",
        lambda: text("DistilBert", dim=WIDTH, n_layers=LAYERS, n_heads=HEADS, hidden_dim=2 * WIDTH),
        LAYERS,
        _NORM_TWICE,
    ),
    Architecture("albert", lambda: text("Albert", embedding_size=32), LAYERS, _NORM_TWICE),
    Architecture("electra", lambda: text("Electra", embedding_size=WIDTH), LAYERS, _NORM_TWICE),
    Architecture("mpnet", lambda: text("MPNet"), LAYERS, _NORM_TWICE),
    Architecture(
        "deberta",
        lambda: text("Deberta", max_relative_positions=16, **_BERT_SIZES),
        LAYERS,
        _NORM_TWICE,
    ),
    Architecture(
        "deberta-v2",
        lambda: text(
            "DebertaV2",
            position_buckets=16,
            norm_rel_ebd="layer_norm",
            share_att_key=True,
            position_biased_input=False,
            **_BERT_SIZES,
        ),
        LAYERS,
        _NORM_TWICE,  # that of the table of relative positions is constant
    ),
    Architecture(
        "modernbert",
        lambda: text(
            "ModernBert",
            local_attention=8,
            global_attn_every_n_layers=2,
            pad_token_id=0,
            bos_token_id=0,
            cls_token_id=0,
            eos_token_id=1,
            sep_token_id=1,
        ),
        LAYERS,
        2 * LAYERS + 1,
        rotary=2 * LAYERS,
    ),
    Architecture("nomic-bert", lambda: text("NomicBert"), LAYERS, _NORM_TWICE, rotary=2 * LAYERS),
    Architecture(
        "roformer",
        lambda: text("RoFormer", embedding_size=WIDTH),
        LAYERS,
        _NORM_TWICE,
        rotary=2 * LAYERS,
    ),
    Architecture(
        "esm",
        lambda: text("Esm", position_embedding_type="rotary", pad_token_id=1, mask_token_id=4),
        LAYERS,
        _NORM_TWICE,
        rotary=2 * LAYERS,
    ),
    # Decoders without rotary positions.
    Architecture("gpt2", lambda: gpt("GPT2"), LAYERS, _NORM_TWICE),
    Architecture("gpt2-eager", lambda: gpt("GPT2", **_EAGER), LAYERS, _NORM_TWICE),
    Architecture(
        "gpt2-half", lambda: gpt("GPT2", half=True), LAYERS, _NORM_TWICE, exporters=_DYNAMO
    ),
    Architecture(
        "gpt2-causal", lambda: gpt("GPT2", padded=False), LAYERS, _NORM_TWICE, causal=LAYERS
    ),
    Architecture(
        "gpt2-eager-causal",
        lambda: gpt("GPT2", padded=False, **_EAGER),
        LAYERS,
        _NORM_TWICE,
        causal=LAYERS,
    ),
    Architecture("gpt2-past", lambda: with_past(gpt2(), HEADS), LAYERS, _NORM_TWICE, past=LAYERS),
    Architecture(
        "gpt2-causal-past",
        lambda: with_past(gpt2(), HEADS, padded=False),
        LAYERS,
        _NORM_TWICE,
        causal=LAYERS,
        past=LAYERS,
    ),
    Architecture("gpt-bigcode", lambda: gpt("GPTBigCode"), LAYERS, _NORM_TWICE),
    Architecture(
        "gpt-neo",
        lambda: text(
            "GPTNeo",
            num_layers=LAYERS,
            num_heads=HEADS,
            attention_types=[[["global", "local"], 1]],
            window_size=4,
        ),
        LAYERS,
        _NORM_TWICE,
    ),
    Architecture(
        "opt",
        lambda: text("OPT", ffn_dim=2 * WIDTH, word_embed_proj_dim=WIDTH),
        LAYERS,
        _NORM_TWICE,
    ),
    Architecture(
        "bloom", lambda: text("Bloom", n_layer=LAYERS, n_head=HEADS), LAYERS, 2 * LAYERS + 2
    ),
    Architecture(
        "mpt",
        lambda: text("Mpt", d_model=WIDTH, n_layers=LAYERS, n_heads=HEADS, max_seq_len=40),
        LAYERS,
        _NORM_TWICE,
    ),
    # Decoders with rotary positions.
    *(
        Architecture(name, functools.partial(text, **options), LAYERS, norms, rotary=2 * LAYERS)
        for name, norms, options in (
            ("llama", 5, {"family": "Llama", "num_key_value_heads": 2}),
            ("llama-eager", 5, {"family": "Llama", "num_key_value_heads": 2, **_EAGER}),
            (
                "llama-half",
                5,
                {"family": "Llama", "num_key_value_heads": 2, "half": True, **_EAGER},
            ),
            ("qwen2", 5, {"family": "Qwen2", "num_key_value_heads": 1}),
            ("qwen3", 9, {"family": "Qwen3", "num_key_value_heads": 2, "head_dim": 16}),
            ("mistral", 5, {"family": "Mistral", "num_key_value_heads": 2, "sliding_window": 4}),
            ("gemma", 5, {"family": "Gemma", "num_key_value_heads": 1, "head_dim": 16}),
            (
                "gemma2",
                9,
                {
                    "family": "Gemma2",
                    "num_key_value_heads": 2,
                    "head_dim": 16,
                    "sliding_window": 4,
                },
            ),
            (
                "gemma3",
                13,
                {
                    "family": "Gemma3Text",
                    "num_key_value_heads": 2,
                    "head_dim": 16,
                    "sliding_window": 4,
                },
            ),
            ("gpt-neox", 5, {"family": "GPTNeoX", "rotary_pct": 0.25}),
            ("phi", 3, {"family": "Phi"}),
            ("phi3", 5, {"family": "Phi3", "pad_token_id": 0}),
            ("falcon", 3, {"family": "Falcon", "multi_query": True}),
            ("stablelm", 5, {"family": "StableLm", "num_key_value_heads": 2}),
            ("olmo2", 9, {"family": "Olmo2"}),
            ("granite", 5, {"family": "Granite", "num_key_value_heads": 2}),
            ("starcoder2", 5, {"family": "Starcoder2", "num_key_value_heads": 2}),
        )
    ),
    # Of these, TorchScript gets the shapes of what it repeats wrong.
    Architecture(
        "cohere",
        lambda: text("Cohere"),
        LAYERS,
        LAYERS + 1,
        rotary=2 * LAYERS,
        exporters=_DYNAMO,
    ),
    Architecture(
        "glm",
        lambda: text("Glm", num_key_value_heads=2, pad_token_id=0, head_dim=16),
        LAYERS,
        _NORM_TWICE,
        rotary=2 * LAYERS,
        exporters=_DYNAMO,
    ),
    Architecture("gptj", lambda: gpt("GPTJ", rotary_dim=8), LAYERS, LAYERS + 1, rotary=2 * LAYERS),
    Architecture(
        "codegen", lambda: gpt("CodeGen", rotary_dim=8), LAYERS, LAYERS + 1, rotary=2 * LAYERS
    ),
    Architecture(
        "llama-causal",
        lambda: text("Llama", padded=False),
        LAYERS,
        _NORM_TWICE,
        rotary=2 * LAYERS,
        causal=LAYERS,
    ),
    Architecture(
        "llama-causal-shared",
        lambda: text("Llama", num_key_value_heads=2, padded=False),
        LAYERS,
        _NORM_TWICE,
        rotary=2 * LAYERS,
        causal=LAYERS,
        exporters=_DYNAMO,  # for TorchScript, torch has no attention of shared heads
    ),
    Architecture(
        "llama-past",
        lambda: with_past(llama(), 2),
        LAYERS,
        _NORM_TWICE,
        rotary=2 * LAYERS,
        past=LAYERS,
    ),
    Architecture(
        "llama-causal-past",
        lambda: with_past(llama(), 2, padded=False),
        LAYERS,
        _NORM_TWICE,
        rotary=2 * LAYERS,
        causal=LAYERS,
        past=LAYERS,
    ),
    # Images and sound.
    Architecture("vit", lambda: image("ViT", {"add_pooling_layer": False}), LAYERS, _NORM_TWICE),
    Architecture("deit", lambda: image("DeiT", {"add_pooling_layer": False}), LAYERS, _NORM_TWICE),
    Architecture(
        "beit",
        lambda: image(
            "Beit",
            {"add_pooling_layer": False},
            use_relative_position_bias=True,
            use_mask_token=False,
        ),
        LAYERS,
        2 * LAYERS,
    ),
    Architecture("dinov2", lambda: image("Dinov2"), LAYERS, _NORM_TWICE),
    Architecture("swin", lambda: windowed("Swin"), LAYERS, 2 * LAYERS + 2),
    Architecture("swinv2", lambda: windowed("Swinv2"), LAYERS, 2 * LAYERS + 2),
    Architecture("clip-text", lambda: text("CLIPText", eos_token_id=2), LAYERS, _NORM_TWICE),
    Architecture("clip-vision", lambda: image("CLIPVision"), LAYERS, _NORM_TWICE),
    Architecture("siglip-vision", lambda: image("SiglipVision"), LAYERS, _NORM_TWICE),
    Architecture("wav2vec2", lambda: audio("Wav2Vec2"), LAYERS, 2 * LAYERS + 2),
    # Encoders and decoders.
    Architecture("whisper-encoder", whisper_encoder, LAYERS, _NORM_TWICE),
    Architecture("whisper-decoder", whisper_decoder, 2 * LAYERS, 3 * LAYERS + 1),
    Architecture("bart", lambda: translator("Bart"), 3 * LAYERS, 5 * LAYERS + 2, causal=LAYERS),
    Architecture("marian", lambda: translator("Marian"), 3 * LAYERS, 5 * LAYERS, causal=LAYERS),
    Architecture("t5-encoder", t5_encoder, LAYERS, _NORM_TWICE),
    Architecture("t5-decoder", t5_decoder, 2 * LAYERS, 3 * LAYERS + 1),
)

ARCHITECTURES: Mapping[str, Architecture] = {item.name: item for item in _TABLE}


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
    if name not in ARCHITECTURES:
        raise InputError(
            f"unknown architecture {name!r}", hint=f"known: {', '.join(ARCHITECTURES)}"
        )
    sources = (__file__, families.__file__)
    build = ARCHITECTURES[name].build
    return tiny.exported(name, build, exporter, opset=opset, sources=sources)
