# SPDX-License-Identifier: Apache-2.0
"""Weights alone: small in the file, float when the model runs."""
