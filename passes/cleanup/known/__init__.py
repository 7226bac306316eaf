# SPDX-License-Identifier: Apache-2.0
"""What is known of the values of a graph without running it on any input."""
