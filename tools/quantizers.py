# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime's own quantizers, as its documentation says to use them: what ours is compared with.

Each writes a quantized file, or raises whatever it fails with.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np

OPSET = 13
"""The first with Q and DQ by channel."""

Samples = Callable[[], Iterable[Mapping[str, "np.ndarray"]]]


def static(
    source: Path, output: Path, samples: Samples, *, activations: Literal["uint8", "int8"]
) -> None:
    """Q/DQ, weights int8 by channel, ranges by the least and largest number.

    Args:
        source: The float model.
        output: Where to write.
        samples: Gives the feeds to calibrate with.
        activations: `int8` makes them symmetric too, as the documentation advises for both types
            int8.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    signed = activations == "int8"
    source, output = source.resolve(), output.resolve()
    with _scratch() as folder:
        quantize_static(
            str(prepared(source, folder)),
            str(output),
            _reader(samples()),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QInt8 if signed else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options={"ActivationSymmetric": signed},
        )


def dynamic(source: Path, output: Path) -> None:
    """Weights int8 by channel; inputs are quantized as they come."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    source, output = source.resolve(), output.resolve()
    with _scratch() as folder:
        quantize_dynamic(
            str(prepared(source, folder)),
            str(output),
            per_channel=True,
            weight_type=QuantType.QInt8,
        )


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    """Work in a folder that is removed: symbolic shape inference leaves files where it is run."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        yield Path(folder)


def prepared(source: Path, folder: Path) -> Path:
    """Return the model as its preprocessing makes it; as it is, where that fails.

    A model of an older operator set is upgraded first, as the documentation tells users to do by
    hand: without that, what it writes by channel does not load.
    """
    import onnx
    import onnx.version_converter
    from onnxruntime.quantization.shape_inference import quant_pre_process

    model = onnx.load(source)
    if max(item.version for item in model.opset_import if item.domain == "") < OPSET:
        source = folder / "upgraded.onnx"
        onnx.save(onnx.version_converter.convert_version(model, OPSET), source)
    output = folder / "prepared.onnx"
    for skip in (False, True):
        try:
            quant_pre_process(str(source), str(output), skip_symbolic_shape=skip)
        except Exception:
            continue
        return output
    return source


def _reader(samples: Iterable[Mapping[str, Any]]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self._samples: Iterator[Mapping[str, Any]] = iter(samples)

        def get_next(self) -> Any:
            return next(self._samples, None)

    return Reader()
