# SPDX-License-Identifier: Apache-2.0
"""What values a model computes on samples: observed, summed up, kept in files."""
