# SPDX-License-Identifier: Apache-2.0
"""What layer reconstruction needs, for quantization (GPTQ, AdaRound) and pruning (SparseGPT) alike.

gram        X^T X of what a layer with weights is fed, streamed and mergeable
"""
