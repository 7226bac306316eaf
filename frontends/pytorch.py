# SPDX-License-Identifier: Apache-2.0
"""The PyTorch frontend: a module and example inputs, or an exported program, to ONNX.

Exports with torch's dynamo exporter, gives dynamic axes the names asked for, and compares the
exported model with the module on the example inputs. Needs the extra `torch`.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import burnish.frontends.onnx as onnx_frontend
from burnish.errors import InputError, VerificationError, require
from burnish.frontends import Loaded, digest
from burnish.references import is_reference, resolve_function

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir
    import torch

__all__ = ["Example", "can_load", "export", "load"]

Exporter = Literal["dynamo", "torchscript"]
_SIGNATURE = "return (module, args), or burnish.frontends.pytorch.Example(module, args, ...)"


@dataclass(frozen=True)
class Example:
    """A module with inputs to trace it with; what a `module:function` source returns.

    Instead of one, a function may return a plain tuple of the fields, in this order.

    Attributes:
        module: Exported in eval mode; its mode is left as it was.
        args: Positional inputs of `forward`: tensors, or containers of tensors.
        kwargs: Keyword inputs.
        dynamic_axes: Which axes may have another size than here, and what they are called:
            `{"input_ids": {0: "batch", 1: "sequence"}}`, by the names of `forward`'s parameters.
            All others are fixed.
        output_names: Names for the outputs. By default the keys if `forward` returns a dict of
            tensors, else what the exporter calls them.
    """

    module: torch.nn.Module
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    dynamic_axes: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    output_names: Sequence[str] = ()


def can_load(source: object) -> bool:
    """Is this a `module:function`, a `.pt2` file, an `Example` or an exported program?"""
    if isinstance(source, Example):
        return True
    if isinstance(source, str) and is_reference(source):
        return True
    if isinstance(source, (str, os.PathLike)):
        return Path(os.fsdecode(source)).suffix == ".pt2"
    # Whoever holds a torch object has imported torch.
    torch = sys.modules.get("torch")
    if torch is None:
        return False
    first = source[0] if isinstance(source, tuple) and source else source
    return isinstance(first, (torch.nn.Module, torch.export.ExportedProgram))


def load(source: object) -> Loaded:
    """Export a PyTorch source to ONNX.

    Args:
        source: `module:function`, naming a function without arguments that returns an `Example`
            or a tuple of its fields; the path of a `.pt2` file; an `Example` or such a tuple; or
            a `torch.export.ExportedProgram`.

    Raises:
        MissingExtraError: torch is not installed.
        InputError: the source cannot be imported or exported.
        VerificationError: the exported model computes something else than the module.
    """
    named = isinstance(source, str) and is_reference(source)
    if isinstance(source, (str, os.PathLike)) and not named:
        path = Path(os.fsdecode(source))
        return _export_program(_read_program(path), os.fspath(path), path)
    torch = require("torch", extra="torch")
    if isinstance(source, torch.export.ExportedProgram):
        return _export_program(source, "exported program", None)
    if isinstance(source, str) and is_reference(source):
        return export(_call(source), where=source)
    if isinstance(source, torch.nn.Module):
        raise InputError(
            f"a {type(source).__name__} cannot be exported without example inputs",
            hint="give burnish.frontends.pytorch.Example(module, args)",
        )
    return export(_as_example(source, "source"))


def export(
    example: Example,
    *,
    exporter: Exporter = "dynamo",
    opset: int | None = None,
    where: str = "module",
) -> Loaded:
    """Export a module to ONNX and compare the two on the example inputs.

    Args:
        example: The module and its inputs.
        exporter: Which of torch's exporters to use; `torchscript` is the one before PyTorch 2.9.
        opset: The ONNX opset to export for; by default the exporter's choice.
        where: What to call the module in an error.

    Returns:
        The model. With `dynamo` its weights are the module's own storage, not a copy: do not
        train the module on while the model is in use.

    Raises:
        MissingExtraError: torch or onnxscript is not installed.
        InputError: the exporter fails, or an axis asked to be dynamic is not; one line says why.
        VerificationError: the outputs differ by more than the rounding of their dtype.
    """
    torch = require("torch", extra="torch")
    require("onnxscript", extra="torch")
    module = example.module
    args, kwargs = _positional(example, where)
    with _eval_mode(module), torch.no_grad():
        try:
            expected = module(*args, **kwargs)
        except Exception as error:
            raise InputError(
                f"{where}: the module fails on its example inputs: {_first_line(error)}",
                hint="correct the example",
            ) from error
        names = list(example.output_names) or _keys(expected)
        with _quiet(), _explained(where):
            if exporter == "dynamo":
                loaded = _with_dynamo(example, args, kwargs, names, opset)
            else:
                loaded = _with_torchscript(example, args, kwargs, names, opset)
    notes = _compare(loaded.model, _tensors([*args, *kwargs.values()]), _tensors(expected), where)
    return Loaded(loaded.model, (*loaded.notes, *notes), loaded.digest)


# --- sources -----------------------------------------------------------------------------------


def _call(reference: str) -> Example:
    function = resolve_function(reference)
    try:
        returned = function()
    except Exception as error:
        raise InputError(
            f"{reference} failed: {type(error).__name__}: {_first_line(error)}",
            hint=f"it must {_SIGNATURE}",
        ) from error
    return _as_example(returned, reference)


def _as_example(given: object, where: str) -> Example:
    torch = require("torch", extra="torch")
    example = given
    if isinstance(given, tuple) and 1 <= len(given) <= 5:
        example = Example(*given)
    if not isinstance(example, Example) or not isinstance(example.module, torch.nn.Module):
        raise InputError(
            f"{where} gives an object of type {type(given).__name__}, not a module with its inputs",
            hint=_SIGNATURE,
        )
    if isinstance(example.args, torch.Tensor):
        return Example(example.module, (example.args,), *_rest(example))
    return example


def _rest(example: Example) -> tuple[Any, ...]:
    return example.kwargs, example.dynamic_axes, example.output_names


def _read_program(path: Path) -> Any:
    if not path.is_file():
        raise InputError(f"{path} does not exist", hint="check the path")
    torch = require("torch", extra="torch")
    try:
        with _quiet():
            return torch.export.load(path)
    except Exception as error:
        raise InputError(
            f"{path} is not an exported program: {_first_line(error)}",
            hint="write it with torch.export.save",
        ) from error


def _export_program(program: Any, where: str, path: Path | None) -> Loaded:
    torch = require("torch", extra="torch")
    require("onnxscript", extra="torch")
    with _quiet(), _explained(where):
        exported = torch.onnx.export(program, dynamo=True, verbose=False)
    loaded = onnx_frontend.load(exported.model)
    if path is not None:
        loaded = Loaded(loaded.model, loaded.notes, digest.of_bytes(b"", [path]))
    notes = ["not compared with PyTorch: the program has no example inputs"]
    if program.example_inputs is not None:
        args, kwargs = program.example_inputs
        with torch.no_grad():
            expected = program.module()(*args, **kwargs)
        inputs = _tensors([*args, *kwargs.values()])
        notes = _compare(loaded.model, inputs, _tensors(expected), where)
    return Loaded(loaded.model, (*loaded.notes, *notes), loaded.digest)


# --- the two exporters -------------------------------------------------------------------------


def _with_dynamo(
    example: Example,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    output_names: list[str],
    opset: int | None,
) -> Loaded:
    import torch

    given = inspect.signature(example.module.forward).bind(*args, **kwargs).arguments
    shapes = {name: dict(example.dynamic_axes.get(name, {})) or None for name in given}
    program = torch.onnx.export(
        example.module,
        args,
        kwargs=kwargs,
        output_names=output_names or None,
        opset_version=opset,
        dynamic_shapes=shapes if example.dynamic_axes else None,
        dynamo=True,
        verbose=False,
    )
    # The model in memory still knows which of two values of one name is meant; a file does not.
    return onnx_frontend.load(program.model)


def _with_torchscript(
    example: Example,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    output_names: list[str],
    opset: int | None,
) -> Loaded:
    import onnx_ir as ir
    import torch

    given = inspect.signature(example.module.forward).bind(*args, **kwargs).arguments
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        torch.onnx.export(
            example.module,
            args,
            str(path),
            kwargs=kwargs,
            input_names=[name for name, value in given.items() if _tensors(value)],
            output_names=output_names or None,
            opset_version=opset,
            dynamic_axes={name: dict(axes) for name, axes in example.dynamic_axes.items()},
            dynamo=False,
            verbose=False,
        )
        loaded = onnx_frontend.load(path)
        ir.external_data.load_to_model(loaded.model)  # there is some above 2 GB
    return loaded


def _positional(example: Example, where: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The inputs in the order of `forward`'s parameters, by position as far as possible."""
    signature = inspect.signature(example.module.forward)
    try:
        bound = signature.bind(*example.args, **example.kwargs)
    except TypeError as error:
        raise InputError(
            f"{where}: the example inputs do not fit forward{signature}: {error}",
            hint="correct the example",
        ) from error
    unknown = [name for name in example.dynamic_axes if name not in bound.arguments]
    if unknown:
        raise InputError(
            f"{where}: dynamic axes for {unknown[0]!r}, which the example does not give",
            hint=f"its inputs are: {', '.join(bound.arguments)}",
        )
    return bound.args, bound.kwargs


# --- comparing ---------------------------------------------------------------------------------


def _compare(
    model: ir.Model, inputs: list[torch.Tensor], expected: list[torch.Tensor], where: str
) -> list[str]:
    """Run the model on the example inputs and hold its outputs against PyTorch's.

    Returns a note if the runtime has no kernels for the model, as for much in bfloat16.
    """
    from burnish.backends import onnxruntime
    from burnish.backends.numeric import compare_outputs

    wanted, got = len(model.graph.inputs), len(inputs)
    if wanted != got or len(model.graph.outputs) != len(expected):
        raise VerificationError(
            f"{where}: the exported model has {wanted} inputs and {len(model.graph.outputs)} "
            f"outputs, the module {got} and {len(expected)}",
            hint="give every input as a tensor, and return tensors only",
        )
    feeds = {
        str(value.name): _array(tensor)
        for value, tensor in zip(model.graph.inputs, inputs, strict=True)
    }
    reference = {
        str(value.name): _array(tensor)
        for value, tensor in zip(model.graph.outputs, expected, strict=True)
    }
    try:
        session = onnxruntime.session(model)
    except InputError as error:
        return [f"not compared with PyTorch: {error}"]
    with session:
        difference = compare_outputs(reference, session.run(feeds))
    if not difference.ok:
        raise VerificationError(
            f"{where}: the exported model differs from PyTorch: {difference}",
            hint="try another exporter or opset, or export in float32",
        )
    return []


def _array(tensor: torch.Tensor) -> np.ndarray[Any, np.dtype[Any]]:
    import ml_dtypes
    import torch

    tensor = tensor.detach().cpu().contiguous()
    array: np.ndarray[Any, np.dtype[Any]]
    if tensor.dtype == torch.bfloat16:
        array = tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    else:
        array = tensor.numpy()
    return array


def _tensors(tree: object) -> list[torch.Tensor]:
    import torch
    from torch.utils import _pytree

    return [leaf for leaf in _pytree.tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def _keys(outputs: object) -> list[str]:
    import torch

    if isinstance(outputs, Mapping) and all(isinstance(v, torch.Tensor) for v in outputs.values()):
        return [str(key) for key in outputs]
    return []


# --- surroundings ------------------------------------------------------------------------------


@contextlib.contextmanager
def _eval_mode(module: torch.nn.Module) -> Iterator[None]:
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress, warnings and dumps of its own insides from the user."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    dump = io.StringIO()
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(dump),
            contextlib.redirect_stderr(dump),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def _explained(where: str) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        while error.__cause__ is not None and isinstance(error.__cause__, Exception):
            error = error.__cause__
        raise InputError(
            f"{where} cannot be exported: {_first_line(error)}",
            hint="see torch.export's documentation, or export it yourself and give the .onnx file",
        ) from error


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    # A heading alone says nothing.
    return (" ".join(lines[:2]) if lines[0].endswith(":") else lines[0])[:300]
