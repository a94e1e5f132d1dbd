"""Download of a pretrained checkpoint from the hub: safetensors or GGUF, no pickle."""

from __future__ import annotations

import json
from pathlib import Path

from shallower.corpus.downloaded import MANIFEST, check_folder, combined
from shallower.corpus.hub import one_line, resolve, tell
from shallower.errors import UserError
from shallower.files import sha256, write_json
from shallower.pretrained.settings import HubCheckpoint
from shallower.pretrained.sizes import CONFIG, INDEX, SINGLE, check

TOKENIZERS = ("tokenizer.json", "tokenizer.model")
SETTINGS = "tokenizer_config.json"


def download(checkpoint: HubCheckpoint, key: str, lock: Path, folder: Path) -> None:
    """Fill `folder` with a checkpoint's files and, last, `manifest.json`.

    The revision is locked as a data set's, and complete files are kept as there. The
    sizes are compared before the weights are downloaded. Raises UserError, saying what
    to do, for whatever goes wrong.
    """
    repository, revision = checkpoint.repository, checkpoint.revision
    if (folder / MANIFEST).is_file():
        check_folder(folder, lock, repository, revision, "models")
        return
    with one_line(f"{key}: {repository}", key, revision):
        commit = resolve(lock, "models", repository, revision)
        folder.mkdir(parents=True, exist_ok=True)
        files = _fetch(checkpoint, key, commit, folder)
    manifest = {
        "repository": repository,
        "file": checkpoint.file,
        "revision": commit,
        "sha256": combined(files),
        "files": files,
    }
    write_json(folder / MANIFEST, manifest)


def _fetch(
    checkpoint: HubCheckpoint, key: str, commit: str, folder: Path
) -> dict[str, str]:
    """Download what is needed of a repository; checksums by file."""
    from huggingface_hub import HfApi, hf_hub_download

    name, files = checkpoint.repository, {}

    def get(file: str) -> Path:
        path = Path(hf_hub_download(name, file, revision=commit, local_dir=folder))
        files[file] = sha256(path)
        tell(f"{name} {file}: {path.stat().st_size:,} bytes")
        return path

    information = HfApi().model_info(name, revision=commit)
    there = {sibling.rfilename for sibling in information.siblings or []}
    where = f"{key}: {name}"
    if checkpoint.file is not None:
        if checkpoint.file not in there:
            found = ", ".join(sorted(f for f in there if f.endswith(".gguf")))
            raise UserError(
                f"{key}.file: {name} has no {checkpoint.file}; its GGUF files: "
                f"{found or 'none'}"
            )
        get(checkpoint.file)
        check(checkpoint.sizes, checkpoint.within(folder), f"{key}.sizes")
        return files
    weights = _weights(there, where)
    tokenizers = [file for file in TOKENIZERS if file in there]
    if CONFIG not in there or not tokenizers:
        missing = " or ".join(TOKENIZERS) if CONFIG in there else CONFIG
        raise UserError(f"{where}: it has no {missing}")
    get(CONFIG)
    check(checkpoint.sizes, folder, f"{key}.sizes")
    for file in [*tokenizers, SETTINGS, weights]:
        if file in there:
            path = get(file)
    for shard in _shards(path, there, where) if weights == INDEX else []:
        get(shard)
    return files


def _weights(there: set[str], where: str) -> str:
    """The file with the weights, or the one that lists their shards."""
    for file in (INDEX, SINGLE):
        if file in there:
            return file
    pickles = sorted(f for f in there if f.endswith((".bin", ".pt", ".pth")))
    if pickles:
        raise UserError(
            f"{where}: its weights are a pickle ({pickles[0]}), which is not read; "
            "expected safetensors: choose another repository, a revision that has "
            "them (such as refs/pr/1), or a GGUF `file`"
        )
    raise UserError(f"{where}: it has no {SINGLE} or {INDEX}, and no GGUF `file`")


def _shards(index: Path, there: set[str], where: str) -> list[str]:
    """The files that an index names, all of them safetensors of the repository."""
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        shards = sorted({str(file) for file in places.values()})
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{where}: {INDEX} lists no shards ({error!r})") from None
    for shard in shards:
        if shard not in there or not shard.endswith(".safetensors"):
            raise UserError(
                f"{where}: {INDEX} lists {shard}, which is no safetensors of the "
                "repository"
            )
    return shards
