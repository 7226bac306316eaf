# SPDX-License-Identifier: Apache-2.0
"""Linear operators, and what may be folded into their weights and bias."""
