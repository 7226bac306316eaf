# SPDX-License-Identifier: Apache-2.0
"""What models that ask for sizes begin with."""

from __future__ import annotations

HEADER = '<ir_version: 10, opset_import: ["" : 23]>\n'
