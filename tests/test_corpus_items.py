"""Evaluation items out of documents, conversations and answers."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shallower.corpus import items
from shallower.corpus.documents import Document, digest
from shallower.corpus.items import Item, sentences
from shallower.corpus.packages import as_conversation


def document(text, title="", domain="Arts"):
    return Document(digest(text), text, domain, title)


# --- sentences --------------------------------------------------------------------


@pytest.mark.parametrize(
    "parts",
    [
        ["He was born in the U.S. state of Ohio.", "It is large."],
        ["J. R. R. Tolkien wrote it.", "He lived in Oxford."],
        ["George W. Bush won.", "Dr. Smith and St. Peter did not."],
        ["It lies in the U.S.", "The other is in the U.K."],
        ["Acme Inc. Products were made by Acme Inc.", "They sold well."],
        ["It began c. 1200, i.e. Late.", "Then it ended (in 1300).", "Now?", "Yes!"],
        ['He said "no."', '"Yes" was the answer.'],
        ["Élan is a word.", "Über is one too.", "7 is none."],
        ["It is a. élan too.", "Symphony No. 5 came."],
        ["He won no.", "The end (of it)."],
        ["It costs 3.5 million, e.g. in Rome"],
    ],
)
def test_sentences(parts):
    assert sentences(" ".join(parts)) == parts


@given(st.text(alphabet="ab. !AB\n\"'()"))
def test_no_character_is_lost(text):
    assert "".join("".join(sentences(text)).split()) == "".join(text.split())


# --- completion -------------------------------------------------------------------


def test_completion_cuts_the_beginning_with_its_spacing():
    dropped: Counter[str] = Counter()
    text = "one  two\n  three four\tfive six seven"
    [item] = items.completions([document(text), document("one two")], 3, 2, dropped)
    assert item == Item(digest(text), "one  two\n  three", "four\tfive", "Arts")
    assert dropped == {"too_short": 1}


def test_completion_may_use_the_whole_document():
    [item] = items.completions([document("a b c")], 2, 1, Counter())
    assert (item.prompt, item.reference) == ("a b", "c")


# --- chat -------------------------------------------------------------------------


def replies(*conversations):
    dropped: Counter[str] = Counter()
    rows = [{"conversation": text, "group": "g"} for text in conversations]
    return list(items.replies(rows, dropped)), dropped


def test_the_last_answer_is_the_reference():
    text = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: So?\n\nAssistant: So what.\n"
    [item], _ = replies(text)
    assert item.prompt == (
        "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: So?\n\nAssistant:"
    )
    assert item.reference == "So what."
    assert item.id == digest(item.prompt)
    assert item.group == "g"


def test_a_last_human_turn_is_no_part_of_the_answer():
    [item], _ = replies("\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Bye")
    assert item.reference == "Hello."
    turns = ["Hi", "Hello.", "Bye"]
    assert as_conversation(turns) == "\n\nHuman: Hi\n\nAssistant: Hello."


def test_paragraphs_of_an_answer_stay():
    [item], _ = replies("\n\nHuman: Hi\n\nAssistant: First.\n\n  code\n")
    assert item.reference == "First.\n\n  code"


def test_conversations_that_give_no_item_are_counted():
    found, dropped = replies(
        "\n\nHuman: Hi\n\nAssistant:", "", "\n\nHuman: Hi", "\n\nAssistant: Hello."
    )
    assert found == []
    assert dropped == {"unanswered": 3, "malformed": 1}


# --- questions --------------------------------------------------------------------


def test_first_correct_sentence_answers():
    dropped: Counter[str] = Counter()
    rows = [
        {"question": question, "sentence": sentence, "label": label, "title": "T"}
        for question, sentence, label in [
            ("q1", "wrong", "0"),
            ("q2", "never", "0"),
            ("q1", "right", "1"),
            ("q1", "also right", "1"),
            ("q1", "wrong again", "0"),
        ]
    ]
    [item] = items.answers(items.wikiqa(rows), dropped)
    assert item == Item(digest("q1"), "q1", "right", "T")
    assert dropped == {"unanswered": 1}


def test_questions_are_made_from_titles():
    dropped: Counter[str] = Counter()
    made = [
        document("A fnord is a word. It is rare.", "Fnord"),
        document("Ann was a person.", "Ann", "People"),
        document("No title here."),
    ]
    rows = list(items.questions(made, dropped))
    assert [(row.sentence, row.correct) for row in rows[:2]] == [
        ("A fnord is a word.", True),
        ("It is rare.", False),
    ]
    found = [(i.prompt, i.reference, i.group) for i in items.answers(rows, dropped)]
    assert found == [
        ("what is Fnord?", "A fnord is a word.", "Arts"),
        ("who was Ann?", "Ann was a person.", "People"),
    ]
    assert dropped == {"untitled": 1}


# --- choice -----------------------------------------------------------------------


def item(name, reference="reference", prompt=None):
    return Item(name, prompt or f"prompt {name}", reference, "")


def test_candidates_drop_repeated_prompts_and_short_references():
    dropped: Counter[str] = Counter()
    made = [
        item("a", "no"),
        item("b", "first", "same"),
        item("c", "second", "same"),
        item("d", "third", "other"),
    ]
    found = items.candidates(made, 3, 5, dropped)
    assert sorted(each.reference for each in found) == ["first", "third"]
    assert +dropped == {"reference_too_short": 1, "duplicate": 1}


def test_choice_follows_the_hash_of_the_id_whatever_the_order():
    made = [item(str(number)) for number in range(50)]
    expected = sorted((each.id for each in made), key=digest)[:7]
    for order in (made, made[::-1]):
        dropped: Counter[str] = Counter()
        found = items.candidates(order, 1, 7, dropped)
        chosen = items.choose(found, set(), 7, dropped)
        assert [each.id for each in chosen] == expected
        assert len(chosen) + sum(dropped.values()) == 50


def test_contaminated_items_are_replaced_by_the_next():
    made = items.candidates([item(str(n)) for n in range(9)], 1, 3, Counter())
    dropped: Counter[str] = Counter()
    chosen = items.choose(made, {made[0].id, made[8].id}, 3, dropped)
    assert chosen == made[1:4]
    assert dropped == {"contaminated": 2, "surplus": 4}


def test_candidates_are_bounded():
    dropped: Counter[str] = Counter()
    made = (item(str(number)) for number in range(100))
    assert len(items.candidates(made, 1, 2, dropped)) == 2 * items.RESERVE
    assert dropped["surplus"] == 100 - 2 * items.RESERVE
