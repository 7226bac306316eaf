# SPDX-License-Identifier: Apache-2.0
"""Transformers built from their configurations alone: tiny, of random weights, nothing downloaded.

They are what exporters write today for each architecture, in the least size that still has every
part: two layers, width 64, four heads. `exported` gives the ONNX file of one, from the cache.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
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


def text(family: str, *, padded: bool = True, half: bool = False, **options: Any) -> Example:
    """A model of text by its usual sizes.

    Args:
        family: As transformers calls its classes.
        padded: There is an attention mask among the inputs.
        half: Weights and sums are float16.
        options: What its configuration calls otherwise, or has besides.
    """
    return _text(_model(family, _TEXT_SIZES | options), padded=padded, half=half)


def gpt(family: str, *, padded: bool = True, half: bool = False, **options: Any) -> Example:
    """A decoder whose configuration speaks as GPT-2's does; arguments as for `text`."""
    sizes = {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": HEADS, "n_positions": 40}
    model = _model(family, sizes | {"vocab_size": WORDS} | options)
    return _text(model, padded=padded, half=half)


def image(family: str, model_options: Mapping[str, Any] | None = None, **options: Any) -> Example:
    """A model of images by its usual sizes; `model_options` are the class's, not the sizes'."""
    return _image(_model(family, _IMAGE_SIZES | options, **(model_options or {})))


def windowed(family: str) -> Example:
    """Swin: attention in windows that are shifted in every second layer, with a bias and a mask."""
    sizes = {"image_size": 32, "patch_size": 2, "embed_dim": WIDTH // 2, "depths": [LAYERS]}
    return _image(_model(family, sizes | {"num_heads": [HEADS], "window_size": 4}), size=32)


def audio(family: str) -> Example:
    """wav2vec 2.0: sound waves, convolved."""
    import torch

    def forward(self: Any, input_values: Tensor) -> Tensor:
        return self.model(input_values).last_hidden_state

    sizes = _TEXT_SIZES | {"conv_dim": [32], "conv_stride": [4], "conv_kernel": [8]}
    sizes |= {"num_feat_extract_layers": 1, "num_conv_pos_embeddings": 8}
    model = _model(family, sizes | {"num_conv_pos_embedding_groups": 4})
    return _example(model, forward, (torch.randn(BATCH, 200),), {"input_values": {0: "batch"}})


def translator(family: str) -> Example:
    """An encoder and a decoder in one: both kinds of text are inputs."""

    def forward(self: Any, input_ids: Tensor, attention_mask: Tensor, target: Tensor) -> Tensor:
        out = self.model(input_ids, attention_mask, decoder_input_ids=target, use_cache=False)
        return out.last_hidden_state

    sizes = {"vocab_size": WORDS, "d_model": WIDTH, "max_position_embeddings": 40}
    sizes |= {"encoder_layers": LAYERS, "decoder_layers": LAYERS, "pad_token_id": 0}
    sizes |= {"encoder_attention_heads": HEADS, "decoder_attention_heads": HEADS}
    sizes |= {"encoder_ffn_dim": 2 * WIDTH, "decoder_ffn_dim": 2 * WIDTH}
    sizes |= {"decoder_start_token_id": 0, "eos_token_id": 2, "forced_eos_token_id": 2}
    ids, mask = _tokens()
    encoded = {0: "batch", 1: "encoded"}
    axes = {"input_ids": encoded, "attention_mask": encoded, "target": {0: "batch", 1: "sequence"}}
    return _example(_model(family, sizes), forward, (ids, mask, ids[:, :6]), axes)


def with_past(model: torch.nn.Module, heads: int, *, padded: bool = True) -> Example:
    """A decoder going on: keys and values of what came before are inputs, all of them outputs.

    Args:
        model: A decoder.
        heads: Of its keys and values.
        padded: There is an attention mask among the inputs, over past and present.
    """
    import torch

    def go_on(self: Any, ids: Tensor, mask: Tensor | None, past: Sequence[Tensor]) -> list[Tensor]:
        from transformers import DynamicCache

        cache = DynamicCache()
        for layer in range(LAYERS):
            cache.update(past[2 * layer], past[2 * layer + 1], layer)
        out = self.model(ids, attention_mask=mask, past_key_values=cache, use_cache=True)
        kept = [item for layer in cache.layers for item in (layer.keys, layer.values)]
        return [out.last_hidden_state, *kept]

    def forward(
        self: Any, input_ids: Tensor, mask: Tensor, k0: Tensor, v0: Tensor, k1: Tensor, v1: Tensor
    ) -> list[Tensor]:
        return go_on(self, input_ids, mask, (k0, v0, k1, v1))

    def unpadded(
        self: Any, input_ids: Tensor, k0: Tensor, v0: Tensor, k1: Tensor, v1: Tensor
    ) -> list[Tensor]:
        return go_on(self, input_ids, None, (k0, v0, k1, v1))

    torch.manual_seed(1)
    past = [torch.randn(BATCH, heads, LENGTH, WIDTH // HEADS) for _ in range(2 * LAYERS)]
    new = 3
    ids = torch.randint(3, WORDS, (BATCH, new))
    axes = {name: {0: "batch", 2: "past"} for name in ("k0", "v0", "k1", "v1")}
    axes |= {"input_ids": {0: "batch", 1: "sequence"}}
    if not padded:
        return _example(model, unpadded, (ids, *past), axes)
    mask = torch.ones(BATCH, LENGTH + new, dtype=torch.int64)
    mask[-1, :3] = 0
    axes |= {"mask": {0: "batch", 1: "total"}}
    return _example(model, forward, (ids, mask, *past), axes)


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
    Architecture("gpt2-past", lambda: with_past(_gpt2(), HEADS), LAYERS, _NORM_TWICE, past=LAYERS),
    Architecture(
        "gpt2-causal-past",
        lambda: with_past(_gpt2(), HEADS, padded=False),
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
        lambda: with_past(_llama(), 2),
        LAYERS,
        _NORM_TWICE,
        rotary=2 * LAYERS,
        past=LAYERS,
    ),
    Architecture(
        "llama-causal-past",
        lambda: with_past(_llama(), 2, padded=False),
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

_TEXT_SIZES = {
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": 2 * WIDTH,
    "vocab_size": WORDS,
    "max_position_embeddings": 40,
}
_IMAGE_SIZES = {
    "image_size": 16,
    "patch_size": 8,
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": 2 * WIDTH,
}


def _text(model: torch.nn.Module, *, padded: bool = True, half: bool = False) -> Example:
    def forward(self: Any, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        out = self.model(input_ids=input_ids, attention_mask=attention_mask, **options)
        return out.last_hidden_state

    def unpadded(self: Any, input_ids: Tensor) -> Tensor:
        # Without a cache, transformers looks for several texts in one by their positions.
        return self.model(input_ids=input_ids, use_cache=True).last_hidden_state

    options = {"use_cache": False} if hasattr(model.config, "use_cache") else {}
    axes = {0: "batch", 1: "sequence"}
    model = model.half() if half else model
    if not padded:
        return _example(model, unpadded, _tokens()[:1], {"input_ids": axes})
    return _example(model, forward, _tokens(), {"input_ids": axes, "attention_mask": axes})


def _image(model: torch.nn.Module, size: int = 16) -> Example:
    import torch

    def forward(self: Any, pixel_values: Tensor) -> Tensor:
        return self.model(pixel_values).last_hidden_state

    pixels = torch.randn(BATCH, 3, size, size)
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


def _llama() -> Any:
    return _model("Llama", _TEXT_SIZES | {"num_key_value_heads": 2})


def _gpt2() -> Any:
    sizes = {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": HEADS, "n_positions": 40}
    return _model("GPT2", sizes | {"vocab_size": WORDS})


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
