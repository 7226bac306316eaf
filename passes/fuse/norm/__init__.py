# SPDX-License-Identifier: Apache-2.0
"""Normalizations, by spelling and by kind, and what goes into them."""
