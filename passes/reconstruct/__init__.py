# SPDX-License-Identifier: Apache-2.0
"""Layer reconstruction, for quantization (GPTQ, AdaRound) and pruning (SparseGPT) alike.

gram        X X^T of what a layer with weights is fed, streamed and mergeable
layer       Conv, MatMul and Gemm as rows of weights, read and written back
observe     what layers are fed, a few layers at a time, with samples held out
judge       errors before and after, on held-out samples
compensate  fix weights while the others make up for it; least squares under a mask
gptq        round to a grid that way
sparsegpt   zero weights that way, choosing them on the way
refit       least squares under any mask, all rows at once
residual    errors of a layer whose bias makes up for the mean
rounding    round up or down, each weight so that the output's error is least
"""
