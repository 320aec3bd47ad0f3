"""Safetensors files, read and written without the safetensors package.

Tensors are torch tensors, except 8-bit floats: PyTorch 1.13 has no such type, so F8_E4M3 is held
as `Fp8`, the raw bytes plus what is needed to turn them back into floats.
"""
import json
import struct

import numpy as np
import torch

_NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.uint8: "U8",
          torch.int64: "I64", torch.int32: "I32"}
_TYPES = {name: dtype for dtype, name in _NAMES.items()}


def _e4m3_values():
    """The 256 values of e4m3fn: bias 7, no infinity, NaN only at 0x7F and 0xFF."""
    byte = np.arange(256)
    exponent, mantissa = (byte >> 3) & 15, byte & 7
    value = np.where(exponent == 0, mantissa * 2.0 ** -9, (8 + mantissa) * 2.0 ** (exponent - 10.0))
    value[(byte & 127) == 127] = np.nan
    return torch.tensor(np.where(byte & 128, -value, value), dtype=torch.float32)


E4M3 = _e4m3_values()


class Fp8:
    """Raw e4m3fn bytes of a tensor."""

    def __init__(self, raw):
        self.raw = raw

    def float(self):
        return E4M3.to(self.raw.device)[self.raw.long()]


def to_fp8(weight):
    """(Fp8, scale) with weight ~ fp8 * scale: one scale per tensor, nearest value, ties to even."""
    scale = (weight.abs().max() / 448).clamp(min=1e-12).float()
    target = (weight.float() / scale).clamp(-448, 448)
    values = E4M3[:127].to(weight.device)
    low = (torch.searchsorted(values, target.abs().contiguous(), right=True) - 1).clamp(0, 126)
    high = (low + 1).clamp(max=126)
    below, above = target.abs() - values[low], values[high] - target.abs()
    up = (above < below) | ((above == below) & (low % 2 == 1))
    code = torch.where(up, high, low)
    return Fp8((code + 128 * (target < 0)).to(torch.uint8)), scale


def save(path, tensors):
    """Writes {name: tensor or Fp8}; the header is padded so that the data starts on 8 bytes."""
    header, blobs, offset = {}, [], 0
    for name, tensor in tensors.items():
        raw = tensor.raw if isinstance(tensor, Fp8) else tensor
        raw = raw.detach().cpu().contiguous()
        bits = raw.view(torch.int16) if raw.dtype in (torch.bfloat16, torch.float16) else raw
        blob = bits.numpy().tobytes()
        header[name] = {"dtype": "F8_E4M3" if isinstance(tensor, Fp8) else _NAMES[raw.dtype],
                        "shape": list(raw.shape), "data_offsets": [offset, offset + len(blob)]}
        blobs.append(blob)
        offset += len(blob)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def load(path):
    """Reads what save() writes, and any other file of these types."""
    with open(path, "rb") as file:
        length = struct.unpack("<Q", file.read(8))[0]
        header, data = json.loads(file.read(length)), file.read()
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        raw = torch.from_numpy(np.frombuffer(data[begin:end], np.uint8).copy())
        if entry["dtype"] == "F8_E4M3":
            tensors[name] = Fp8(raw.reshape(entry["shape"]))
        elif entry["dtype"] in ("F16", "BF16"):
            bits = torch.from_numpy(raw.numpy().view(np.int16))
            tensors[name] = bits.view(_TYPES[entry["dtype"]]).reshape(entry["shape"])
        else:
            numpy_type = {"F32": np.float32, "U8": np.uint8, "I64": np.int64, "I32": np.int32}[entry["dtype"]]
            tensors[name] = torch.from_numpy(raw.numpy().view(numpy_type)).reshape(entry["shape"])
    return tensors


def dequantised(tensors):
    """Plain float32 tensors of a scaled-fp8 file: scales multiplied in, scales and marker gone."""
    plain = {}
    for name, tensor in tensors.items():
        if name == "scaled_fp8" or name.endswith(".scale_weight"):
            continue
        plain[name] = tensor.float()
        scale = tensors.get(name[:-len("weight")] + "scale_weight") if name.endswith(".weight") else None
        if scale is not None:
            plain[name] = plain[name] * scale.float()
    return plain
