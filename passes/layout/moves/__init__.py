# SPDX-License-Identifier: Apache-2.0
"""How operators run on tensors that are stored with their axes in another order."""
