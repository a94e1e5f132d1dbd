"""Files that would run something, reach outside their folder, or fill the memory."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from counting import Tried
from hub_stand_in import Downloads, Hub
from made_up import default_configuration
from project import TOKEN
from shallower.corpus.hub import download, download_file
from shallower.corpus.settings import HubSource
from shallower.errors import UserError
from shallower.evaluation.latency.cases import checkpoint_cases
from shallower.files import read_json, sha256
from shallower.pretrained.checkpoint import open_model
from shallower.pretrained.settings import FilesCheckpoint
from shallower.pretrained.sizes import sizes
from shallower.pretrained.weights import Safetensors
from shallower.study.runs import RunSpec, TimedCheckpoint
from shallower.study.study import load_study


@pytest.mark.parametrize(
    "shard",
    ["../secret.safetensors", "/etc/passwd", "a/b.safetensors", "model.bin", "x.pkl"],
)
def test_shards_are_beside_their_index(shard: str, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (tmp_path / "secret.safetensors").write_bytes(b"")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w": shard}}))
    with pytest.raises(UserError, match=r"index\.json: shard .*beside it"):
        Safetensors(folder)


@pytest.mark.parametrize("content", ["{", "[]", '{"weight_map": 3}', "[" * 100_000])
def test_a_damaged_index_is_one_line(content: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(UserError, match="expected a weight_map of shards") as caught:
        Safetensors(tmp_path)
    assert "\n" not in str(caught.value)


def test_pickles_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    with pytest.raises(UserError, match="a pickle, which is not read"):
        Safetensors(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["pytorch_model.bin"]


def test_a_safetensors_header_of_absurd_size(tmp_path: Path) -> None:
    for size in (2**63, 2**40, 100):
        (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", size) + b"{}")
        with pytest.raises(UserError, match="not a safetensors file"):
            Safetensors(tmp_path)


def test_a_gguf_header_of_absurd_size(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    for tensors, entries in ((2**60, 0), (0, 2**60), (2**31, 2**31)):
        path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, tensors, entries))
        with pytest.raises(UserError, match=r"m\.gguf"):
            sizes(path)
    # A key whose text is longer than the file, and an array of a billion.
    for value in (struct.pack("<Q", 2**40), struct.pack("<QII", 1, 9, 4) + b"\xff" * 8):
        path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + value)
        with pytest.raises(UserError, match=r"m\.gguf"):
            sizes(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_hidden_layers", 10**9),
        ("vocab_size", 10**15),
        ("intermediate_size", -1),
        ("num_hidden_layers", 0),
    ],
)
def test_sizes_of_a_checkpoint_are_limited(
    key: str, value: int, tmp_path: Path
) -> None:
    """A profile of 10^9 blocks would name them all."""
    config = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4}
    config |= {"num_hidden_layers": 2, "intermediate_size": 128, "vocab_size": 300}
    config |= {"max_position_embeddings": 4096, "rms_norm_eps": 1e-5}
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    own = {"source": "files", "file": str(folder)}
    configuration = default_configuration()
    configuration["pretrained"] = {"models": {"mine": own}}
    (folder / "config.json").write_text(json.dumps(config))
    assert load_study(configuration).pretrained.chosen["mine"].config.depth == 2
    (folder / "config.json").write_text(json.dumps(config | {key: value}))
    with pytest.raises(UserError, match=r"pretrained|config\.json") as caught:
        load_study(configuration)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["../../x", "./y", "-x/y", "a/../b", "a/b/c", "a b/c"])
def test_repositories_are_no_paths(name: str) -> None:
    with pytest.raises(ValueError, match="repository"):
        HubSource(source="hub", repository=name)


def test_yaml_makes_no_objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "spec.yaml"
    path.write_text("name: !!python/object/apply:os.system ['touch pwned']\n")
    with pytest.raises(UserError, match=r"spec\.yaml: not YAML"):
        RunSpec.read(path)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("content", ["[" * 100_000, "9" * 5000, "\x00", '{"a": '])
def test_damaged_json_of_ours_is_one_line(content: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"a\.json: not valid JSON") as caught:
        read_json(path)
    assert "\n" not in str(caught.value)


# --- GGUF -----------------------------------------------------------------------------


def test_a_damaged_gguf_is_named(tmp_path: Path, tried: Tried) -> None:
    """A flipped byte by the configured checksum alone: weights are any numbers."""
    from test_pretrained import make, write_gguf

    path = tmp_path / "model.gguf"
    write_gguf(make("grouped", tmp_path / "hf"), path, "llama", "Q8_0")
    content = path.read_bytes()
    given = {"source": "files", "file": str(path), "sha256": sha256(path)}
    checkpoint = FilesCheckpoint.model_validate(given)
    assert checkpoint.checked_path("pretrained.models.mine") == path
    timed = TimedCheckpoint.model_construct(name="mine", checkpoint=checkpoint)
    never_asked: Any = None
    places = [0, 5, 30, len(content) // 2, len(content) - 1]
    for place in places:
        flipped = bytes([content[place] ^ 1])
        path.write_bytes(content[:place] + flipped + content[place + 1 :])
        with pytest.raises(UserError, match=r"mine\.sha256: model\.gguf has"):
            checkpoint.checked_path("pretrained.models.mine")
        with pytest.raises(UserError, match=r"mine\.sha256: model\.gguf has"):
            checkpoint_cases(never_asked, timed, torch.device("cpu"))
    lengths = [len(content) - 1, len(content) // 2, 100, 3, 0]
    for length in lengths:
        path.write_bytes(content[:length])
        with pytest.raises(UserError, match=r"mine\.sha256: model\.gguf has"):
            checkpoint.checked_path("pretrained.models.mine")
        with pytest.raises(UserError, match=r"/model\.gguf: "):  # without a checksum
            open_model(path)
    tried("a flipped byte in a GGUF file", len(places), "refused by its checksum")
    tried("a truncated GGUF file", len(lengths), "refused with its name")


# --- redirects ------------------------------------------------------------------------


@pytest.fixture
def other(downloads: Downloads) -> Iterator[Hub]:
    """Another host, which has the same repositories."""
    with Hub() as hub:
        hub.repositories = downloads.hub.repositories
        yield hub


@pytest.mark.parametrize("asked", ["/resolve/", "/api/"])
def test_another_host_is_not_told_the_token(
    asked: str, downloads: Downloads, other: Hub, tmp_path: Path, tried: Tried
) -> None:
    """The hub keeps large files on another; a redirect of metadata is followed too."""
    from test_hub import FILES, TEST_FILE, Place

    place = Place(downloads, tmp_path)
    place.hub.elsewhere = asked, other.endpoint
    said = downloads.run(download, place.job(split="test"), HF_TOKEN=TOKEN)
    assert (place.output / TEST_FILE).read_bytes() == FILES[TEST_FILE]
    assert any(asked in line for line in other.requests)
    assert place.hub.tokens == {TOKEN}
    assert other.tokens == set()
    assert TOKEN not in said
    name, lock = "someone/tokenizer", tmp_path / "lock.yaml"
    place.hub.repository(name, {"tokenizer.model": b"pieces"}, kind="models")
    path = tmp_path / "one" / "tokenizer.model"
    arguments = name, "tokenizer.model", None, lock, path
    downloads.run(download_file, *arguments, HF_TOKEN=TOKEN)
    assert path.read_bytes() == b"pieces"
    assert other.tokens == set()
    tried("a redirect of the hub to another host", 2, "the token was not sent there")


def test_a_redirect_that_never_ends_is_one_line(
    downloads: Downloads, other: Hub, tmp_path: Path
) -> None:
    from test_hub import Place

    place = Place(downloads, tmp_path)
    place.hub.elsewhere, other.elsewhere = (
        ("/api/", other.endpoint),
        ("/api/", place.hub.endpoint),
    )
    line = place.refused(split="test")
    assert "corpus.text: cerebras/SlimPajama-627B" in line
