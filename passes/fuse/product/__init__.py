# SPDX-License-Identifier: Apache-2.0
"""Matrix products: with a bias, side by side, in a row, and as convolutions."""
