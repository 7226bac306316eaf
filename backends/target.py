# SPDX-License-Identifier: Apache-2.0
"""What a backend can run, and what it runs fast: the questions a pass asks before it rewrites.

Nothing here is a hand-written table of operators. The answers come from the runtime's own kernel
registry and operator schemas (TensorRT's: from its parser), so they stay right when the runtime is
upgraded.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from burnish.backends import int8
from burnish.backends.isa import detect_isa
from burnish.backends.kernels import CPU, Support, max_opset, support_of, type_string
from burnish.backends.preferences import PREFERENCES, Preferences, find
from burnish.errors import InputError

if TYPE_CHECKING:
    import onnx_ir as ir

MICROSOFT = "com.microsoft"
"""The domain of ONNX Runtime's contributed operators, where the fused forms live."""

_PROVIDERS = {
    "cpu": CPU,
    "tensorrt": "TensorrtExecutionProvider",
    "tensorrt-rtx": "NvTensorRTRTXExecutionProvider",
}


@dataclass(frozen=True)
class Target:
    """The machine and runtime a model is optimized for.

    Attributes:
        name: What the user calls it: ``cpu``, ``tensorrt``, ``tensorrt-rtx:sm89,sm120``.
        provider: The ONNX Runtime execution provider that runs it.
        isa: Instruction-set features, e.g. ``{"avx2", "avx512", "vnni"}``; see `detect_isa`. Of
            TensorRT for RTX: the compute capabilities to build for, e.g. ``{"sm89"}``.
        max_opset: The newest opset of the default domain that the runtime fully supports.
        preferences: Which fused operators pay; the first entry that covers one counts.
    """

    name: str
    provider: str
    isa: frozenset[str]
    max_opset: int
    preferences: Preferences = ()

    @staticmethod
    def parse(text: str) -> Target:
        """The target of that name, as found on this machine.

        Raises:
            InputError: there is no target of that name; the nearest name is suggested.
            MissingExtraError: its package is not installed.
        """
        name, _, devices = text.strip().lower().partition(":")
        provider = _PROVIDERS.get(name)
        if provider is None or (devices and name != "tensorrt-rtx"):
            near = difflib.get_close_matches(name, _PROVIDERS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(_PROVIDERS)}"
            raise InputError(f"unknown target {text!r}", hint=hint)
        if provider == CPU:
            return Target(name, provider, detect_isa(), max_opset(), PREFERENCES.get(name, ()))
        from burnish.backends.tensorrt.capability import parse

        built_for = parse(name, devices)
        full = f"{name}:{','.join(built_for)}" if built_for else name
        # No newer than what ONNX Runtime runs, which checks the numbers.
        return Target(full, provider, frozenset(built_for), max_opset(), PREFERENCES["tensorrt"])

    def support(
        self,
        op_type: str,
        domain: str = "",
        *,
        opset: int,
        dtype: ir.DataType | None = None,
    ) -> Support:
        """How the runtime runs an operator, if it does.

        Args:
            op_type: Operator name.
            domain: Operator domain; ``""`` and ``"ai.onnx"`` are the same.
            opset: Version of that domain which the model imports.
            dtype: Element type of the first input (of the first output where there is no input);
                ``None`` asks whether any type is supported.
        """
        domain = "" if domain == "ai.onnx" else domain
        if self.provider != CPU:
            from burnish.backends.tensorrt.capability import supports

            name = self.name.partition(":")[0]
            found = supports(name, domain, op_type, None if dtype is None else dtype.name)
            return Support.KERNEL if found else Support.NONE
        return support_of(self.provider, domain, op_type, opset, type_string(dtype))

    def runs(
        self,
        op_type: str,
        domain: str = "",
        *,
        opset: int,
        dtype: ir.DataType | None = None,
    ) -> bool:
        """Whether the runtime runs an operator, in whichever way. Arguments as for `support`."""
        return bool(self.support(op_type, domain, opset=opset, dtype=dtype))

    def fuses(self, name: str, dtype: ir.DataType | None = None) -> bool:
        """Whether the runtime has a kernel for a fused operator of `MICROSOFT`'s domain."""
        return self.support(name, MICROSOFT, opset=1, dtype=dtype) is Support.KERNEL

    def objection_to(self, operator: str, dtype: ir.DataType | None = None) -> str | None:
        """Why a rule should not write a fused operator, though the target runs it; or None.

        Args:
            operator: As in `burnish.backends.preferences`.
            dtype: Element type it would have.
        """
        known = find(self.preferences, operator, None if dtype is None else dtype.name)
        if known is None or known.prefer:
            return None
        measured = "" if known.ratio is None else f" ({known.ratio:.2f}x)"
        return f"target {self.name} runs it no faster fused{measured}"

    def speaks_of(
        self, op_type: str, domain: str = "", dtype: ir.DataType | None = None
    ) -> str | None:
        """The name under which the preferences list an operator, whichever they prefer; or None.

        Args:
            op_type: Operator name.
            domain: Operator domain.
            dtype: Element type it would have.
        """
        names = (f"microsoft.{op_type}", op_type) if domain == MICROSOFT else (op_type,)
        kind = None if dtype is None else dtype.name
        return next((name for name in names if find(self.preferences, name, kind)), None)

    @property
    def int8(self) -> int8.Int8Form:
        """The form in which it takes int8."""
        return int8.ONNX_RUNTIME if self.provider == CPU else int8.TENSORRT

    @property
    def int8_accumulator_bits(self) -> int:
        """Width in which sums of uint8 * int8 products are held before they are widened.

        x86 without VNNI adds pairs of products in saturating 16-bit lanes (``vpmaddubsw``): two
        full-range products overflow them, so weights have to be kept to 7 bits there.
        """
        x86_without_vnni = "sse4.1" in self.isa and not {"vnni", "amx-int8"} & self.isa
        return 16 if x86_without_vnni else 32
