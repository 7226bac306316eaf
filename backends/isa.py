# SPDX-License-Identifier: Apache-2.0
"""Instruction sets: which features of the processor bear on speed or on int8 arithmetic."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from pathlib import Path

# Feature name: the flags of /proc/cpuinfo that must all be there, for each way to have it.
_FEATURES: dict[str, tuple[frozenset[str], ...]] = {
    "sse4.1": (frozenset({"sse4_1"}),),
    "avx": (frozenset({"avx"}),),
    "f16c": (frozenset({"f16c"}),),
    "fma": (frozenset({"fma"}),),
    "avx2": (frozenset({"avx2"}),),
    # What runtimes call AVX-512: the Skylake server subset.
    "avx512": (frozenset({"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}),),
    "vnni": (frozenset({"avx512_vnni"}), frozenset({"avx_vnni"})),
    "avx512-bf16": (frozenset({"avx512_bf16"}),),
    "avx512-fp16": (frozenset({"avx512_fp16"}),),
    "amx-int8": (frozenset({"amx_int8"}),),
    "amx-bf16": (frozenset({"amx_bf16"}),),
    "neon": (frozenset({"asimd"}), frozenset({"neon"})),
    "dotprod": (frozenset({"asimddp"}),),
    "i8mm": (frozenset({"i8mm"}),),
    "sve": (frozenset({"sve"}),),
    "neon-fp16": (frozenset({"asimdhp"}),),
    "neon-bf16": (frozenset({"bf16"}),),
}


# Where the processor cannot be asked: what every machine of that name has.
_BASELINE = {"arm64": frozenset({"neon"}), "aarch64": frozenset({"neon"})}


def detect_isa(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """The instruction-set features of this machine that bear on speed or on int8 arithmetic.

    Read from Linux's `cpuinfo`; elsewhere, only what the architecture guarantees.
    """
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return _BASELINE.get(platform.machine().lower(), frozenset())
    return features(
        word
        for line in lines
        if line.startswith(("flags", "Features"))
        for word in line.partition(":")[2].split()
    )


def features(flags: Iterable[str]) -> frozenset[str]:
    """Name the features that `/proc/cpuinfo` flags amount to."""
    have = frozenset(flags)
    return frozenset(name for name, ways in _FEATURES.items() if any(w <= have for w in ways))
