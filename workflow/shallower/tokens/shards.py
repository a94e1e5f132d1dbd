"""Token shards: documents packed as BOS, pieces, EOS into memory-mapped integers.

A split is a folder with one `shard-*.bin` per tokenization job, each beside the
offsets at which its documents start, and a `manifest.json` with dtype, counts and
checksums that is written last, when all shards are there.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet

from shallower.errors import UserError
from shallower.files import read_json, replacing, sha256, write_json
from shallower.tokens.tokenizer import Tokenizer

BATCH = 512  # documents held in memory at a time


def token_dtype(vocabulary: int) -> np.dtype:
    """uint16 up to 65,535 pieces, uint32 above."""
    return np.dtype(np.uint16 if vocabulary <= 65_535 else np.uint32)


def write_shard(
    documents: Path, tokenizer: Tokenizer, part: int, parts: int, path: Path
) -> None:
    """Tokenize part `part` of `parts` of a Parquet file's `text` column into `path`.

    Writes `path` (raw token ids) and `path` with suffix `.offsets.npy`: the start of
    each document and, last, the number of tokens. Streams: memory does not grow with
    the corpus.
    """
    file = pyarrow.parquet.ParquetFile(documents)
    rows = file.metadata.num_rows
    first, last = rows * part // parts, rows * (part + 1) // parts
    dtype = token_dtype(len(tokenizer))
    offsets, row, written = [0], 0, 0
    with replacing(path) as temporary, temporary.open("wb") as out:
        for batch in file.iter_batches(BATCH, columns=["text"]):
            begin, end = max(first - row, 0), min(last - row, batch.num_rows)
            row += batch.num_rows
            for text in batch.column("text")[begin:end].to_pylist() if end > 0 else []:
                ids = [tokenizer.bos, *tokenizer.encode(text), tokenizer.eos]
                out.write(np.asarray(ids, dtype).tobytes())
                written += len(ids)
                offsets.append(written)
    with replacing(offsets_path(path)) as temporary, temporary.open("wb") as out:
        np.save(out, np.asarray(offsets, np.int64))


def offsets_path(shard: Path) -> Path:
    """Where a shard's document offsets lie."""
    return shard.with_suffix(".offsets.npy")


def write_manifest(shards: list[Path], tokenizer: Path, path: Path) -> None:
    """Describe finished shards in `path`, in their order."""
    pieces = Tokenizer(tokenizer)
    dtype = token_dtype(len(pieces))
    entries = []
    for shard in shards:
        offsets = np.load(offsets_path(shard))
        entries.append(
            {
                "file": shard.name,
                "tokens": int(offsets[-1]),
                "documents": len(offsets) - 1,
                "sha256": sha256(shard),
                "offsets_sha256": sha256(offsets_path(shard)),
            }
        )
    write_json(
        path,
        {
            "dtype": dtype.name,
            "vocabulary": len(pieces),
            "bos": pieces.bos,
            "eos": pieces.eos,
            "tokens": sum(entry["tokens"] for entry in entries),
            "documents": sum(entry["documents"] for entry in entries),
            "tokenizer_sha256": sha256(tokenizer),
            "shards": entries,
        },
    )


@dataclass(frozen=True)
class TokenStream:
    """A split's tokens, memory-mapped, read as one stream across its shards."""

    shards: list[np.ndarray]
    offsets: list[np.ndarray]  # document starts within each shard, and its length
    manifest: dict[str, Any]

    @classmethod
    def open(cls, directory: str | Path, verify: bool = True) -> TokenStream:
        """Map the shards of a split.

        Raises UserError if a shard is missing, has the wrong size or, with `verify`,
        bytes that are not those the manifest was written for.
        """
        directory = Path(directory)
        manifest = read_json(directory / "manifest.json")
        dtype, shards, offsets = np.dtype(manifest["dtype"]), [], []
        for entry in manifest["shards"]:
            path = directory / entry["file"]
            if not path.is_file():
                raise UserError(f"{path}: named in the manifest, but missing")
            found, due = path.stat().st_size, entry["tokens"] * dtype.itemsize
            if found != due:
                raise UserError(f"{path}: {found} bytes, the manifest says {due}")
            digests = (sha256(path), sha256(offsets_path(path))) if verify else None
            if digests and digests != (entry["sha256"], entry["offsets_sha256"]):
                raise UserError(f"{path}: checksum differs from the manifest's")
            # An empty file cannot be mapped; a part may hold no document.
            empty = np.empty(0, dtype)
            shards.append(np.memmap(path, dtype, mode="r") if due else empty)
            offsets.append(np.load(offsets_path(path)))
        return cls(shards, offsets, manifest)

    def __len__(self) -> int:
        """Tokens in the split."""
        return self.manifest["tokens"]

    def read(self, start: int, count: int) -> np.ndarray:
        """Tokens [start, start + count) of the stream, as int64.

        Raises IndexError if they reach beyond the end.
        """
        if start < 0 or start + count > len(self):
            raise IndexError(f"tokens {start}..{start + count} of {len(self)}")
        pieces, position = [], start
        for shard in self.shards:
            if position < len(shard) and count > 0:
                piece = shard[position : position + count]
                pieces.append(piece.astype(np.int64))
                count -= len(piece)
                position += len(piece)
            position -= len(shard)
        return np.concatenate(pieces) if pieces else np.empty(0, np.int64)

    def documents(self) -> list[np.ndarray]:
        """Every document's tokens with BOS and EOS, in the corpus' order, as int64."""
        return [
            shard[begin:end].astype(np.int64)
            for shard, offsets in zip(self.shards, self.offsets, strict=True)
            for begin, end in pairwise(offsets)
        ]
