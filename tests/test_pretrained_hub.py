"""Checkpoints of the hub, against a stand-in: downloads, sizes, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pydantic import ValidationError

from hub_stand_in import GATED, Downloads
from models_for_tests import token_ids
from shallower.corpus import downloaded
from shallower.errors import UserError
from shallower.files import read_json, sha256
from shallower.pretrained.checkpoint import open_model
from shallower.pretrained.download import download
from shallower.pretrained.settings import HubCheckpoint, Pretrained
from shallower.pretrained.sizes import count_weights, sizes
from test_pretrained import KINDS, LLAMA3, SIZES, make, write_gguf

NAME, KEY = "someone/tiny-llama", "pretrained.models.tiny"
STATED = SIZES | {"tie_word_embeddings": True, "rope_theta": 10000.0}


class Place:
    """A project's folder, and downloads of one checkpoint into it."""

    def __init__(self, downloads: Downloads, folder: Path) -> None:
        self.downloads, self.hub, self.root = downloads, downloads.hub, folder
        self.theirs = make("grouped", folder / "theirs", shard="20KB")
        (folder / "theirs" / "tokenizer.json").write_text("{}")
        self.commit = self.serve(folder / "theirs")

    def serve(self, folder: Path, **other: bytes | None) -> str:
        """A commit with a folder's files, some replaced (None: taken out)."""
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
        files |= {"README.md": b"text", "pytorch_model.bin": b"a pickle"}
        for name, content in other.items():
            files[name] = content or b""
            if content is None:
                del files[name]
        return self.hub.repository(NAME, files, kind="models")

    def settings(self, **changes: Any) -> HubCheckpoint:
        given = {"source": "hub", "repository": NAME, "sizes": STATED}
        return HubCheckpoint.model_validate(given | changes)

    def job(self, **changes: Any) -> tuple[HubCheckpoint, str, Path, Path]:
        settings = self.settings(**changes)
        folder = self.root / downloaded.FOLDER / settings.folder
        return settings, KEY, self.root / downloaded.LOCK, folder

    def fetch(self, **changes: Any) -> HubCheckpoint:
        self.downloads.run(download, *self.job(**changes))
        return self.settings(**changes)

    def refused(self, **changes: Any) -> str:
        line = self.downloads.refused(download, *self.job(**changes))
        assert not (self.job(**changes)[-1] / downloaded.MANIFEST).exists()
        assert KEY in line
        return line

    def asked_for(self, name: str) -> bool:
        return any(line.endswith(f"/{name}") for line in self.hub.requests)


@pytest.fixture
def place(
    downloads: Downloads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Place:
    # Paths of downloads are relative to the project.
    monkeypatch.chdir(tmp_path)
    downloads.hub.requests.clear()
    return Place(downloads, tmp_path)


# --- what is downloaded ---------------------------------------------------------------


def test_a_repository_is_downloaded_once_at_its_locked_revision(place: Place) -> None:
    with pytest.raises(UserError, match=r"models\.tiny: .* is not downloaded.*run `sn"):
        place.settings().path(KEY)
    path = place.fetch().checked_path(KEY)
    own = sorted(p.name for p in path.iterdir() if p.is_file())
    manifest = read_json(path / downloaded.MANIFEST)
    shards = [name for name in own if name.startswith("model-")]
    assert len(shards) > 1
    wanted = ["config.json", "tokenizer.json", "model.safetensors.index.json"]
    assert list(manifest["files"]) == [*wanted, *shards]
    assert sorted([*manifest["files"], downloaded.MANIFEST]) == own  # and no pickle
    for name, digest in manifest["files"].items():
        assert digest == sha256(place.root / "theirs" / name)
    lock = yaml.safe_load((place.root / downloaded.LOCK).read_text())
    assert lock["models"][f"{NAME}@main"]["revision"] == place.commit
    assert manifest["revision"] == place.commit
    tokens = token_ids()
    with torch.no_grad():
        due = place.theirs(tokens).logits
        assert (open_model(path)(tokens) - due).abs().max() < 1e-4

    # The hub moves on; the lock does not.
    place.serve(place.root / "theirs", **{"config.json": b"{}"})
    asked = len(place.hub.requests)
    place.fetch()
    assert len(place.hub.requests) == asked
    (path / downloaded.MANIFEST).unlink()
    place.fetch()
    assert read_json(path / downloaded.MANIFEST) == manifest


def test_one_gguf_file(place: Place) -> None:
    write_gguf(place.theirs, place.root / "tiny.gguf", "llama", "F16")
    place.serve(
        place.root / "theirs", **{"Q/tiny.gguf": Path("tiny.gguf").read_bytes()}
    )
    line = place.refused(file="tiny.gguf")
    assert "models.tiny.file: someone/tiny-llama has no tiny.gguf; its GG" in line
    path = place.fetch(file="Q/tiny.gguf").checked_path(KEY)
    assert path.read_bytes() == Path("tiny.gguf").read_bytes()
    assert not place.asked_for("config.json")
    assert path.parent.parent.name != place.settings().folder


def test_a_commit_may_be_stated(place: Place) -> None:
    place.serve(place.root / "theirs", **{"config.json": b"{}"})
    settings = place.fetch(revision=place.commit)
    assert settings.checked_path(KEY).is_dir()
    line = place.refused(revision="nowhere")
    assert "pretrained.models.tiny.revision: " in line


# --- sizes ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_stated_sizes_are_those_of_config_json(kind: str, tmp_path: Path) -> None:
    """As pasted from there; and the number of parameters follows from them."""
    theirs = make(kind, tmp_path)
    pasted = json.loads((tmp_path / "config.json").read_text())
    place = {"source": "hub", "repository": NAME}
    settings = HubCheckpoint.model_validate(place | {"sizes": pasted})
    assert settings.sizes == sizes(tmp_path)
    assert count_weights(settings.config) == theirs.num_parameters()
    again = HubCheckpoint.model_validate_json(settings.model_dump_json())
    assert again == settings


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"hidden_size": 64}, "hidden_size is 64, but"),
        ({"num_hidden_layers": 2}, "num_hidden_layers is 2, but"),
        ({"num_key_value_heads": 4}, "num_key_value_heads is None, but"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings is False, but"),
        ({"rope_theta": 5e5}, "rope_theta is 500000.0, but"),
        ({"max_position_embeddings": 128}, "max_position_embeddings is 128, but"),
        ({"rope_parameters": LLAMA3 | {"rope_theta": 1e4}}, "rope_divisors is (1.0"),
    ],
)
def test_other_sizes_are_refused_before_the_weights_are_downloaded(
    changes: dict[str, Any], told: str, place: Place
) -> None:
    line = place.refused(sizes=STATED | changes)
    assert f"{KEY}.sizes: {told}" in line
    assert "config.json" in line or place.job()[-1].name in line
    assert place.asked_for("config.json")
    assert not any("model-0" in line for line in place.hub.requests)


def test_sizes_must_be_stated_and_make_sense() -> None:
    hub = {"source": "hub", "repository": NAME}
    for given, told in (
        (hub, "models.tiny.hub.sizes\n  Field required"),
        (hub | {"sizes": {"hidden_size": 32}}, "num_attention_heads is None"),
        (hub | {"sizes": STATED | {"model_type": "gpt2"}}, "outside the Llama family"),
        (hub | {"sizes": STATED, "file": "model.bin"}, "gguf"),
    ):
        with pytest.raises(ValidationError, match=told):
            Pretrained.model_validate({"models": {"tiny": given}})
    # The context is the study's own where that is shorter, and must suffice.
    tiny = {"models": {"tiny": hub | {"sizes": STATED}}}
    lengths = {"prompt_tokens": 20, "scored_tokens": 8}
    read = Pretrained.model_validate(tiny | lengths | {"context": 48})
    assert read.chosen["tiny"].config.context == 48
    with pytest.raises(ValidationError, match="320 exceed the context of tiny, 64"):
        Pretrained.model_validate(tiny)


# --- what is refused ------------------------------------------------------------------


def test_weights_that_are_no_safetensors_are_refused(place: Place) -> None:
    theirs, index = place.root / "theirs", "model.safetensors.index.json"
    place.serve(theirs, **{index: None})
    (place.root / downloaded.LOCK).unlink(missing_ok=True)
    line = place.refused()
    assert "its weights are a pickle (pytorch_model.bin), which is not read" in line
    for file in ("pytorch_model.bin", "../../else.safetensors"):
        places = json.dumps({"weight_map": {"some.tensor": file}}).encode()
        place.serve(theirs, **{index: places})
        (place.root / downloaded.LOCK).unlink()
        assert f"lists {file}, which is no safetensors" in place.refused()
    assert not place.asked_for("pytorch_model.bin")
    place.serve(theirs, **{index: b"[]"})
    (place.root / downloaded.LOCK).unlink()
    assert "lists no shards" in place.refused()


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_repository_that_is_no_checkpoint_is_refused(name: str, place: Place) -> None:
    place.serve(place.root / "theirs", **{name: None})
    assert f"{NAME}: it has no {name}" in place.refused()


def test_a_gated_repository_says_what_to_do(place: Place) -> None:
    repository = place.hub.repositories[f"models/{NAME}"]
    repository.status, repository.code = 403, GATED
    line = place.refused()
    assert f"{KEY}: {NAME}: access is gated; accept the licence on the" in line
    assert "set HF_TOKEN" in line
    assert not (place.root / downloaded.LOCK).exists()


def test_a_changed_file_or_revision_is_refused(place: Place) -> None:
    settings = place.fetch()
    path = settings.path(KEY)
    shard = next(path.glob("model-00001*"))
    content = shard.read_bytes()
    shard.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(UserError, match=r"model-00001.* as downloaded; delete the"):
        settings.checked_path(KEY)
    shard.write_bytes(content)
    settings.checked_path(KEY)
    lock = place.root / downloaded.LOCK
    lock.write_text(lock.read_text().replace(place.commit, "2" * 40))
    with pytest.raises(UserError, match=rf"the lock .* says {'2' * 40}: delete"):
        settings.checked_path(KEY)
    with pytest.raises(UserError, match=rf"the lock .* says {'2' * 40}: delete"):
        downloaded.check_checkpoint(NAME, None, None)


def test_a_local_checkpoint_of_other_sizes_is_refused(tmp_path: Path) -> None:
    make("plain", tmp_path / "one")
    make("grouped", tmp_path / "other")
    models = {"mine": {"source": "files", "file": str(tmp_path / "one")}}
    lengths = {"context": 64, "prompt_tokens": 24, "scored_tokens": 8}
    checkpoint = Pretrained.model_validate({"models": models} | lengths).chosen["mine"]
    checkpoint.checked_path(KEY)
    (tmp_path / "one").rename(tmp_path / "before")
    (tmp_path / "other").rename(tmp_path / "one")
    with pytest.raises(UserError, match=r"sizes: num_key_value_heads is None, but"):
        checkpoint.checked_path(KEY)
