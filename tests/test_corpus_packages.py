"""Data inside installed packages: found, checked, read, and never imported."""

import hashlib
import json
import sys
from pathlib import Path

import pytest

from shallower.corpus import packages, sources
from shallower.corpus.settings import PackageSource
from shallower.errors import UserError

SUMMARIES = {
    "Fnord": {
        "title": "Fnord",
        "extract": "A fnord\nis\u00a0a word.",
        "description": "Word",
        "topic": "Arts",
    },
    "Quux": {"title": "Quux", "extract": "Second.", "description": "", "topic": None},
}
TALK = """
categories: [talk]
conversations:
- [What is it?, It is a thing., And then?]
- [When?, 1984]
- [Lonely]
- just a line
"""


@pytest.fixture
def package(tmp_path, monkeypatch) -> Path:
    """An installed package that cannot be imported."""
    files = {
        "fakedata/__init__.py": "raise RuntimeError('imported')",
        "fakedata/data/pages.json": json.dumps(SUMMARIES),
        "fakedata/talk/b.yml": TALK,
        "fakedata/talk/trivia.yml": "conversations: [[Which?, That.]]",
        "fakedata/talk/deeper/c.yml": TALK,
        "fakedata/said/1840-VanBuren-2.txt": "Fellow-citizens:\n\nI am gratified.",
        "fakedata/said/1897-McKinley-1.txt": "To the Congress:",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    info = tmp_path / "fake_data-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: fake-data\nVersion: 1.2"
    )
    (info / "RECORD").write_text("".join(f"{name},,\n" for name in files))
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def source(**changes) -> PackageSource:
    settings = {
        "source": "package",
        "name": "fake-data",
        "version": "1.2",
        "file": "fakedata/data/pages.json",
        "layout": "wikipedia_summaries",
        "licence": "none",
    }
    return PackageSource(**(settings | changes))


TALKS = {"file": "fakedata/talk/*.yml", "layout": "chatterbot"}


def test_summaries_become_documents_without_importing(package):
    loaded = sources.load(source(), "documents", "corpus.text")
    assert list(loaded.rows) == [
        {"text": "A fnord is a word.", "domain": "Arts", "title": "Fnord"},
        {"text": "Second.", "domain": "", "title": "Quux"},
    ]
    digest = hashlib.sha256((package / "fakedata/data/pages.json").read_bytes())
    assert loaded.origin["sha256"] == digest.hexdigest()
    assert loaded.origin["version"] == "1.2"
    assert loaded.origin["records"] == 2
    assert "fakedata" not in sys.modules


def test_conversations_take_hh_rlhfs_form(package):
    loaded = sources.load(source(**TALKS), "conversations", "k")
    assert list(loaded.rows) == [
        {
            "conversation": "\n\nHuman: What is it?\n\nAssistant: It is a thing.",
            "group": "b",
        },
        {"conversation": "\n\nHuman: When?\n\nAssistant: 1984", "group": "b"},
        {"conversation": "", "group": "b"},
    ]
    assert loaded.dropped == {"trivia": 1, "malformed": 1}
    assert loaded.origin["records"] == 5
    names = ["fakedata/talk/b.yml", "fakedata/talk/trivia.yml"]
    assert list(loaded.origin["files"]) == names
    digests = "".join(loaded.origin["files"].values()).encode()
    assert loaded.origin["sha256"] == hashlib.sha256(digests).hexdigest()


def test_a_speech_a_file_with_president_and_year(package):
    said = {"file": "fakedata/said/*.txt", "layout": "speeches", "domain": "talks"}
    loaded = sources.load(source(**said), "documents", "k")
    assert list(loaded.rows) == [
        {
            "text": "Fellow-citizens:\n\nI am gratified.",
            "title": "Van Buren (1840)",
            "domain": "talks",
        },
        {"text": "To the Congress:", "title": "McKinley (1897)", "domain": "talks"},
    ]
    assert loaded.origin["domain"] == "talks"
    assert loaded.origin["records"] == 2


def test_a_sources_domain_replaces_the_documents_own(package):
    loaded = sources.load(source(domain="leads"), "documents", "k")
    assert [row["domain"] for row in loaded.rows] == ["leads", "leads"]
    assert "domain" not in sources.load(source(), "documents", "k").origin
    with pytest.raises(UserError, match=r"k\.domain: x, but conversations have none"):
        sources.load(source(domain="x", **TALKS), "conversations", "k")


def test_limit(package):
    loaded = sources.load(source(limit=1), "documents", "k")
    assert len(list(loaded.rows)) == 1


def test_pinned_checksum(package):
    found = packages.locate(source(), "k").combined
    assert packages.locate(source(sha256=found), "k").combined == found
    wrong = 64 * "0"
    with pytest.raises(
        UserError, match=f"corpus.text.sha256: .*{found}, expected {wrong}"
    ):
        packages.locate(source(sha256=wrong), "corpus.text")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "no-such"}, "k.name: no-such is not installed, expected vers"),
        (
            {"version": "2"},
            "k.version: package fake-data is installed as 1.2, expected",
        ),
        ({"file": "fakedata/*.json"}, "has no file fakedata/*.json"),
        ({"file": "data/pages.json"}, "has no file data/pages.json"),
        (
            {"layout": "chatterbot"},
            "k.layout: chatterbot holds conversations, expected",
        ),
        (
            {"file": "fakedata/talk/b.yml"},
            "b.yml of package fake-data: not in the form",
        ),
    ],
)
def test_errors_name_key_and_package(package, changes, message):
    with pytest.raises(UserError) as error:
        list(sources.load(source(**changes), "documents", "k").rows)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_yaml_errors_are_one_line(package):
    (package / "fakedata/talk/b.yml").write_text("a: [1\nb: }")
    with pytest.raises(UserError) as error:
        list(sources.load(source(**TALKS), "conversations", "k").rows)
    assert "talk/b.yml of package fake-data: not in the format" in str(error.value)
    assert "\n" not in str(error.value)


def test_file_gone_since_installation(package):
    (package / "fakedata/data/pages.json").unlink()
    with pytest.raises(UserError, match=r"has no file fakedata/data/pages\.json"):
        packages.locate(source(), "k")
