# SPDX-License-Identifier: Apache-2.0
"""Integers in place of floats: where, in which form, and what the kernels ask for."""
