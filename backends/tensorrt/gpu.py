# SPDX-License-Identifier: Apache-2.0
"""The GPU that is here, by NVIDIA's `cuda.bindings`: which it is, and memory on it."""

from __future__ import annotations

from typing import Any

import numpy as np

from burnish.errors import BurnishError, UnavailableError, require

Array = np.ndarray[Any, np.dtype[Any]]

_SMI = "check it with nvidia-smi"


def runtime(extra: str) -> Any:
    """CUDA's runtime API, with a GPU behind it.

    Args:
        extra: The extra that brings it: the name of the target.

    Raises:
        MissingExtraError: `cuda.bindings` is not installed.
        UnavailableError: there is no driver, an old one, or no GPU.
    """
    cuda = require("cuda.bindings.runtime", extra=extra)
    status, count = cuda.cudaGetDeviceCount()
    if status == cuda.cudaError_t.cudaSuccess and count:
        return cuda
    _, driver = cuda.cudaDriverGetVersion()
    if not driver:
        raise UnavailableError("there is no NVIDIA driver on this machine", hint=_NEEDED)
    if status == cuda.cudaError_t.cudaErrorInsufficientDriver:
        _, needed = cuda.cudaRuntimeGetVersion()
        raise UnavailableError(
            f"the NVIDIA driver is too old: it runs CUDA {_version(driver)}, and this takes "
            f"{_version(needed)}",
            hint="update the driver",
        )
    raise UnavailableError(f"there is no GPU on this machine ({status.name})", hint=_NEEDED)


_NEEDED = "engines run on a machine with an NVIDIA GPU; building them for RTX takes none"


def capability(cuda: Any) -> str:
    """Compute capability of the first GPU, such as ``sm89``."""
    attribute = cuda.cudaDeviceAttr
    major = check(cuda, cuda.cudaDeviceGetAttribute(attribute.cudaDevAttrComputeCapabilityMajor, 0))
    minor = check(cuda, cuda.cudaDeviceGetAttribute(attribute.cudaDevAttrComputeCapabilityMinor, 0))
    return f"sm{major}{minor}"


def check(cuda: Any, returned: tuple[Any, ...]) -> Any:
    """Return what a call of CUDA returns beside its status.

    Raises:
        BurnishError: the status is an error.
    """
    status, *values = returned
    if status != cuda.cudaError_t.cudaSuccess:
        hint = "use smaller shapes" if "MemoryAllocation" in status.name else _SMI
        raise BurnishError(f"the GPU fails: {status.name}", hint=hint)
    return values[0] if values else None


class Buffer:
    """Memory on the GPU that grows as it is asked for more."""

    def __init__(self, cuda: Any) -> None:
        self.cuda = cuda
        self.address = 0
        self.size = 0

    def reserve(self, size: int) -> int:
        """Return the address of at least `size` bytes; what was there may be gone."""
        if size > self.size or not self.address:
            self.free()
            self.address = int(check(self.cuda, self.cuda.cudaMalloc(max(size, 1))))
            self.size = size
        return self.address

    def put(self, array: Array, stream: int) -> int:
        """Copy a contiguous array in; returns the address."""
        address = self.reserve(array.nbytes)
        kind = self.cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._copy(address, array.ctypes.data, array.nbytes, kind, stream)
        return address

    def get(self, array: Array, stream: int) -> None:
        """Fill a contiguous array."""
        kind = self.cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._copy(array.ctypes.data, self.address, array.nbytes, kind, stream)

    def _copy(self, to: int, source: int, size: int, kind: Any, stream: int) -> None:
        if size:
            check(self.cuda, self.cuda.cudaMemcpyAsync(to, source, size, kind, stream))

    def free(self) -> None:
        """Give the memory back."""
        if self.address:
            self.cuda.cudaFree(self.address)
        self.address = self.size = 0


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"
