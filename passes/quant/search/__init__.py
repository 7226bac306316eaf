# SPDX-License-Identifier: Apache-2.0
"""What stays float, found by measuring time and accuracy."""
