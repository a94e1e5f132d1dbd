"""Token shards: documents packed as BOS, pieces, EOS into memory-mapped integers.

A split is a folder with one `shard-*.bin` per tokenization job, each beside the
offsets at which its documents start and a check of the tokenizer on them, and a
`manifest.json` with dtype, counts and checksums that is written last, when all shards
are there.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet

from shallower.corpus.parquet import read_texts
from shallower.errors import UserError
from shallower.files import read_json, replacing, sha256, write_json
from shallower.tokens.tokenizer import Tokenizer

# Every so many documents one is decoded again and compared: all of them would cost a
# quarter of the time. Unknown pieces are counted in every document.
CHECK_EVERY = 10


def token_dtype(vocabulary: int) -> np.dtype:
    """uint16 up to 65,535 pieces, uint32 above."""
    return np.dtype(np.uint16 if vocabulary <= 65_535 else np.uint32)


@dataclass
class Check:
    """How well a tokenizer writes down texts: counts that add up over shards."""

    characters: int = 0
    bytes: int = 0  # of the texts in UTF-8
    unknown_tokens: int = 0
    checked_documents: int = 0
    round_trip_failures: int = 0  # of those: decoding does not give back the text

    def add(self, row: int, text: str, ids: list[int], tokenizer: Tokenizer) -> None:
        """Count a text whose pieces are `ids`; `row` is its place in the split."""
        self.characters += len(text)
        self.bytes += len(text.encode())
        self.unknown_tokens += ids.count(tokenizer.unknown)
        # By its place in the split, so that parts make no difference.
        if row % CHECK_EVERY == 0:
            self.checked_documents += 1
            self.round_trip_failures += tokenizer.decode(ids) != text


def write_shard(
    documents: Path, tokenizer: Tokenizer, part: int, parts: int, path: Path
) -> None:
    """Tokenize part `part` of `parts` of a Parquet file's `text` column into `path`.

    Writes `path` (raw token ids); with suffix `.offsets.npy` the start of each document
    and, last, the number of tokens; with suffix `.check.json` a `Check`. Streams:
    memory grows with the largest document (about 60 bytes a character, which
    SentencePiece takes), not with the corpus.
    """
    rows = pyarrow.parquet.read_metadata(documents).num_rows
    first, last = rows * part // parts, rows * (part + 1) // parts
    dtype, check, offsets = token_dtype(len(tokenizer)), Check(), array("q", [0])
    with replacing(path) as temporary, temporary.open("wb") as out:
        for row, text in enumerate(read_texts(documents, first, last), start=first):
            ids = tokenizer.encode(text)
            check.add(row, text, ids, tokenizer)
            out.write(np.array([tokenizer.bos, *ids, tokenizer.eos], dtype).tobytes())
            offsets.append(offsets[-1] + len(ids) + 2)
    with replacing(offsets_path(path)) as temporary, temporary.open("wb") as out:
        np.save(out, np.asarray(offsets, np.int64))
    write_json(check_path(path), asdict(check))


def offsets_path(shard: Path) -> Path:
    """Path of a shard's document offsets."""
    return shard.with_suffix(".offsets.npy")


def check_path(shard: Path) -> Path:
    """Path of the check of the tokenizer on a shard's documents."""
    return shard.with_suffix(".check.json")


def write_manifest(shards: list[Path], tokenizer: Path, path: Path) -> dict[str, Any]:
    """Describe finished shards in `path`, in their order; return what it says.

    `unknown_rate` and `*_per_token` are of the text's own tokens, without BOS and EOS.
    """
    pieces = Tokenizer(tokenizer)
    dtype = token_dtype(len(pieces))
    entries: list[dict[str, Any]] = []
    checks: list[dict[str, int]] = []
    for shard in shards:
        offsets = np.load(offsets_path(shard))
        checks.append(read_json(check_path(shard)))
        entries.append(
            {
                "file": shard.name,
                "tokens": int(offsets[-1]),
                "documents": len(offsets) - 1,
                "sha256": sha256(shard),
                "offsets_sha256": sha256(offsets_path(shard)),
            }
        )
    tokens = sum(entry["tokens"] for entry in entries)
    documents = sum(entry["documents"] for entry in entries)
    check = {name: sum(c[name] for c in checks) for name in asdict(Check())}
    own = max(1, tokens - 2 * documents)
    manifest = {
        "dtype": dtype.name,
        "vocabulary": len(pieces),
        "bos": pieces.bos,
        "eos": pieces.eos,
        "tokens": tokens,
        "documents": documents,
        "tokenizer_sha256": sha256(tokenizer),
        **check,
        "unknown_rate": check["unknown_tokens"] / own,
        "characters_per_token": check["characters"] / own,
        "bytes_per_token": check["bytes"] / own,
        "shards": entries,
    }
    write_json(path, manifest)
    return manifest


def warning(manifest: dict[str, Any]) -> str:
    """One line on what a tokenizer loses of a split's texts; empty if nothing.

    This is no error: a given tokenizer without byte fallback has unknown characters, a
    normalising one changes some, and the paper says how many.
    """
    unknown, failures = manifest["unknown_tokens"], manifest["round_trip_failures"]
    if not unknown and not failures:
        return ""
    return (
        f"the tokenizer does not write down everything: {unknown:,} of "
        f"{manifest['tokens']:,} tokens are unknown, {failures:,} of "
        f"{manifest['checked_documents']:,} checked documents are not decoded to the "
        "same text"
    )


@dataclass(frozen=True)
class TokenStream:
    """A split's tokens, memory-mapped, read as one stream across its shards."""

    shards: list[np.ndarray]
    offsets: list[np.ndarray]  # document starts within each shard, and its length
    manifest: dict[str, Any]

    @cached_property
    def _starts(self) -> list[int]:
        """Where each shard starts in the stream, and where the last one ends."""
        return list(accumulate(map(len, self.shards), initial=0))

    @classmethod
    def open(cls, directory: str | Path, verify: bool = True) -> TokenStream:
        """Map the shards of a split.

        Raises UserError if a shard is missing, has the wrong size or, with `verify`,
        bytes that are not those the manifest was written for. To verify takes seconds
        a gigabyte, and leaves the shards in the page cache, where training reads them.
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
            mapped = np.memmap(path, dtype, mode="r") if due else empty
            shards.append(np.asarray(mapped))  # plain arrays are cut much faster
            offsets.append(np.load(offsets_path(path)))
        return cls(shards, offsets, manifest)

    def __len__(self) -> int:
        """Tokens in the split."""
        tokens: int = self.manifest["tokens"]
        return tokens

    def read(self, start: int, count: int) -> np.ndarray:
        """Tokens [start, start + count) of the stream, as int64.

        Raises IndexError if they reach beyond the end.
        """
        if start < 0 or start + count > len(self):
            raise IndexError(f"tokens {start}..{start + count} of {len(self)}")
        pieces, end = [], start + count
        index = bisect_right(self._starts, start) - 1
        while start < end:
            offset = start - self._starts[index]
            piece = self.shards[index][offset : offset + end - start]
            pieces.append(piece.astype(np.int64))
            start += len(piece)
            index += 1
        return np.concatenate(pieces) if pieces else np.empty(0, np.int64)

    def documents(self) -> list[np.ndarray]:
        """Every document's tokens with BOS and EOS, in the corpus' order, as int64."""
        return [
            shard[begin:end].astype(np.int64)
            for shard, offsets in zip(self.shards, self.offsets, strict=True)
            for begin, end in pairwise(offsets)
        ]
