# SPDX-License-Identifier: Apache-2.0
"""Sizes that are computed: one spelling for each, so that all shapes are inferred."""
