# SPDX-License-Identifier: Apache-2.0
"""Commands run in this process; a model and samples for them; passes that misbehave."""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import onnx_ir as ir
import pytest

from burnish.passes import registry
from burnish.passes.base import Pass
from burnish.passes.context import PassContext
from burnish.passes.rule import pass_of, rule
from burnish.testing import parse
from burnish.tools import cli


class Result(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture
def optimize(run: Run) -> Run:
    """Run `optimize` in this process."""
    return functools.partial(run, "optimize")


@pytest.fixture
def burnish(run: Run) -> Run:
    """Run `burnish` in this process."""
    return functools.partial(run, "burnish")


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a console script in this process."""

    def invoke(script: str, *words: object) -> Result:
        monkeypatch.setattr(sys, "argv", [script, *map(str, words)])
        monkeypatch.setenv("COLUMNS", "300")
        monkeypatch.setattr(cli, "leave", sys.exit)  # this process goes on
        with pytest.raises(SystemExit) as leave:
            {"optimize": cli.optimize_main, "burnish": cli.main}[script]()
        out, err = capfd.readouterr()
        assert isinstance(leave.value.code, int)
        return Result(leave.value.code, out, err)

    return invoke


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model with something to clean up, quantize and prune."""
    rng = np.random.default_rng(0)
    made = parse(
        "g (float[N,16] x) => (float[N,8] y) "
        "{ i = Identity(x)  t = MatMul(i, w)  s = Add(t, b)  r = Relu(s)  y = MatMul(r, v) }",
        **{
            name: rng.standard_normal(shape).astype(np.float32)
            for name, shape in (("w", (16, 32)), ("b", (32,)), ("v", (32, 8)))
        },
    )
    path = tmp_path / "m.onnx"
    ir.save(made, path)
    return path


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    """A folder of calibration samples."""
    folder = tmp_path / "samples"
    folder.mkdir()
    rng = np.random.default_rng(1)
    for index in range(8):
        np.savez(folder / f"{index}.npz", x=rng.standard_normal((4, 16)).astype(np.float32))
    return folder


@pytest.fixture
def misbehaving(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passes that misbehave, by name: scale, crash, hide, faulty."""

    @dataclass(frozen=True)
    class Scale(Pass):
        """Changes a weight, and claims not to."""

        name: ClassVar[str] = "scale"

        def apply(self, model: ir.Model, ctx: PassContext) -> None:
            with ctx.rewrite("scale", "w") as go:
                if go:
                    value = model.graph.initializers["w"]
                    assert value.const_value is not None
                    value.const_value = ir.tensor(value.const_value.numpy() * 2, name="w")

    @dataclass(frozen=True)
    class Crash(Pass):
        """Raises."""

        name: ClassVar[str] = "crash"

        def apply(self, model: ir.Model, ctx: PassContext) -> None:
            with ctx.rewrite("crash-rule", "w"):
                raise ZeroDivisionError("division by zero")

    @rule
    def hide_add(op: Any, x: Any) -> Any:
        """Add(x, 1) -> Sub(x, -1)."""
        return op.Add(x, 1.0)

    @hide_add.rewrite
    def _(op: Any, x: Any) -> Any:
        return op.Sub(x, -1.0)

    @rule
    def raises(op: Any, x: Any, w: Any) -> Any:
        """MatMul(x, w) -> an exception."""
        return op.MatMul(x, w)

    @raises.rewrite
    def _(op: Any, x: Any, w: Any) -> Any:
        op.Neg(x)
        raise KeyError("lost")

    module = types.ModuleType("burnish_test_passes")
    module.__dict__.update(Scale=Scale, Crash=Crash)
    module.__dict__.update(Hide=pass_of("hide", hide_add), Faulty=pass_of("faulty", raises))
    monkeypatch.setitem(sys.modules, "burnish_test_passes", module)
    for name in ("Scale", "Crash", "Hide", "Faulty"):
        monkeypatch.setitem(registry.BUILT_IN, name.lower(), f"burnish_test_passes:{name}")
