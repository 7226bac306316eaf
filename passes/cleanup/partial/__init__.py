# SPDX-License-Identifier: Apache-2.0
"""What is known of a shape computation whose result is not constant as a whole."""
