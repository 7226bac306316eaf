# SPDX-License-Identifier: Apache-2.0
"""Convolutions, what goes into them, and what keeps the maps between them in one layout."""
