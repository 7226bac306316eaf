# SPDX-License-Identifier: Apache-2.0
"""The table of everything in the zoo."""

from __future__ import annotations

import difflib

from burnish.errors import InputError
from burnish.tools.zoo import packages
from burnish.tools.zoo.entry import Entry, Export


def find(name: str) -> Entry:
    """Look an entry up.

    Raises:
        InputError: there is none of that name; the nearest one is suggested.
    """
    table = {entry.name: entry for entry in ENTRIES}
    if name not in table:
        near = difflib.get_close_matches(name, table, n=1)
        hint = f"did you mean {near[0]}?" if near else "`burnish zoo list` shows them"
        raise InputError(f"no model or data set is called {name!r}", hint=hint)
    return table[name]


def _minilm(export: Export) -> Entry:
    return Entry(
        name=f"minilm-l6-{export.exporter}",
        kind="model",
        summary=f"MiniLM-L6 sentence encoder as torch's {export.exporter} exporter writes it",
        licence="MIT (package), Apache-2.0 (weights by sentence-transformers)",
        packages=(packages.MINILM,),
        export=export,
        task="burnish.tools.zoo.embedding:embedding",
        data=("boolq", "similarity"),
    )


def _light(name: str, summary: str) -> Entry:
    return Entry(
        name=f"light-{name.removeprefix('bvlc_').replace('_', '-')}",
        kind="model",
        summary=f"{summary}; constant weights, so structure only",
        licence="Apache-2.0",
        packages=(packages.LIGHT,),
        onnx=f"light_{name}.onnx",
        task="burnish.tools.zoo.structure:structure",
    )


def _t5(part: str) -> Entry:
    return Entry(
        name=f"quantized-t5-{part}",
        kind="model",
        summary=f"T5 title writer's {part}, already quantized: MatMulInteger",
        licence="MIT (package), Apache-2.0 (weights by Google)",
        packages=(packages.T5,),
        onnx=f"{part}.onnx",
        task=f"burnish.tools.zoo.quantized:{part}",
        data=("boolq",),
    )


ENTRIES: tuple[Entry, ...] = (
    Entry(
        name="ppocrv6-rec",
        kind="model",
        summary="PP-OCRv6 text recognizer: dynamic width, decomposed Gelu and LayerNorm",
        licence="Apache-2.0 (weights by PaddlePaddle)",
        packages=(packages.PPOCR,),
        onnx="PP-OCRv6_rec_small.onnx",
        task="burnish.tools.zoo.recognition:recognition",
        data=("dejavu",),
    ),
    Entry(
        name="ppocrv6-det",
        kind="model",
        summary="PP-OCRv6 text detector: HardSigmoid, Resize, every dimension dynamic",
        licence="Apache-2.0 (weights by PaddlePaddle)",
        packages=(packages.PPOCR,),
        onnx="PP-OCRv6_det_small.onnx",
        task="burnish.tools.zoo.detection:detection",
        data=("dejavu",),
    ),
    Entry(
        name="ppocrv4-rec",
        kind="model",
        summary="PP-OCRv4 text recognizer: spelled-out hard activations, affines, a `?` size",
        licence="Apache-2.0 (weights by PaddlePaddle)",
        packages=(packages.PPOCR_V4,),
        onnx="ch_PP-OCRv4_rec_infer.onnx",
        task="burnish.tools.zoo.recognition:recognition",
        data=("dejavu",),
    ),
    Entry(
        name="ppocrv4-det",
        kind="model",
        summary="PP-OCRv4 text detector: hard activations spelled out, scalar affines, Resize",
        licence="Apache-2.0 (weights by PaddlePaddle)",
        packages=(packages.PPOCR_V4,),
        onnx="ch_PP-OCRv4_det_infer.onnx",
        task="burnish.tools.zoo.detection:detection",
        data=("dejavu",),
    ),
    Entry(
        name="ppocrv2-cls",
        kind="model",
        summary="PP-OCRv2 text orientation: MobileNetV3, hard activations spelled out",
        licence="Apache-2.0 (weights by PaddlePaddle)",
        packages=(packages.PPOCR_V4,),
        onnx="ch_ppocr_mobile_v2.0_cls_infer.onnx",
        task="burnish.tools.zoo.orientation:orientation",
        data=("dejavu",),
    ),
    _minilm(Export("burnish.tools.zoo.weights:minilm", "dynamo")),
    _minilm(Export("burnish.tools.zoo.weights:minilm", "torchscript", opset=18)),
    Entry(
        name="efficientnet-lite0",
        kind="model",
        summary="EfficientNet-lite0: depthwise convolutions, padding computed in the graph",
        licence="Apache-2.0",
        packages=(packages.LITE0, packages.LITE0_CODE),
        export=Export("burnish.tools.zoo.weights:lite0", "torchscript", opset=17),
        task="burnish.tools.zoo.imagenet:classification",
        data=("imagenet-samples", "photos"),
    ),
    Entry(
        name="mnist-cnn",
        kind="model",
        summary="Two convolutions and two dense layers on MNIST: small and quick",
        licence="MIT",
        packages=(packages.MNIST_CNN,),
        export=Export("burnish.tools.zoo.weights:mnist_cnn"),
        task="burnish.tools.zoo.digits:classification",
        data=("digits",),
    ),
    Entry(
        name="fashion-resnet",
        kind="model",
        summary="Small ResNet, trained here on Fashion-MNIST in a minute: plain convolutions, sums",
        licence="the project's own (data: MIT)",
        packages=(packages.FASHION,),
        export=Export("burnish.tools.zoo.clothing:resnet"),
        task="burnish.tools.zoo.fashion:classification",
    ),
    _light("bvlc_alexnet", "AlexNet: LRN, grouped convolutions"),
    _light("densenet121", "DenseNet-121: unfused BatchNormalization, Concat"),
    _light("inception_v1", "Inception v1: LRN, Concat"),
    _light("inception_v2", "Inception v2: unfused BatchNormalization, Concat"),
    _light("resnet50", "ResNet-50: Conv and BatchNormalization, Sum"),
    _light("shufflenet", "ShuffleNet: channel shuffle, grouped convolutions"),
    _light("squeezenet", "SqueezeNet: Concat of small convolutions"),
    _light("vgg19", "VGG-19: a plain chain of convolutions"),
    _light("zfnet512", "ZFNet-512: LRN"),
    Entry(
        name="quantized-distilbert",
        kind="model",
        summary="DistilBERT grammar tagger, already quantized: Q/DQ",
        licence="Apache-2.0",
        packages=(packages.DISTILBERT,),
        onnx="tagger.onnx",
        task="burnish.tools.zoo.quantized:tagger",
        data=("boolq",),
    ),
    _t5("encoder"),
    _t5("decoder"),
    Entry(
        name="boolq",
        kind="data",
        summary="BoolQ: questions with the passage that answers each",
        licence="CC-BY-SA-3.0 (package: Apache-2.0)",
        packages=(packages.BOOLQ,),
    ),
    Entry(
        name="similarity",
        kind="data",
        summary="How alike people find 50 news texts (Lee) and words (WordSim-353, SimLex-999)",
        licence="research use, as published by the authors (package: LGPL-2.1)",
        packages=(packages.SIMILARITY,),
    ),
    Entry(
        name="dejavu",
        kind="data",
        summary="DejaVu fonts, which lines and pages of text are drawn with",
        licence="Bitstream Vera (changes: public domain)",
        packages=(packages.DEJAVU,),
    ),
    Entry(
        name="imagenet-samples",
        kind="data",
        summary="20 labelled images of ImageNet classes",
        licence="research use, as ImageNet (package: MIT)",
        packages=(packages.IMAGENET,),
    ),
    Entry(
        name="photos",
        kind="data",
        summary="8 photographs without labels, to calibrate with",
        licence="public domain and CC0 (package: BSD-3-Clause)",
        packages=(packages.PHOTOS,),
    ),
    Entry(
        name="digits",
        kind="data",
        summary="10,000 labelled digits of MNIST",
        licence="MIT",
        packages=(packages.DIGITS,),
    ),
    Entry(
        name="fashion-mnist",
        kind="data",
        summary="Fashion-MNIST: 60,000 labelled images to train with, 10,000 to test with",
        licence="MIT (Expat)",
        packages=(packages.FASHION,),
    ),
)
