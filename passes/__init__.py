# SPDX-License-Identifier: Apache-2.0
"""The compiler: infrastructure of passes here, one folder for each family of passes."""
