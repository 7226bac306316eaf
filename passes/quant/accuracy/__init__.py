# SPDX-License-Identifier: Apache-2.0
"""What is done to a float model so that rounding costs it less."""
