"""The header of a GGUF file: its metadata, and where its tensors are.

Read here and not by the package `gguf`, which takes seconds for a vocabulary: a study
reads the sizes of its checkpoints at every start. That package dequantises the tensors.
Format: ggml's docs/gguf.md, versions 2 and 3.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from shallower.errors import UserError

if TYPE_CHECKING:
    import numpy as np

MAGIC = b"GGUF"
ALIGNMENT = 32  # of the tensors, unless the file says otherwise
# Value type -> format of struct; 8 is a string, 9 an array.
SCALARS = {
    **{0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?"},
    **{10: "Q", 11: "q", 12: "d"},
}
STRING, ARRAY = 8, 9
LONGEST = 1 << 26  # entries of an array, bytes of a string: beyond, a file is damaged


@dataclass(frozen=True)
class TensorPlace:
    """Where a tensor is, and how it is stored."""

    shape: tuple[int, ...]  # rows first, as in torch
    kind: int  # a gguf.GGMLQuantizationType
    offset: int  # bytes from the file's beginning


@dataclass(frozen=True)
class GGUFHeader:
    """What a GGUF file says about itself."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, TensorPlace]

    @classmethod
    def read(cls, path: Path) -> GGUFHeader:
        """Raises UserError, naming the file, for any other or a truncated one."""
        try:
            with path.open("rb") as file:
                return cls(path, *_header(file))
        except FileNotFoundError:
            raise UserError(f"{path}: no such file") from None
        except (struct.error, ValueError, KeyError, OverflowError) as error:
            raise UserError(
                f"{path}: not a GGUF file, or a damaged one ({error})"
            ) from None

    def tensor(self, name: str) -> np.ndarray:
        """A tensor's values in fp32. Raises UserError if it is cut off."""
        import numpy as np
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize

        place = self.tensors[name]
        try:
            kind = GGMLQuantizationType(place.kind)
            block, size = GGML_QUANT_SIZES[kind]
            *rows, columns = place.shape
            shape = (*rows, columns // block * size)
            count = math.prod(shape)
            data = np.memmap(self.path, np.uint8, "r", place.offset, (count,))
            values = dequantize(data.reshape(shape), kind)
        except (NotImplementedError, KeyError, ValueError, OSError) as error:
            raise UserError(f"{self.path}: {name} cannot be read ({error})") from None
        return np.require(values, np.float32, ["C", "W"])


def _header(file: BinaryIO) -> tuple[dict[str, Any], dict[str, TensorPlace]]:
    if file.read(4) != MAGIC:
        raise ValueError("it does not begin with GGUF")
    version, tensors, entries = _unpack(file, "IQQ")
    if version not in (2, 3):
        raise ValueError(f"version {version}, expected 2 or 3")
    metadata = {}
    for _ in range(_sensible(entries)):
        key = _string(file)
        metadata[key] = _value(file, _unpack(file, "I")[0])
    places = []
    for _ in range(_sensible(tensors)):
        name = _string(file)
        dimensions = _unpack(file, "I")[0]
        if dimensions > 4:
            raise ValueError(f"{name} has {dimensions} dimensions")
        shape = _unpack(file, "Q" * dimensions)[::-1]
        places.append((name, shape, *_unpack(file, "IQ")))
    alignment = int(metadata.get("general.alignment", ALIGNMENT))
    start = -(-file.tell() // alignment) * alignment
    return metadata, {
        name: TensorPlace(shape, kind, start + offset)
        for name, shape, kind, offset in places
    }


def _unpack(file: BinaryIO, layout: str) -> tuple[Any, ...]:
    layout = "<" + layout
    return struct.unpack(layout, file.read(struct.calcsize(layout)))


def _sensible(count: int) -> int:
    if count > LONGEST:
        raise ValueError(f"a length of {count}")
    return count


def _string(file: BinaryIO) -> str:
    length = _sensible(_unpack(file, "Q")[0])
    content = file.read(length)
    if len(content) < length:
        raise ValueError("it ends within a string")
    return content.decode("utf-8", "replace")


def _value(file: BinaryIO, kind: int) -> Any:
    if kind == STRING:
        return _string(file)
    if kind == ARRAY:
        inner, count = _unpack(file, "IQ")
        if inner in SCALARS:
            return list(_unpack(file, f"{_sensible(count)}{SCALARS[inner]}"))
        return [_value(file, inner) for _ in range(_sensible(count))]
    return _unpack(file, SCALARS[kind])[0]
