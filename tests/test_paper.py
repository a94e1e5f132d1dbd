"""The paper's text, whatever a study has: the abstract's length, no holes, no zeros.

LaTeX is not run: the few commands that choose text are expanded here, as
`shallower.sty` defines them.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from made_up import HEADS, MadeUp, all_systems, default_configuration, grid, study_of
from made_up_checkpoints import MadeUpCheckpoints, study_of_checkpoints
from project import ROOT
from shallower.analysis.results import Results
from shallower.analysis.write import write_analysis
from shallower.reporting.latex import MISSING
from shallower.reporting.numbers import all_numbers

REPORT = ROOT / "report"
CHOOSING = re.compile(r"\\(result|resultcount|ifresult|input|generatedtable)\b")
ARGUMENTS = {"result": 1, "resultcount": 3, "ifresult": 3}
WORDS, NUMERALS = 150, 12  # of an abstract, at most
WRONG = {  # what must not be in the text of any study
    "a dash for a number": re.escape(MISSING),
    "no number": r"\bnan\b|\bNone\b|\binf\b",
    "none": r"\bnone\b",
    "nothing counted": r"(?<![\d.,}])0~?[ ~](models?|blocks?|seeds?|sessions?|pairs?|"
    r"documents?|runs?|rows?|tokens?|gates?|budgets?|claims?|layers?)\b",
    "an unknown reference": r"\?\?",
    "an empty unit": r"(?<![\d}$)])~(nats|\\unit)",
    "an empty place": r"\( *\)|[\w%}] \.(?!\d)|``''| ,|\(,| ;|: *\.(?!\d)|\.\.(?!\.)",
    "a word twice": r"\b(the|of|and|is|a|with|by) \1\b",
    "the same verdict as a noun": r"not supported none|no claims? none",
}


def expanded(text: str, numbers: dict[str, str]) -> str:
    """LaTeX with everything chosen and looked up; tables are left out."""
    found, position = "", 0
    while start := CHOOSING.search(text, position):
        found += text[position : start.start()]
        command = start[1]
        arguments, position = taken(text, start.end(), ARGUMENTS.get(command, 1))
        key = arguments[0]
        if command == "result":
            found += numbers[key]
        elif command == "resultcount":
            one = numbers[key] == "1"
            found += f"{numbers[key]}~{expanded(arguments[1 if one else 2], numbers)}"
        elif command == "ifresult":
            there = numbers[key] not in ("", MISSING)
            found += expanded(arguments[1 if there else 2], numbers)
        elif key.startswith("sections/") and "architecture" not in key:
            found += expanded(defined(source(f"{key}.tex")), numbers)
    return found + text[position:]


def source(name: str) -> str:
    """A file of the report without comments."""
    return re.sub(r"(?<!\\)%.*\n?", "", (REPORT / name).read_text(encoding="utf-8"))


def defined(text: str) -> str:
    """Its own commands without arguments, where they are used."""
    while new := re.search(r"\\newcommand\{(\\\w+)\}", text):
        (meaning,), end = taken(text, new.end(), 1)
        text = (text[: new.start()] + text[end:]).replace(new[1], meaning)
    return text


def taken(text: str, position: int, count: int) -> tuple[list[str], int]:
    """So many arguments in braces, and where the text goes on."""
    arguments = []
    for _ in range(count):
        begin = text.index("{", position) + 1
        assert not text[position : begin - 1].strip(), text[position:begin]
        depth, position = 1, begin
        while depth:
            depth += {"{": 1, "}": -1}.get(text[position], 0)
            position += 2 if text[position] == "\\" else 1
        arguments.append(text[begin : position - 1])
    return arguments, position


def body(numbers: dict[str, str]) -> str:
    """The expanded document, without its preamble."""
    document = source("paper.tex").partition(r"\begin{document}")[2]
    return expanded(document, numbers)


def abstract(numbers: dict[str, str]) -> str:
    text = (REPORT / "sections" / "front.tex").read_text(encoding="utf-8")
    text = text.partition("% begin abstract\n")[2].partition("% end abstract")[0]
    text = expanded(re.sub(r"(?<!\\)%.*\n?", "", text), numbers)
    text = text.replace("$-$", "-").replace("~", " ").replace(r"\,", " ")
    text = re.sub(r"\{,\}|\{-\}", ",", text)
    return " ".join(re.sub(r"\\([%&\\ ])|\\[a-z]+\{?|[{}]", r"\1 ", text).split())


# --- studies that have and have not ---------------------------------------------------


def analysed_of(made: MadeUp) -> Results:
    made.results()
    write_analysis(made.folder)
    return Results.read(made.folder)


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """All systems, with a checkpoint that skipping and elimination act on."""
    study = study_of_checkpoints("small-1.5b", beside=all_systems())
    return analysed_of(MadeUpCheckpoints(study, tmp_path_factory.mktemp("beside")))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """A checkpoint alone: nothing is trained."""
    study = study_of_checkpoints("small-1.5b")
    return analysed_of(MadeUpCheckpoints(study, tmp_path_factory.mktemp("alone")))


@pytest.fixture(scope="module")
def lonely(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """All systems with a single seed and a single session."""
    made = MadeUp(all_systems(), tmp_path_factory.mktemp("lonely"))
    made.first_units()
    return analysed_of(made)


@pytest.fixture(scope="module")
def without_s2(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Neither FFNs, nor teachers, nor T5, nor any checkpoint."""
    whole = default_configuration()
    study = study_of(whole)
    return analysed_of(MadeUp(study, tmp_path_factory.mktemp("without_s2")))


@pytest.fixture(scope="module")
def without_head(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """A search over learning rates, and no head variants beside the proposed one."""
    search = {"learning_rate": HEADS["learning_rate"]}
    study = study_of(default_configuration(), **search)
    made = analysed_of(MadeUp(study, tmp_path_factory.mktemp("without_head")))
    assert len(made.learning_rates)
    return made


@pytest.fixture(scope="module")
def ffns_alone(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """FFNs and a student, a registered contrast of them, and a search of theirs."""
    parts = {
        "ffn": [grid("none one_matrix three_matrices", 4)],
        "distillation": [grid("one_matrix", 4, teacher=["baseline-4"])],
        "learning_rate": [grid("none", 4, seeds=[7, 8], lr=[1e-3, 3e-3, 9e-3])],
    }
    sides = {"left": "one_matrix-4", "right": "none-4", "test": "superiority"}
    study = study_of(default_configuration(), [{"id": "one", **sides}], **parts)
    made = analysed_of(MadeUp(study, tmp_path_factory.mktemp("ffns_alone")))
    assert len(made.learning_rates)
    return made


@pytest.fixture(scope="module")
def t5_alone(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """T5 with a search, no decoder with another FFN, and a learning rate of its own."""
    mini: dict = {"sizes": ["mini"]}
    parts = {
        "budget": [grid("baseline proposed", 2, steps=[50], width=[64], lr=[1e-3])],
        "learning_rate": [grid("baseline", 4, seeds=[7], lr=[1e-3, 3e-3, 9e-3])],
        "t5": [mini | {"options": {"ffn": ["default", "none", "three_matrices"]}}],
        "t5_learning_rate": [mini | {"options": {"lr": [5e-3, 1e-2], "steps": [50]}}],
    }
    configuration = default_configuration()
    overrides = {"t5_mini-2__ffn=none": {"learning_rate": 5e-3}}
    training = configuration["training"] | {"overrides": overrides}
    study = study_of(configuration | {"training": training}, **parts)
    made = MadeUp(study, tmp_path_factory.mktemp("t5_alone"))
    for rule, right in (("bag_of_words", 0.6), ("majority", 0.5)):
        made.put(rule, "pairs", "accuracy", [right])
    return analysed_of(made)


STUDIES = ["analysed", "bare", "beside", "checkpoint", "lonely"]
STUDIES += ["without_s2", "without_head", "ffns_alone", "t5_alone"]


@pytest.fixture(params=STUDIES)
def numbers(request: pytest.FixtureRequest) -> dict[str, str]:
    """The numbers of a study's text, by key."""
    return all_numbers(request.getfixturevalue(request.param))


# --- tests ----------------------------------------------------------------------------


def test_no_study_breaks_a_sentence(numbers: dict[str, str]) -> None:
    text = body(numbers)
    assert len(text.split()) > 3000
    found = [
        f"{what}: ...{text[max(0, hit.start() - 70) : hit.end() + 30]!r}..."
        for what, pattern in WRONG.items()
        for hit in re.finditer(pattern, text)
    ]
    assert not found, "\n".join(found)


def test_what_is_referred_to_is_there(numbers: dict[str, str]) -> None:
    """No `??`: a study without an experiment has no section and no table on it."""
    text = body(numbers)
    asked = {
        label
        for labels in re.findall(r"\\[cC]?ref\{([^}]+)\}", text)
        for label in labels.split(",")
    }
    there = re.findall(r"\\label\{([^}]+)\}|\}\{((?:fig|tab):\w+)\}", text)
    there = ["".join(pair) for pair in there]
    assert asked - set(there) == set()
    # In the columns of the text, LaTeX drops floats that are as wide as a column.
    assert not re.findall(r"\\begin\{(?:figure|table)\}", text)
    assert len(set(there)) == len(there)
    assert len(asked) > 20


def test_the_abstract_is_short(numbers: dict[str, str]) -> None:
    text = abstract(numbers)
    assert len(text.split()) <= WORDS, (len(text.split()), text)
    numerals = re.findall(r"\d+(?:[.,]\d+)*", text)
    assert len(numerals) <= NUMERALS, (numerals, text)
    assert "\\" not in text, text


def test_the_first_sentence_is_what_follows_from_the_layer(analysed: Results) -> None:
    text = abstract(all_numbers(analysed))
    first = text.partition(". ")[0] if "et al. " not in text else text[:400]
    for words in ("folds into the value projection", "fewer blocks", "quality"):
        assert words in first
    known = {"C6": ("supported", "not supported")}
    verdict = analysed.claims.set_index("id").loc["C6", "verdict"]
    assert ("is not known" in first) == (verdict not in known["C6"])


def test_closed_gates_are_the_second_sentence(analysed: Results) -> None:
    said = "All 3 models predict no better than a bigram, so 9 claims are not tested."
    text = abstract(all_numbers(analysed) | {"gates.sentence": said})
    before = text.partition(said)[0]
    assert said in text
    assert before.replace("et al.", "").count(". ") == 1


def test_a_study_of_ffns_says_so(ffns_alone: Results) -> None:
    """Its abstract is about them, and its search is not denied."""
    numbers = all_numbers(ffns_alone)
    claims = ffns_alone.claims.set_index("id")["verdict"]
    said = abstract(numbers)
    for claim, words in (
        ("S2-3", "Without feed-forward layers quality is lost"),
        ("S2-6", "a teacher helps, at equal tokens"),
    ):
        assert re.search(rf"{words}'' is \W*{claims[claim]}", said), said
    assert "does not search over" not in body(numbers)


def test_a_study_of_t5_tells_its_gaps(t5_alone: Results) -> None:
    """What it is at, a floor, a difference; and no claim on what it does not have."""
    numbers = all_numbers(t5_alone)
    text = " ".join(body(numbers).split())
    level = t5_alone.values("t5_mini-2", "spans", "cross_entropy").mean()
    assert f"cross-entropy of {numbers['t5.denoising']}~nats in the gaps" in text
    assert numbers["t5.denoising"] == f"{level:.3f}"
    verdict = t5_alone.claims.set_index("id").loc["S2-10b", "verdict"]
    assert f"(S2-10b: {verdict})" in text
    assert "Three matrices differ from one by" not in text
    assert "0.005 for T5 mini no FFN" in text.replace("~", " ")


def test_contrasts_with_long_names_have_a_page_of_width(tmp_path: Path) -> None:
    """Beside the figure of heads, or below it; in either case there is one table."""
    wide = [grid("baseline proposed", 4, steps=[50], width=[64])]
    parts = {"head": [grid("baseline proposed silu", 4)], "budget": wide}
    ends = "-4__steps=50__width=64"
    for left, right, long in (
        ("silu-4", "baseline-4", False),
        (f"proposed{ends}", f"baseline{ends}", True),
    ):
        one = {"id": "one", "left": left, "right": right, "test": "superiority"}
        study = study_of(default_configuration(), [one], **parts)
        made = analysed_of(MadeUp(study, tmp_path / str(long)))
        text = body(all_numbers(made))
        table = r"\label{tab:contrasts}"
        after = text.partition("fig:head_ablation}")[2]
        figure = re.split(r"\\end\{(?:figure\*|columntable)\}", after)[0]
        assert (table in figure) == (not long)
        assert text.count(r"\label{fig:head_ablation}") == 1
        assert text.count(table) == 1


def test_a_dash_is_found() -> None:
    """The check of the checks: each pattern finds what it is for."""
    for what, text in {
        "a dash for a number": "is {--}~nats",
        "none": "supports none",
        "nothing counted": "of 0~models",
        "an unknown reference": "Table ??",
        "a word twice": "that the the",
        "an empty place": "is ( ) here",
    }.items():
        assert re.search(WRONG[what], text), what
    assert not re.search(WRONG["nothing counted"], "1.0 seeds, 20 runs, 10~models")


def test_commands_are_expanded() -> None:
    numbers = {"a": "1", "b": MISSING, "c": "x_{1}"}
    text = r"\result{a} \resultcount{a}{seed}{seeds}\ifresult{b}{no}{, \result{c}}."
    assert expanded(text, numbers) == "1 1~seed, x_{1}."


def test_every_figure_and_table_is_shown_once() -> None:
    from shallower.reporting.contents import FIGURES, TABLES

    text = "\n".join(
        source(f"sections/{path.name}") for path in (REPORT / "sections").glob("*.tex")
    )
    for names, command, label, suffix in (
        (FIGURES, r"\\(?:includegraphics|sidefigure)\{figures/", "fig", ".pdf"),
        (TABLES, r"\\generatedtable\{tables/", "tab", ".tex"),
    ):
        shown = re.findall(rf"{command}(\w+){re.escape(suffix)}\}}", text)
        assert sorted(shown) == sorted(names)
        for name in names:
            marked = rf"\\label\{{{label}:{name}\}}|\}}\{{{label}:{name}\}}"
            assert len(re.findall(marked, text)) == 1, name
    assert Path(REPORT / "sections" / "architecture.tex").is_file()
