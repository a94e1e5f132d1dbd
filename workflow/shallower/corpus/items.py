"""Evaluation items, prompt and reference, out of documents, conversations and answers.

Each maker yields items in the order of its input and counts in `dropped` whatever
gives none, so that items and drops add up to what came in.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from shallower.corpus.documents import Document, clean, digest

HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
# Candidates checked for contamination, per item wanted: enough that few sets run dry,
# few enough that memory stays bounded when a million documents are held out.
RESERVE = 10

_WORD = re.compile(r"\S+")


class Item(NamedTuple):
    """One evaluation item; `id` is the document's, or the SHA-256 of the prompt."""

    id: str
    prompt: str
    reference: str
    group: str

    @property
    def text(self) -> str:
        """All of it, for comparison with other texts."""
        return f"{self.prompt} {self.reference}"


def completions(
    documents: Iterable[Document],
    prompt_words: int,
    reference_words: int,
    dropped: Counter[str],
) -> Iterator[Item]:
    """Cut each document's beginning into a prompt and what follows it.

    The spacing is the document's own; shorter documents are dropped as `too_short`.
    """
    for document in documents:
        ends = []
        for word in _WORD.finditer(document.text):
            ends.append(word.span())
            if len(ends) == prompt_words + reference_words:
                break
        else:
            dropped["too_short"] += 1
            continue
        prompt = document.text[: ends[prompt_words - 1][1]]
        reference = document.text[ends[prompt_words][0] : ends[-1][1]]
        yield Item(document.id, prompt, reference, document.domain)


def replies(rows: Iterable[Mapping[str, str]], dropped: Counter[str]) -> Iterator[Item]:
    """The last answer of each conversation, prompted by everything before it.

    Conversations without an answer are dropped as `unanswered`, those that do not
    begin with the human as `malformed`.
    """
    for row in rows:
        conversation = "\n\n" + clean(row["conversation"]).lstrip()
        before, marker, answer = conversation.rpartition(ASSISTANT)
        # What the human said last has no answer; it is not part of the reference.
        answer = answer.partition(HUMAN)[0].strip()
        prompt = before + marker
        if not answer:
            dropped["unanswered"] += 1
        elif not prompt.startswith(HUMAN):
            dropped["malformed"] += 1
        else:
            group = clean(row["group"], collapse=True)
            yield Item(digest(prompt), prompt, answer, group)


class Answer(NamedTuple):
    """A candidate sentence for a question, as in WikiQA."""

    question: str
    sentence: str
    correct: bool
    group: str


def wikiqa(rows: Iterable[Mapping[str, str]]) -> Iterator[Answer]:
    """WikiQA's rows; the group is the document's title."""
    for row in rows:
        question = clean(row["question"], collapse=True)
        sentence = clean(row["sentence"], collapse=True)
        title = clean(row["title"], collapse=True)
        yield Answer(question, sentence, row["label"] == "1", title)


def questions(documents: Iterable[Document], dropped: Counter[str]) -> Iterator[Answer]:
    """WikiQA-shaped rows about titles: the first sentence of a lead defines its title.

    The questions are templated. Documents without a title are dropped as `untitled`.
    """
    for document in documents:
        if not document.title:
            dropped["untitled"] += 1
            continue
        what = "who was" if document.domain == "People" else "what is"
        question = f"{what} {document.title}?"
        for number, sentence in enumerate(
            sentences(clean(document.text, collapse=True))
        ):
            yield Answer(question, sentence, number == 0, document.domain)


def answers(rows: Iterable[Answer], dropped: Counter[str]) -> Iterator[Item]:
    """Each question with its first correct sentence.

    Questions without a correct sentence are dropped as `unanswered`.
    """
    found: dict[str, Item | None] = {}
    for question, sentence, correct, group in rows:
        if found.get(question) is None:
            item = Item(digest(question), question, sentence, group)
            found[question] = item if correct else None
    for known in found.values():
        if known is None:
            dropped["unanswered"] += 1
        else:
            yield known


def candidates(
    items: Iterable[Item], minimum_characters: int, limit: int, dropped: Counter[str]
) -> list[Item]:
    """Order items by a hash of their ids and keep enough to choose `limit` of them.

    Short references are dropped as `reference_too_short`, all but the first item of
    a prompt as `duplicate`, those beyond what can be needed as `surplus`.
    """
    by_prompt: dict[str, Item] = {}
    for item in items:
        if len(item.reference) < minimum_characters:
            dropped["reference_too_short"] += 1
        elif item.prompt in by_prompt:
            dropped["duplicate"] += 1
        else:
            by_prompt[item.prompt] = item
    ordered = sorted(by_prompt.values(), key=lambda item: (digest(item.id), item.id))
    kept = ordered[: limit * RESERVE]
    dropped["surplus"] += len(ordered) - len(kept)
    return kept


def choose(
    items: list[Item], contaminated: set[str], limit: int, dropped: Counter[str]
) -> list[Item]:
    """The first `limit` candidates whose id is not `contaminated`."""
    clean_items = [item for item in items if item.id not in contaminated]
    dropped["contaminated"] += len(items) - len(clean_items)
    dropped["surplus"] += max(0, len(clean_items) - limit)
    return clean_items[:limit]


# --- sentences ------------------------------------------------------------------------

# An end mark, closing quotes or brackets, and white space.
_BOUNDARY = re.compile(r"[.!?][\"'”’)\]]*(\s+)")
_FIRST_LETTER = re.compile(r"[\"'“‘(\[]*([^\W_])")
# The text before a full stop, back to white space or an opening bracket.
_LAST_WORD = re.compile(r"[^\s(\[\"'“‘]+$")
_INITIALS = re.compile(r"(?:[^\W\d_]\.)*[^\W\d_]")  # "U.S", "e.g", "J"
_TITLE = re.compile(
    r"dr|mrs?|ms|prof|st|sr|sen|rep|gov|gen|col|lt|capt|maj|sgt|cmdr|rev|hon|mt|ft|fr"
    r"|messrs|vs|approx|ca|cf|viz|eds?|trans",
    re.IGNORECASE,
)
_NUMBERED = re.compile(r"nos?|vol|pp|fig|eq|op", re.IGNORECASE)  # "No. 5"
_SHORTENED = re.compile(
    r"jr|inc|ltd|co|corp|bros|etc|dept|univ|assn|ph\.d"
    r"|jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec",
    re.IGNORECASE,
)
# After an abbreviation that may end a sentence, these words mean that it did.
_STARTER = re.compile(
    r"[^\w]*(?:the|its?|he|his|she|her|they|their|this|these|that|those|in|on|at|from"
    r"|since|after|although|as|an|and|but|by|during|for|however|when|while|with|many"
    r"|most|some|other|one|two|there)\b",
    re.IGNORECASE,
)


def sentences(text: str) -> list[str]:
    """Split prose into sentences; abbreviations and initials do not end one."""
    found, start = [], 0
    for match in _BOUNDARY.finditer(text):
        first = _FIRST_LETTER.match(text, match.end())
        if not first or first[1].islower():
            continue
        if text[match.start()] == "." and not _ends(text, match.start(), match.end()):
            continue
        found.append(text[start : match.start(1)].strip())
        start = match.end()
    found.append(text[start:].strip())
    return [sentence for sentence in found if sentence]


def _ends(text: str, stop: int, following: int) -> bool:
    """Whether the full stop at `stop` ends a sentence, and not only a word."""
    last = _LAST_WORD.search(text, max(0, stop - 40), stop)
    word = last.group() if last else ""
    if _TITLE.fullmatch(word):
        return False
    if _NUMBERED.fullmatch(word):
        return not text[following].isdigit()
    if _INITIALS.fullmatch(word) or _SHORTENED.fullmatch(word):
        return bool(_STARTER.match(text, following))
    return True
