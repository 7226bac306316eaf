# SPDX-License-Identifier: Apache-2.0
"""Backends: what a model runs on, how fast it runs there, and how much memory it takes."""
