# SPDX-License-Identifier: Apache-2.0
"""Constant affine functions fold into linear operators, BatchNormalization and each other."""
