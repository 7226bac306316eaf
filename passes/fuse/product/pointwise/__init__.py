# SPDX-License-Identifier: Apache-2.0
"""Products that run as pointwise convolutions."""
