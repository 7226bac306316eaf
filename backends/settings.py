# SPDX-License-Identifier: Apache-2.0
"""Settings of a session of ONNX Runtime, as an artefact records them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from burnish.backends import providers
from burnish.backends.providers import Cpu, Provider

if TYPE_CHECKING:
    import onnx_ir as ir
    import onnxruntime

    from burnish.backends.onnxruntime import Optimize, Session


@dataclass(frozen=True)
class SessionSettings:
    """How a session is set up. The defaults are those of `burnish.backends.onnxruntime.session`.

    Attributes:
        threads: Threads that share one operator's work; 0 lets the runtime choose.
        optimize: The runtime's own graph optimizations.
        blocked_layout: Whether convolutions run in the runtime's blocked layout (NCHWc), where
            the processor has kernels for it. It costs reordering where operators around them do
            not know it. Needs `optimize` "all".
        prepack: Whether kernels keep a rearranged copy of the weights.
        arena: Whether memory is taken from an arena that grows, rather than from the system.
        memory_pattern: Whether all buffers of a run are planned as one block, where shapes allow.
        memory_reuse: Whether values share a buffer by plan. The runtime's plan lets only values of
            one shape share, and holds the buffer in between: where sizes are known but shapes
            differ, the arena alone hands memory out again sooner, while it is in the caches.
        spinning: Whether idle threads wait busily for a moment: quicker, and costs processor time.
        providers: Execution providers, first choice first. The CPU takes what is left.
    """

    threads: int = 1
    optimize: Optimize = "all"
    blocked_layout: bool = True
    prepack: bool = True
    arena: bool = True
    memory_pattern: bool = True
    memory_reuse: bool = True
    spinning: bool = True
    providers: tuple[Provider, ...] = (Cpu(),)

    def as_dict(self) -> dict[str, Any]:
        """Return plain data, ready for JSON."""
        data = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        return {**data, "providers": [provider.as_dict() for provider in self.providers]}

    @staticmethod
    def of(data: Mapping[str, Any]) -> SessionSettings:
        """Read what `as_dict` returns; what is missing has its default.

        Raises:
            InputError: a provider or an option of one is unknown.
            TypeError: a setting is unknown.
        """
        rest = dict(data)
        named = rest.pop("providers", None)
        if named is not None:
            rest["providers"] = tuple(map(providers.of, named))
        return SessionSettings(**rest)

    def session(self, model: ir.Model | Path | bytes, **options: Any) -> Session:
        """Load a model under these settings; `options` as `burnish.backends.onnxruntime.session`'s.

        More threads than there are processors are not started.
        """
        from burnish.backends.onnxruntime import session

        return session(
            model,
            threads=min(self.threads, os.cpu_count() or 1),
            optimize=self.optimize,
            prepack=self.prepack,
            providers=self.providers,
            disabled_optimizers=() if self.blocked_layout else ("NchwcTransformer",),
            **{"configure": self.configure, **options},
        )

    def configure(self, options: onnxruntime.SessionOptions) -> None:
        """Set those of the options that are no arguments of `session`."""
        options.enable_cpu_mem_arena = self.arena
        options.enable_mem_pattern = self.memory_pattern
        options.enable_mem_reuse = self.memory_reuse
        options.add_session_config_entry(
            "session.intra_op.allow_spinning", "1" if self.spinning else "0"
        )
