# SPDX-License-Identifier: Apache-2.0
"""Maps that become larger: late, and in moves that the runtime is fast at."""
