# SPDX-License-Identifier: Apache-2.0
"""Forms that hold behind an operator too, which broadcasts."""

from __future__ import annotations

import onnx_ir as ir

from burnish.passes.cleanup.dims import same_dim
from burnish.passes.fuse.forms.form import Condition, Form


def in_place(
    node: ir.Node, value: ir.Value | None, condition: Condition | None
) -> Condition | None:
    """Give a condition, unless an axis it speaks of may be broadcast by the node."""
    if condition is None or all(kept(node, value, form) is not None for form in condition):
        return condition
    return None


def kept(node: ir.Node, value: ir.Value | None, form: Form | None) -> Form | None:
    """Give a form, unless an axis it speaks of may be broadcast by the node."""
    if form is None or not form.axes:
        return form
    after = node.outputs[0].shape
    if value is None or value.shape is None or after is None:
        return None
    return form if all(same_dim(value.shape[axis], after[axis]) for axis in form.axes) else None
