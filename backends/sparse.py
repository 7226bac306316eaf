# SPDX-License-Identifier: Apache-2.0
"""Weights that are mostly zero as sparse initializers: smaller files for the same model.

ONNX Runtime (1.31) takes them wherever it takes initializers, and makes them dense as it loads the
model; so they save room in files alone. ONNX wants indices to be int64, so
that an element that is not zero takes eight bytes more: the file is smaller from two thirds of
zeros on in float32, from four fifths on in float16.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

MARK = "burnish.sparse"
"""In the `meta` of an initializer: store it sparse if that is smaller."""

_INDEX_BYTES = 8


def marked(model: ir.Model) -> frozenset[str]:
    """Return names of the initializers of the main graph to store sparse."""
    return frozenset(
        name for name, value in model.graph.initializers.items() if value.meta.get(MARK)
    )


def sparsify(proto: onnx.ModelProto, names: frozenset[str]) -> None:
    """Store initializers of a model sparse where that is smaller; edits `proto`.

    Args:
        proto: The model.
        names: Which initializers; those in external files and of other types stay as they are.
    """
    import onnx
    from onnx import numpy_helper

    if not names:
        return
    types = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16)
    kept = []
    for tensor in proto.graph.initializer:
        inside = tensor.data_location != onnx.TensorProto.EXTERNAL
        if tensor.name in names and inside and tensor.data_type in types and len(tensor.dims):
            array = numpy_helper.to_array(tensor).reshape(-1)
            # The bits decide: a negative zero would not come back.
            places = np.flatnonzero(array.view(f"u{array.itemsize}"))
            if places.size and places.size * (array.itemsize + _INDEX_BYTES) < array.nbytes:
                proto.graph.sparse_initializer.append(
                    onnx.SparseTensorProto(
                        values=numpy_helper.from_array(array[places], tensor.name),
                        indices=numpy_helper.from_array(places.astype(np.int64)),
                        dims=tensor.dims,
                    )
                )
                continue
        kept.append(tensor)
    if len(kept) < len(proto.graph.initializer):
        del proto.graph.initializer[:]
        proto.graph.initializer.extend(kept)
