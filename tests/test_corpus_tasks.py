"""Tasks that need the prompt: the answer is in it, and the control does not tell it."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from random import Random

import pandas as pd
import pytest

from shallower.corpus.items import sentences
from shallower.corpus.settings import TaskSettings
from shallower.corpus.tasks import CONTEXT, DEPTHS, TASKS, make_tasks
from shallower.errors import UserError

ROOT = Path(__file__).parents[1]
SETTINGS = TaskSettings(items=60, prompt_words=120, seed=3)
# No other word of a sentence ends one.
ENDS = ("marble", "candle", "saddle", "turnip", "lantern", "barrel", "kettle", "anchor")


def invented(draw: Random, count: int) -> str:
    """Words that no language has, all different."""
    return " ".join(
        "".join(draw.choice("bdgklmnprstv") + draw.choice("aeiou") for _ in range(4))
        for _ in range(count)
    )


def speech(number: int) -> dict[str, str]:
    draw = Random(number)
    text = " ".join(
        f"It {invented(draw, draw.randint(9, 14))} {draw.choice(ENDS)}."
        for _ in range(60)
    )
    return row(text, "speeches", f"Speaker ({1800 + number})")


def article(number: int) -> dict[str, str]:
    draw = Random(1000 + number)
    title = f"Thing{number}"
    text = f"{title} is a {invented(draw, 7)}. It has {invented(draw, 12)}."
    return row(text, "Arts" if number % 2 else "People", title)


def row(text: str, domain: str, title: str) -> dict[str, str]:
    identity = hashlib.sha256(text.encode()).hexdigest()
    return {"id": identity, "text": text, "domain": domain, "title": title}


@pytest.fixture(scope="module")
def documents() -> pd.DataFrame:
    made = [speech(n) for n in range(9)] + [article(n) for n in range(80)]
    return pd.DataFrame(made)


@pytest.fixture(scope="module")
def tasks(documents: pd.DataFrame) -> pd.DataFrame:
    return make_tasks(documents, SETTINGS)


def answer(item: pd.Series) -> str:
    return item["choices"][item["answer"]].strip()


def of(tasks: pd.DataFrame, task: str) -> list[pd.Series]:
    return [item for _, item in tasks[tasks["task"] == task].iterrows()]


# --- all tasks ------------------------------------------------------------------------


def test_as_many_items_as_wanted_each_of_a_document(
    tasks: pd.DataFrame, documents: pd.DataFrame
) -> None:
    assert list(tasks) == [
        *("id", "task", "group", "document", "prompt", "choices", "answer", "control")
    ]
    assert tasks["task"].value_counts().to_dict() == dict.fromkeys(TASKS, 60)
    assert tasks["id"].is_unique
    assert tasks["prompt"].is_unique
    assert set(tasks["document"]) <= set(documents["id"])
    for task, count in (("recall", 9), ("reading", 60), ("choice", 9)):
        # Documents take turns.
        assert tasks.loc[tasks["task"] == task, "document"].nunique() == count
    for _, item in tasks.iterrows():
        assert len(item["prompt"].split()) > 0.75 * 120 - 20
        assert item["prompt"] == item["prompt"].strip()
        assert item["control"] != item["prompt"]


def test_choices_differ_and_every_place_is_right_as_often(tasks: pd.DataFrame) -> None:
    for task in TASKS:
        items = of(tasks, task)
        for item in items:
            assert len(set(item["choices"])) == len(item["choices"]) == 4
            assert all(choice.startswith(" ") for choice in item["choices"])
            assert all(choice == f" {choice.strip()}" for choice in item["choices"])
        places = pd.Series([item["answer"] for item in items])
        assert places.value_counts().to_dict() == dict.fromkeys(range(4), 15)


def test_the_same_items_in_any_order_of_rows_and_any_process(
    tasks: pd.DataFrame, documents: pd.DataFrame, tmp_path: Path
) -> None:
    shuffled = documents.sample(frac=1, random_state=5)
    pd.testing.assert_frame_equal(make_tasks(shuffled, SETTINGS), tasks)
    other = make_tasks(documents, SETTINGS.model_copy(update={"seed": 4}))
    assert not set(other["control"]) & set(tasks["control"][tasks["task"] == "recall"])
    documents.to_parquet(tmp_path / "documents.parquet")
    script = (
        "import sys, pandas as pd\n"
        "from shallower.corpus.settings import TaskSettings\n"
        "from shallower.corpus.tasks import make_tasks\n"
        "documents = pd.read_parquet(sys.argv[1])\n"
        "settings = TaskSettings(items=60, prompt_words=120, seed=3)\n"
        "make_tasks(documents, settings).to_json(sys.argv[2])\n"
        "assert 'torch' not in sys.modules\n"
    )
    paths = [str(tmp_path / name) for name in ("documents.parquet", "tasks.json")]
    subprocess.run(
        [sys.executable, "-c", script, *paths],
        check=True,
        env={"PYTHONHASHSEED": "7", "PYTHONPATH": str(ROOT / "workflow")},
    )
    assert Path(paths[1]).read_text() == tasks.to_json()


def test_other_numbers_of_choices(documents: pd.DataFrame) -> None:
    settings = TaskSettings(items=7, prompt_words=120, choices=2)
    for choices in make_tasks(documents, settings)["choices"]:
        assert len(choices) == 2


def test_too_few_documents_are_an_error() -> None:
    pages = pd.DataFrame([article(n) for n in range(80)])
    with pytest.raises(UserError, match=r"tasks: recall: 0 items of 0 usable docum"):
        make_tasks(pages, SETTINGS)
    speeches = pd.DataFrame([speech(n) for n in range(9)])
    with pytest.raises(UserError, match=r"tasks: reading: .*, expected 60"):
        make_tasks(speeches, SETTINGS)


# --- recall ---------------------------------------------------------------------------


def found_in(text: str, item: pd.Series, draw: Random) -> int:
    """A scorer that looks for the question's words in the text before it."""
    before, question = text.rsplit(". ", 1)
    said = [place for place, c in enumerate(item["choices"]) if question + c in before]
    return said[0] if len(said) == 1 else draw.randrange(len(item["choices"]))


def test_who_searches_the_prompt_recalls_and_the_control_is_chance(
    documents: pd.DataFrame,
) -> None:
    draw, items = Random(0), []
    for seed in range(4):
        settings = TaskSettings(items=100, prompt_words=120, seed=seed)
        items += of(make_tasks(documents, settings), "recall")
    right = {
        name: sum(found_in(item[name], item, draw) == item["answer"] for item in items)
        for name in ("prompt", "control")
    }
    assert right["prompt"] == 400
    assert 70 < right["control"] < 130  # 100 +- 9


def test_the_control_has_the_same_values_at_the_same_places(
    tasks: pd.DataFrame,
) -> None:
    for item in of(tasks, "recall"):
        question = item["prompt"].rsplit(". ", 1)[1]
        assert item["control"].endswith(f". {question}")
        prompt, control = item["prompt"].split(), item["control"].split()
        changed = [place for place, w in enumerate(prompt) if control[place] != w]
        assert len(prompt) == len(control)
        assert [prompt[place] for place in changed] == [question.split()[0]]
        assert question.split()[0] not in control[: -len(question.split())]
        for choice in item["choices"]:
            assert item["control"].count(f"{choice}.") == 1


def test_what_is_recalled_is_where_the_group_says(tasks: pd.DataFrame) -> None:
    items = of(tasks, "recall")
    assert {item["group"] for item in items} == set(DEPTHS)
    for item in items:
        text, question = item["prompt"].rsplit(". ", 1)
        place = len(
            text[: text.index(question + item["choices"][item["answer"]])].split()
        )
        share = place / len(text.split())
        assert abs(share - (DEPTHS.index(item["group"]) + 0.5) / 3) < 0.17 + 0.03


# --- reading --------------------------------------------------------------------------


def test_one_article_has_the_sentence(
    tasks: pd.DataFrame, documents: pd.DataFrame
) -> None:
    texts = documents.set_index("title")["text"]
    for item in of(tasks, "reading"):
        *articles, question = item["prompt"].split("\n\n")
        sentence = question.split('"')[1]
        titles = [article.split("\n")[0] for article in articles]
        assert sorted(titles) == sorted(choice.strip() for choice in item["choices"])
        [right] = [a.split("\n")[0] for a in articles if sentence in a.split("\n")[1]]
        assert right == answer(item)
        assert sentence in texts[right]
        assert right not in sentence
        for article in articles:
            title, text = article.split("\n")
            assert texts[title] == text
        # In the control the titles stay, and this article's text is another's.
        *control, same = item["control"].split("\n\n")
        assert same == question
        assert [article.split("\n")[0] for article in control] == titles
        assert sum(a != b for a, b in zip(articles, control, strict=True)) == 1
        assert not any(sentence in article for article in control)
        assert f"{right} is" not in item["control"]


# --- continuations and last words -----------------------------------------------------


def test_the_next_sentence_is_right_and_the_others_are_of_other_documents(
    tasks: pd.DataFrame, documents: pd.DataFrame
) -> None:
    texts = documents.set_index("id")
    for item in of(tasks, "choice"):
        text = texts.loc[item["document"], "text"]
        assert f"{item['prompt']} {answer(item)}" in text
        for place, choice in enumerate(item["choices"]):
            assert len(choice.split()) == 12
            own = texts[texts["text"].str.contains(choice.strip(), regex=False)]
            assert list(own["domain"]) == [item["group"]]
            assert (own.index[0] == item["document"]) == (place == item["answer"])
        assert item["control"].split() == item["prompt"].split()[-CONTEXT:]


def test_last_words_were_said_before_and_not_in_the_control(
    tasks: pd.DataFrame, documents: pd.DataFrame
) -> None:
    texts = documents.set_index("id")["text"]
    for item in of(tasks, "last_word"):
        assert f"{item['prompt']} {answer(item)}." in texts[item["document"]]
        assert sentences(item["prompt"])[-1] == item["control"]
        for choice in item["choices"]:
            assert choice.strip() in item["prompt"].split(item["control"])[0]
            assert choice.strip() not in item["control"]
