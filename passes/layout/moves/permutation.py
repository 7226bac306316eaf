# SPDX-License-Identifier: Apache-2.0
"""Orders of axes.

A permutation p stores a tensor so that axis i of what is stored is axis p[i] of what is meant, as
`perm` of Transpose does.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

Perm = tuple[int, ...]


def inverse(perm: Perm) -> Perm:
    """Return the permutation that undoes one."""
    return tuple(sorted(range(len(perm)), key=perm.__getitem__))


def is_identity(perm: Perm) -> bool:
    """Whether a permutation leaves every axis where it is."""
    return perm == tuple(range(len(perm)))


def moves_data(value: ir.Value, perm: Perm) -> bool:
    """Whether a Transpose does more than to move axes of size 1."""
    assert value.shape is not None
    long = [axis for axis in perm if value.shape[axis] != 1]
    return long != sorted(long)


def places(perm: Perm, axes: Iterable[int]) -> list[int]:
    """Return where axes are found in the new order, ascending."""
    return sorted(perm.index(axis % len(perm)) for axis in axes)


def narrowed(perm: Perm, axes: Iterable[int]) -> Perm:
    """Return the order of what is left of the axes once some are gone."""
    gone = {axis % len(perm) for axis in axes}
    kept = [axis for axis in range(len(perm)) if axis not in gone]
    return tuple(kept.index(axis) for axis in perm if axis not in gone)


def widened(perm: Perm, axes: Iterable[int], rank: int) -> Perm:
    """Return the order of all axes once some that stay in place have been added."""
    added = {axis % rank for axis in axes}
    others = [axis for axis in range(rank) if axis not in added]
    rest = iter(others[axis] for axis in perm)
    return tuple(axis if axis in added else next(rest) for axis in range(rank))
