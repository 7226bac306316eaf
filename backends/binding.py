# SPDX-License-Identifier: Apache-2.0
"""Inputs and outputs that stay where the model runs, from one run to the next (IO binding).

On a GPU, a session's `run` copies every input there and every output back. Bound ones are copied
when they are set and when they are read, and not in between.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from burnish.errors import InputError

if TYPE_CHECKING:
    from burnish.backends.onnxruntime import Session

    Array = np.ndarray[Any, np.dtype[Any]]


class Binding:
    """Inputs and outputs bound to a session.

    Args:
        session: It; must stay open.
        feeds: An array per input, copied to `device` here.
        outputs: Names of the outputs wanted; all of them by default.
        device: Where both are kept: ``cpu`` or ``cuda``.
        device_id: Number of the device.

    Raises:
        InputError: a feed is missing, unknown, or of the wrong type or shape; or there is no such
            device.
    """

    def __init__(
        self,
        session: Session,
        feeds: Mapping[str, Array],
        outputs: Sequence[str] | None = None,
        *,
        device: str = "cpu",
        device_id: int = 0,
    ) -> None:
        import onnxruntime

        from burnish.backends.onnxruntime import explain

        known = [spec.name for spec in session.inputs]
        for name in sorted(set(known) ^ feeds.keys()):
            problem = "is missing" if name in known else "is not one"
            raise InputError(f"input {name!r} {problem}", hint=f"inputs: {', '.join(known)}")
        self._session = session.inner
        self._names = [spec.name for spec in session.outputs] if outputs is None else list(outputs)
        self._binding = self._session.io_binding()
        try:
            self._values = {
                name: onnxruntime.OrtValue.ortvalue_from_numpy(
                    np.ascontiguousarray(array), device, device_id
                )
                for name, array in feeds.items()
            }
            for name, value in self._values.items():
                self._binding.bind_ortvalue_input(name, value)
            for name in self._names:
                self._binding.bind_output(name, device, device_id)
        except Exception as error:  # the runtime's exceptions share no base class
            raise InputError(f"inputs cannot be bound to {device}: {explain(error)}") from error

    def run(self) -> None:
        """Compute the outputs from the inputs as they are.

        Raises:
            InputError: an input is of the wrong type or shape.
            BurnishError: the model fails on these values.
        """
        from burnish.backends.onnxruntime import run_error

        try:
            self._session.run_with_iobinding(self._binding)
        except Exception as error:  # the runtime's exceptions share no base class
            raise run_error(error) from error

    def update(self, feeds: Mapping[str, Array]) -> None:
        """Copy new values, of the same shapes and types, into bound inputs.

        Raises:
            InputError: one is not bound, or of another shape or type.
        """
        for name, array in feeds.items():
            bound = self._values.get(name)
            if bound is None:
                raise InputError(
                    f"input {name!r} is not bound", hint=f"bound: {', '.join(self._values)}"
                )
            if list(array.shape) != bound.shape() or array.dtype != bound.numpy().dtype:
                raise InputError(
                    f"input {name!r} was bound with shape {bound.shape()}; this is {array.dtype} "
                    f"{list(array.shape)}",
                    hint="bind it anew",
                )
            bound.update_inplace(np.ascontiguousarray(array))

    def outputs(self) -> dict[str, Array]:
        """Copy the outputs of the last run back."""
        return dict(zip(self._names, self._binding.copy_outputs_to_cpu(), strict=True))
