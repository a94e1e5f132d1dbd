"""What can fail on the way to the hub: one line that says what to do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import zstandard

from hub_place import (
    SLIM,
    SLIM_FILES,
    SMALL,
    TEST_FILE,
    Place,
)
from hub_stand_in import GATED
from shallower.corpus import hub_errors
from shallower.corpus.settings import HubSource
from shallower.errors import UserError

# --- what can fail ----------------------------------------------------------------


def test_no_remote_code_is_run(place: Place, tmp_path: Path) -> None:
    script = f"open({str(tmp_path / 'executed')!r}, 'w')\nraise SystemExit(0)\n"
    name = SLIM.rpartition("/")[2]
    place.hub.repository(SLIM, SLIM_FILES | {f"{name}.py": script.encode()})
    assert "a loading script, which is never run" in place.refused()
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("status", "code", "told"),
    [
        (401, "", "`hf auth login` or set HF_TOKEN"),
        (401, "RepoNotFound", "`hf auth login` or set HF_TOKEN"),
        (403, GATED, "access is gated; ask for it on the repository's page"),
        (401, GATED, "access is gated; ask for it on the repository's page"),
        (404, "RepoNotFound", "does not exist or is not yours to read"),
    ],
)
def test_a_refusal_says_what_to_do(
    place: Place, status: int, code: str, told: str
) -> None:
    repository = place.hub.repositories[f"datasets/{SLIM}"]
    repository.status, repository.code = status, code
    line = place.refused()
    assert told in line
    assert f"corpus.text: {SLIM}" in line
    assert not place.lock.exists()


def test_what_is_not_there_is_named_beside_what_is(place: Place) -> None:
    line = place.refused(split="training")
    assert "corpus.text.split: " in line
    assert "no split 'training'; it has test, train" in line
    assert "corpus.text.revision" in place.refused(revision="nowhere")
    line = place.refused(configuration="english")
    assert "corpus.text.configuration" in line
    assert "'default'" in line
    line = place.refused(columns={"text": "content"})
    assert "no column 'content', found text, meta" in line
    assert "corpus.text.columns.text" in line
    line = place.refused(SMALL, columns={"title": "source"})
    assert "corpus.text.columns.title: no record has 'source'" in line
    assert "no record has 'source'" in place.refused(SMALL, columns={"title": "source"})
    line = place.refused(repository="nobody/nothing")
    assert "nobody/nothing: the hub refuses (status 404)" in line


def test_an_empty_split_is_an_error(place: Place) -> None:
    nothing = zstandard.compress(b"")
    place.hub.repository(SLIM, SLIM_FILES | {TEST_FILE: nothing})
    assert "the split 'test' is empty" in place.refused(split="test")
    place.hub.repository("some/empty", {"README.md": b""})
    assert "some/empty" in place.refused(repository="some/empty")


def test_damaged_data_are_an_error(place: Place) -> None:
    files = {"test.jsonl": b'{"text": "good"}\n{"text": \n'}
    place.hub.repository("some/damaged", files)
    line = place.refused(repository="some/damaged", split="test")
    assert "corpus.text: some/damaged: cannot be read: " in line
    whole = SLIM_FILES["train/chunk1/example_train_0.jsonl.zst"]
    place.hub.repository("some/cut", {"test.jsonl.zst": whole[: len(whole) // 2]})
    line = place.refused(repository="some/cut", split="test")
    assert "corpus.text: some/cut: cannot be read: " in line


def test_offline_by_the_users_own_wish(place: Place) -> None:
    command = [sys.executable, "-m", "shallower", *place.arguments()]
    environment = os.environ | place.downloads.environment | {"HF_HUB_OFFLINE": "1"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 2
    assert run.stderr == (
        f"shallower download: corpus.text: {SLIM}: HF_HUB_OFFLINE is set; unset it to "
        "download\n"
    )
    assert place.hub.requests == []


def test_a_full_disk_says_that_parts_are_kept() -> None:
    source = HubSource(source="hub", repository=SLIM)
    with pytest.raises(OSError, match="space") as full:
        pd.DataFrame({"a": range(100_000)}).to_parquet("/dev/full")
    found = hub_errors.explained(full.value, source, "corpus.text")
    assert isinstance(found, UserError)
    assert "no space left on the disk; free some and run again" in str(found)


def test_the_token_is_sent_and_written_nowhere(place: Place) -> None:
    token = "hf_averysecrettoken"
    status, said = place.fetch({"HF_TOKEN": token}, split="test")
    assert status == 0
    assert place.hub.tokens == {token}
    assert token not in said
    for path in place.folder.rglob("*"):
        assert not path.is_file() or token.encode() not in path.read_bytes()


def test_every_other_command_has_the_hub_offline() -> None:
    code = (
        "import sys\nfrom shallower import cli\n"
        "def run_publish(_):\n"
        "    import huggingface_hub.constants as hub\n"
        "    print(hub.HF_HUB_OFFLINE)\n"
        "cli.run_publish = run_publish\n"
        "assert 'huggingface_hub' not in sys.modules\n"
        "cli.main(['publish', '--results', 'x', '--output', 'x', '--readme', 'x'])\n"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert run.stdout == "True\n", run.stderr
