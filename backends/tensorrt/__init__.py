# SPDX-License-Identifier: Apache-2.0
"""TensorRT engines, by either of NVIDIA's Python modules, which share their interface.

module      `tensorrt` or `tensorrt_rtx`, and its log     capability  GPUs and operators
options     how to build, declared once                   profiles    shapes to build for
surgery     what the parser needs changed                 parse       model -> network
build       network -> engine                             plan        structure of an engine
gpu         the GPU that is here                          runtime     run an engine on it
artifact    the kind `tensorrt-engine`                    progress    the builder's progress
fallback    parts for it, and parts for ONNX Runtime

TensorRT for RTX (`tensorrt_rtx`) builds engines for other machines' GPUs, without one of its own.
`tensorrt` needs the GPU that it builds for.
"""
