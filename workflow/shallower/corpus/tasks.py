"""Tasks that need the whole prompt, made from held-out documents.

An item is a prompt with several choices; whoever scores it compares the likelihoods of
the choices behind the prompt. Chance is 1 / number of choices. Each item has a control:
the prompt without what answers it, in which nothing favours a choice.

`recall`: who lives where? Sentences of this kind are put between those of a document,
and one is asked for at the end. `reading`: four articles, and a sentence of one: which
article has it? `choice`: which sentence comes next? `last_word`: a passage without its
last word, which it has had before (as in LAMBADA, Paperno et al. 2016).
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator
from itertools import accumulate
from random import Random
from typing import NamedTuple

import pandas as pd

from shallower.corpus.documents import clean, digest
from shallower.corpus.items import sentences
from shallower.corpus.settings import TaskSettings
from shallower.errors import UserError
from shallower.randomness import derive

TASKS = ("recall", "reading", "choice", "last_word")
DEPTHS = ("start", "middle", "end")  # of what is recalled, in thirds of the prompt
CONTINUATION = 12  # words of a choice's sentence
CONTEXT = 8  # words of the prompt that the control of `choice` has
SHORTEST = 0.75  # of `prompt_words`, for a passage
TRIES = 50  # for an item wanted, until it is an error

# What is recalled: nobody's own, so that no model knows it. Names and values of one
# word, none of which is in another's sentence.
NAMES = (
    *("Amelia", "Bertram", "Cecilia", "Dorothea", "Edwin", "Felicity", "Gideon"),
    *("Harriet", "Ignatius", "Josephine", "Leopold", "Matilda", "Nathaniel", "Ophelia"),
    *("Percival", "Rosalind", "Sebastian", "Theodora", "Ulysses", "Winifred"),
)
FACTS = {
    "lives in": (
        *("Lisbon", "Oslo", "Vienna", "Nairobi", "Toronto", "Athens", "Dublin"),
        *("Prague", "Lima", "Warsaw"),
    ),
    "plays the": (
        *("piano", "violin", "trumpet", "guitar", "flute", "harp", "cello", "banjo"),
        *("clarinet", "organ"),
    ),
    "works as a": (
        *("baker", "painter", "sailor", "lawyer", "teacher", "nurse", "farmer"),
        *("carpenter", "butcher", "plumber"),
    ),
    "has a pet": (
        *("rabbit", "parrot", "turtle", "hamster", "snake", "goat", "lizard", "pigeon"),
        *("monkey", "donkey"),
    ),
}

_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_ENDING = re.compile(r"(.*\s)([^\W\d_]{5,})[.!?]", re.DOTALL)
# Of five letters and more; they end many sentences, whatever was said before.
_COMMON = (
    "about above after again against almost always among another because become "
    "before being below between cannot could doing during either every further "
    "having however itself might myself neither never nothing often other others "
    "ought ourselves quite rather really shall should since still their theirs "
    "themselves there therefore these those though through today together under "
    "until whatever where whether which while whose within without would years "
    "yourself"
)


class _Text(NamedTuple):
    """A document as sentences."""

    id: str
    domain: str
    title: str
    sentences: list[str]

    @property
    def words(self) -> int:
        return sum(map(_words, self.sentences))


class _Made(NamedTuple):
    """An item before its choices are put into an order: the first is right."""

    group: str
    document: str
    prompt: str
    choices: list[str]
    control: str


_Maker = Callable[[_Text, list[_Text], int, TaskSettings, Random], _Made | None]


def make_tasks(documents: pd.DataFrame, settings: TaskSettings) -> pd.DataFrame:
    """Items of all tasks, `settings.items` of each, the same whatever the rows' order.

    `documents` has `id, text, domain, title`, as the splits of the corpus have. The
    columns: `id, task, group` (recall: where in the prompt; else the domain),
    `document` (the id of the source document), `prompt, choices` (list of str),
    `answer` (index of the right one), `control`. A choice begins with a space: what is
    scored is prompt + choice.
    Each place among the choices is right as often as any other, up to one item.
    Raises UserError if the documents do not give as many items.
    """
    texts = [
        _Text(row.id, row.domain, row.title, sentences(clean(row.text, collapse=True)))
        for row in documents.itertuples()
    ]
    rows = [
        {"id": f"{task}-{number}", "task": task, **row}
        for task in TASKS
        for number, row in enumerate(_items(task, texts, settings))
    ]
    columns = ("id", "task", "group", "document", "prompt", "choices", "answer")
    return pd.DataFrame(rows, columns=[*columns, "control"])


def _items(
    task: str, texts: list[_Text], settings: TaskSettings
) -> Iterator[dict[str, object]]:
    """A task's items; documents take turns, in the order of a hash."""
    purpose = f"task {task}"
    ordered = sorted(texts, key=lambda text: digest(f"{settings.seed} {text.id}"))
    usable = [text for text in ordered if _USABLE[task](text, settings)]
    places = _places(settings, purpose)
    made, prompts, attempt = 0, set[str](), 0
    while made < settings.items:
        if attempt == TRIES * settings.items or not usable:
            raise UserError(
                f"tasks: {task}: {made} items of {len(usable)} usable documents out of "
                f"{len(texts)}, expected {settings.items}"
            )
        draw = Random(derive(settings.seed, f"{purpose} {attempt}"))
        text = usable[attempt % len(usable)]
        item = _MAKERS[task](text, usable, made, settings, draw)
        attempt += 1
        if item is None or item.prompt in prompts:
            continue
        prompts.add(item.prompt)
        right, *wrong = (f" {choice}" for choice in item.choices)
        place = places[made]
        yield {
            "group": item.group,
            "document": item.document,
            "prompt": item.prompt,
            "choices": [*wrong[:place], right, *wrong[place:]],
            "answer": place,
            "control": item.control,
        }
        made += 1


def _places(settings: TaskSettings, purpose: str) -> list[int]:
    """Where the right choice is, by item: every place as often, in a random order."""
    places = [number % settings.choices for number in range(settings.items)]
    Random(derive(settings.seed, f"{purpose} places")).shuffle(places)
    return places


# --- passages -------------------------------------------------------------------------


def _words(text: str) -> int:
    return len(text.split())


def _long(text: _Text, settings: TaskSettings) -> bool:
    return text.words >= SHORTEST * settings.prompt_words


def _passage(
    text: _Text, settings: TaskSettings, draw: Random
) -> tuple[int, int] | None:
    """First and last + 1 of consecutive sentences of `prompt_words` or a few fewer."""
    ends = [0, *accumulate(map(_words, text.sentences))]  # words before a sentence
    found = []
    for first, before in enumerate(ends):
        last = bisect_right(ends, before + settings.prompt_words) - 1
        if ends[last] - before >= SHORTEST * settings.prompt_words:
            found.append((first, last))
    return draw.choice(found) if found else None


def _vocabulary(text: str) -> set[str]:
    return {word.casefold() for word in _WORD.findall(text)}


# --- recall ---------------------------------------------------------------------------


def _recall(
    text: _Text,
    _: list[_Text],
    number: int,
    settings: TaskSettings,
    draw: Random,
) -> _Made | None:
    """As many facts as choices, of different people; one of them is asked for.

    The control says of somebody else what is asked for. It has the same values at the
    same places, so that only who belongs to which can tell.
    """
    found = _passage(text, settings, draw)
    if found is None:
        return None
    units = text.sentences[slice(*found)]
    verb = draw.choice(list(FACTS))
    known = _vocabulary(" ".join(units))
    names = [name for name in NAMES if name.casefold() not in known]
    values = [value for value in FACTS[verb] if value.casefold() not in known]
    if len(names) <= settings.choices or len(values) < settings.choices:
        return None
    asked, stranger, *others = draw.sample(names, settings.choices + 1)
    right, *wrong = draw.sample(values, settings.choices)
    for name, value in zip(others, wrong, strict=True):
        units.insert(draw.randint(0, len(units)), f"{name} {verb} {value}.")
    fact, depth = f"{asked} {verb} {right}.", number % len(DEPTHS)
    place = _place(units, (depth + 0.5) / len(DEPTHS))
    before = sum(map(_words, units[:place]))
    if int(len(DEPTHS) * before / sum(map(_words, units))) != depth:
        return None  # a sentence is longer than a third of the prompt

    def prompt(sentence: str) -> str:
        return " ".join([*units[:place], sentence, *units[place:], f"{asked} {verb}"])

    control = prompt(f"{stranger} {verb} {right}.")
    return _Made(DEPTHS[depth], text.id, prompt(fact), [right, *wrong], control)


def _place(units: list[str], share: float) -> int:
    """Before which unit a share of all words has come; not after the last one."""
    total, before, nearest = sum(map(_words, units)), 0, (2.0, 0)
    for place, unit in enumerate(units):
        nearest = min(nearest, (abs(before / total - share), place))
        before += _words(unit)
    return nearest[1]


# --- reading --------------------------------------------------------------------------


def _is_article(text: _Text, settings: TaskSettings) -> bool:
    """Whether its first sentence names its title, and another one does not."""
    if not text.title or len(text.sentences) < 2:
        return False
    named = text.title.casefold() in text.sentences[0].casefold()
    return named and _asked(text, settings) is not None


def _shown(text: _Text, settings: TaskSettings) -> list[str]:
    """The article's first sentences, its part of the prompt: two at least."""
    room, shown = settings.prompt_words / settings.choices, list[str]()
    for sentence in text.sentences:
        if len(shown) >= 2 and sum(map(_words, shown)) + _words(sentence) > room:
            break
        shown.append(sentence)
    return shown


def _asked(text: _Text, settings: TaskSettings) -> str | None:
    """The last sentence shown that has six words and none of the title."""
    title = _vocabulary(text.title)
    for sentence in reversed(_shown(text, settings)[1:]):
        if _words(sentence) >= 6 and not title & _vocabulary(sentence):
            return sentence
    return None


def _reading(
    text: _Text, texts: list[_Text], _: int, settings: TaskSettings, draw: Random
) -> _Made | None:
    """Articles under their titles, and a sentence of one, whose title is asked for.

    In the control another article is under this title: all titles stay, and none has
    the sentence.
    """
    asked, title = _asked(text, settings), text.title.casefold()
    others = [
        other
        for other in texts
        if other.domain == text.domain and other.title.casefold() != title
    ]
    if asked is None or len(others) < settings.choices:
        return None
    spare, *distractors = draw.sample(others, settings.choices)
    titles = [each.title for each in (text, *distractors)]
    whole = " ".join(" ".join(_shown(each, settings)) for each in (spare, *distractors))
    if len(set(titles)) < len(titles) or asked in whole or title in whole.casefold():
        return None
    order = draw.sample([text, *distractors], settings.choices)

    def prompt(under_the_title: _Text) -> str:
        bodies = [under_the_title if each is text else each for each in order]
        articles = [
            f"{heading.title}\n{' '.join(_shown(body, settings))}"
            for heading, body in zip(order, bodies, strict=True)
        ]
        question = f'"{asked}"\nThis sentence is from the article'
        return "\n\n".join([*articles, question])

    return _Made(text.domain, text.id, prompt(text), titles, prompt(spare))


# --- continuations --------------------------------------------------------------------


def _beginning(sentence: str) -> str:
    """A sentence's first words, as many as every choice has; '' if it has fewer."""
    words = sentence.split()
    return " ".join(words[:CONTINUATION]) if len(words) >= CONTINUATION else ""


def _choice(
    text: _Text, texts: list[_Text], _: int, settings: TaskSettings, draw: Random
) -> _Made | None:
    """The next sentence's beginning, or those of other documents of the domain.

    The control is the prompt's last words.
    """
    found = _passage(text, settings, draw)
    if found is None or found[1] == len(text.sentences):
        return None
    right = _beginning(text.sentences[found[1]])
    others = [each for each in texts if each.domain == text.domain and each is not text]
    wrong = set[str]()
    for other in draw.sample(others, len(others)):
        wrong.add(_beginning(draw.choice(other.sentences)))
        wrong -= {"", right}
        if len(wrong) == settings.choices - 1:
            break
    if not right or len(wrong) < settings.choices - 1:
        return None
    prompt = " ".join(text.sentences[slice(*found)])
    control = " ".join(prompt.split()[-CONTEXT:])
    return _Made(text.domain, text.id, prompt, [right, *sorted(wrong)], control)


# --- last words -----------------------------------------------------------------------


def _last_word(
    text: _Text, _texts: list[_Text], _: int, settings: TaskSettings, draw: Random
) -> _Made | None:
    """The passage's last word, or other words of it that are not in its last sentence.

    The control is the last sentence alone.
    """
    found = _passage(text, settings, draw)
    if found is None or found[1] - found[0] < 2:
        return None
    *before, last = text.sentences[slice(*found)]
    ending = _ENDING.fullmatch(last)
    if ending is None:
        return None
    start, right = ending[1].rstrip(), ending[2]
    earlier = " ".join(before)
    common = _COMMON.split()
    words = {
        word
        for word in _WORD.findall(earlier)
        if len(word) >= 5 and word.islower() and word not in common
    } - _vocabulary(start)
    if right not in words or len(words) < settings.choices:
        return None
    wrong = draw.sample(sorted(words - {right}), settings.choices - 1)
    return _Made(text.domain, text.id, f"{earlier} {start}", [right, *wrong], start)


_MAKERS: dict[str, _Maker] = {
    "recall": _recall,
    "reading": _reading,
    "choice": _choice,
    "last_word": _last_word,
}
_USABLE: dict[str, Callable[[_Text, TaskSettings], bool]] = {
    "recall": _long,
    "reading": _is_article,
    "choice": _long,
    "last_word": _long,
}
