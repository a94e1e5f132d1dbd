"""What the tokenization benchmark runs in processes of its own.

`python -m benchmarks.tokenization_commands`, then
    prepare FOLDER              the default corpus and its tokenizer
    text FOLDER BYTES           FOLDER/text.parquet, with the corpus' statistics
    processes TEXT MODEL OUTPUT datasets.map, two processes
    threads TEXT MODEL OUTPUT   datasets.map, one process and the tokenizer's threads
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def prepare(folder: Path) -> None:
    import yaml

    from shallower.corpus.build import build
    from shallower.study.study import load_study
    from shallower.tokens.source import obtain

    study = load_study(yaml.safe_load((ROOT / "config.yaml").read_text()))
    build(study.corpus, folder / "corpus")
    text = folder / "corpus" / "text" / "train.parquet"
    obtain(study.tokenizer, None, text, folder / "tokenizer.model")


def text(folder: Path, size: int) -> None:
    from benchmarks.text_model import write_text

    corpus = folder / "corpus" / "text" / "train.parquet"
    write_text(corpus, size, folder / "text.parquet")


def fast_tokenizer(model: Path) -> tuple[Any, int, int]:
    """The same tokenizer for `tokenizers`, and its BOS and EOS.

    The same pieces are merged in the same order. Used as it is, without the wrapper of
    transformers, which takes time of its own. It splits at spaces first, so that its
    cache of words helps. Ids are SentencePiece's where no piece is a run of spaces, as
    none of the default tokenizer is.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers

    from shallower.tokens.tokenizer import Tokenizer as Own

    pieces = Own(model).pieces
    names = pieces.id_to_piece(list(range(len(pieces))))
    known = {name: i for i, name in enumerate(names)}
    merges = []
    for name, i in known.items():
        if pieces.is_byte(i) or pieces.is_control(i) or pieces.is_unknown(i):
            continue
        cuts = [(name[:cut], name[cut:]) for cut in range(1, len(name))]
        pairs = [(a, b) for a, b in cuts if a in known and b in known]
        pairs.sort(key=lambda pair: (known[pair[0]], known[pair[1]]))
        merges += [(-pieces.get_score(i), pair) for pair in pairs]
    merges.sort(key=lambda merge: merge[0])  # stable: pairs of one piece in order
    bpe = models.BPE(
        known,
        [pair for _, pair in merges],
        byte_fallback=True,
        fuse_unk=True,
        unk_token=names[pieces.unk_id()],
    )
    tokenizer = Tokenizer(bpe)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    return tokenizer, pieces.bos_id(), pieces.eos_id()


def mapped(text: Path, model: Path, output: Path, processes: int | None) -> None:
    """`datasets.map` to `output`/tokens.bin, with caches that are its own."""
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if processes is None else "false"
    os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
    os.environ["HF_HOME"] = str(output / "caches")
    import datasets

    tokenizer, bos, eos = fast_tokenizer(model)

    def encode(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        found = tokenizer.encode_batch_fast(batch["text"])
        return {"ids": [[bos, *row.ids, eos] for row in found]}

    datasets.disable_progress_bars()
    data = datasets.load_dataset(
        "parquet",
        data_files=str(text),
        split="train",
        columns=["text"],
        cache_dir=str(output / "caches"),
    )
    ids = datasets.Features({"ids": datasets.List(datasets.Value("uint16"))})
    data = data.map(
        encode,
        batched=True,
        batch_size=1000,
        num_proc=processes,
        remove_columns=["text"],
        features=ids,
    )
    with (output / "tokens.bin").open("wb") as out:
        for batch in data.with_format("arrow").iter(1000):
            out.write(batch["ids"].combine_chunks().flatten().to_numpy().data)


def main(arguments: list[str]) -> None:
    command, *rest = arguments
    if command == "text":
        return text(Path(rest[0]), int(rest[1]))
    if command == "prepare":
        return prepare(Path(rest[0]))
    [source, model, output] = map(Path, rest)
    output.mkdir(parents=True, exist_ok=True)
    mapped(source, model, output, {"processes": 2, "threads": None}[command])


if __name__ == "__main__":
    main(sys.argv[1:])
