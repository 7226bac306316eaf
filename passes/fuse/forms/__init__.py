# SPDX-License-Identifier: Apache-2.0
"""Whole numbers as linear forms of indices and sizes."""
