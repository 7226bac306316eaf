# SPDX-License-Identifier: Apache-2.0
"""Attention: its scores, masks, heads, rotations and past, and what it is written as."""
