# SPDX-License-Identifier: Apache-2.0
"""What a file that is not an ONNX model is instead, and what to do about it."""

from __future__ import annotations

_CONVERT = "export it to ONNX first"
_DOWNLOAD = "download the model itself"

# (offset, magic bytes, what it is, what to do)
_MAGIC: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"version https://git-lfs", "a git-lfs pointer", "fetch the model with: git lfs pull"),
    (0, b"\x89PNG", "a PNG image", "give a model"),
    (0, b"\xff\xd8\xff", "a JPEG image", "give a model"),
    (0, b"%PDF", "a PDF document", "give a model"),
    (0, b"\x1f\x8b", "gzip-compressed", "gunzip it first"),
    (0, b"BZh", "bzip2-compressed", "bunzip2 it first"),
    (0, b"\xfd7zXZ", "xz-compressed", "unxz it first"),
    (0, b"\x28\xb5\x2f\xfd", "zstd-compressed", "unzstd it first"),
    (257, b"ustar", "a tar archive", "unpack it first"),
    (0, b"\x89HDF", "an HDF5 file, of Keras perhaps", _CONVERT),
    (4, b"TFL3", "a TensorFlow Lite model", _CONVERT),
    (4, b"ORTM", "an ONNX Runtime .ort model", "give the .onnx model it was made from"),
    (0, b"ftrt", "a TensorRT engine", "give the .onnx model it was made from"),
    (0, b"ptrt", "a TensorRT engine", "give the .onnx model it was made from"),
    (0, b"\x93NUMPY", "a NumPy array", "give a model"),
    (0, b"\x7fELF", "a program", "give a model"),
)


def foreign(head: bytes) -> tuple[str, str] | None:
    """Name the kind of a file that cannot be an ONNX model.

    Args:
        head: Its first bytes, 4096 of them or the whole file.

    Returns:
        What the file is and what to do about it, or None if nothing speaks against ONNX.
    """
    for offset, magic, kind, remedy in _MAGIC:
        if head.startswith(magic, offset):
            return kind, remedy
    if head.startswith(b"PK\x03\x04"):
        return _zip(head)
    # A pickle starts with its protocol, 2 to 5, and ends with a full stop.
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "a Python pickle, of PyTorch perhaps", "export the module with torch.onnx.export"
    if head[8:10] == b'{"' and int.from_bytes(head[:8], "little") < 1 << 32:
        return "a safetensors file: weights without a graph", _CONVERT
    start = head.lstrip()[:64].lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page, of a failed download perhaps", _DOWNLOAD
    return None


def _zip(head: bytes) -> tuple[str, str]:
    if b"data.pkl" in head:
        return "a PyTorch checkpoint", "export the module with torch.onnx.export"
    if b"archive_format" in head or b"archive_version" in head:
        return "a PyTorch exported program", "give it a name that ends in .pt2"
    if b".npy" in head:
        return "a NumPy archive", "give a model"
    return "a zip archive", "unpack it first"
