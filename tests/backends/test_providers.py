# SPDX-License-Identifier: Apache-2.0
"""Execution providers with typed options."""

from __future__ import annotations

import dataclasses

import onnxruntime
import pytest

from burnish.backends import providers
from burnish.backends.onnxruntime import session
from burnish.backends.profiles import Profile, Range
from burnish.backends.providers import Cpu, Cuda, NvTensorRtRtx, TensorRt
from burnish.errors import InputError, UnavailableError
from burnish.testing import parse

_PROFILES = (
    Profile("small", {"x": Range((1, 3), (2, 3), (4, 3)), "m": Range((1,), (2,), (4,))}),
    Profile("large", {"x": Range((5, 3), (8, 3), (8, 3)), "m": Range((5,), (8,), (8,))}),
)


def test_options_are_the_runtimes_own() -> None:
    assert Cpu().options() == {}
    assert Cuda(
        device_id=1, use_tf32=False, arena_extend_strategy="kSameAsRequested"
    ).options() == {
        "device_id": "1",
        "use_tf32": "0",
        "arena_extend_strategy": "kSameAsRequested",
    }
    assert TensorRt(device_id=0, fp16_enable=True, profiles=_PROFILES).options() == {
        "device_id": "0",
        "trt_fp16_enable": "1",
        "trt_profile_min_shapes": "x:1x3,m:1,x:5x3,m:5",
        "trt_profile_opt_shapes": "x:2x3,m:2,x:8x3,m:8",
        "trt_profile_max_shapes": "x:4x3,m:4,x:8x3,m:8",
    }
    assert NvTensorRtRtx(enable_cuda_graph=True, max_workspace_size=1 << 20).options() == {
        "enable_cuda_graph": "1",
        "nv_max_workspace_size": "1048576",
    }


@pytest.mark.parametrize(
    "provider",
    [Cpu(), Cuda(prefer_nhwc=True), TensorRt(profiles=_PROFILES), NvTensorRtRtx(device_id=1)],
)
def test_manifests_hold_them(provider: providers.Provider) -> None:
    assert providers.of(provider.as_dict()) == provider


def test_text() -> None:
    assert providers.parse("cuda") == Cuda()
    assert providers.parse("cuda:use_tf32=0,device_id=2") == Cuda(use_tf32=False, device_id=2)
    assert providers.parse("tensorrt:engine_cache_path=cache") == TensorRt(
        engine_cache_path="cache"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cudda", "unknown execution provider 'cudda'; known: cpu, cuda, tensorrt"),
        ("cuda:tf32=1", "provider cuda has no option 'tf32'; did you mean 'use_tf32'"),
        ("cuda:use_tf32=yes", "provider cuda: use_tf32='yes'; choose of 0, 1"),
        ("cuda:device_id=first", "provider cuda: device_id='first' is no whole number"),
        ("cuda:arena_extend_strategy=k", "choose of kNextPowerOfTwo, kSameAsRequested"),
        ("tensorrt:profiles=x", "cannot be given as text; use --shapes"),
    ],
)
def test_text_that_is_wrong(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        providers.parse(text)


@pytest.mark.parametrize("kind", [kind for kind in providers.kinds() if kind != "cpu"])
def test_one_that_is_missing_says_what_to_install(kind: str) -> None:
    provider = providers.of(kind)
    if provider.name in onnxruntime.get_available_providers():
        pytest.skip("it is there")
    model = parse("g (float[N] x) => (float[N] y) { y = Relu(x) }")
    with pytest.raises(UnavailableError, match=rf"has no {provider.name}; on a machine .*pip ins"):
        session(model, providers=[provider])


def test_every_option_is_documented() -> None:
    for kind in providers.kinds():
        made = type(providers.of(kind))
        for item in dataclasses.fields(made):
            assert f"{item.name}: " in (made.__doc__ or ""), f"{kind}: {item.name}"
