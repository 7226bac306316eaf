# SPDX-License-Identifier: Apache-2.0
"""Transformers built from their configurations alone: tiny, of random weights, nothing downloaded.

The least size that still has every part: two layers, width 64, four heads. Each function here
gives a module and its inputs as `burnish.frontends.pytorch` takes them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from burnish.frontends.pytorch import Example

LAYERS, WIDTH, HEADS, WORDS = 2, 64, 4, 100
BATCH, LENGTH = 2, 8

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


def llama() -> torch.nn.Module:
    """Llama with two heads of keys and values, to go on with by `with_past`."""
    return _model("Llama", _TEXT_SIZES | {"num_key_value_heads": 2})


def gpt2() -> torch.nn.Module:
    """GPT-2, to go on with by `with_past`."""
    sizes = {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": HEADS, "n_positions": 40}
    return _model("GPT2", sizes | {"vocab_size": WORDS})


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


# --- parts -------------------------------------------------------------------------------------


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
