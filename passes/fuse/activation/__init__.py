# SPDX-License-Identifier: Apache-2.0
"""Activations in every spelling."""
