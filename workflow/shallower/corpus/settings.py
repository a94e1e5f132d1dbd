"""What the corpus stage is told: sources, and the three evaluation sets."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    TypeAdapter,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
)

from shallower.corpus import EVALUATION_SETS
from shallower.strict import Int, Line, Sha256, Strict, Words

# What a source's records are: texts, hh-rlhf's dialogues, WikiQA's candidates, or two
# sentences with a label, as in MNLI.
Kind = Literal["documents", "conversations", "answers", "pairs"]
# Owner and name; neither begins with a dot or a dash, so that neither is a path.
Repository = Annotated[str, Field(pattern=r"^\w[\w.-]*(/\w[\w.-]*)?$")]
Domain = Annotated[str, Field(pattern=r"^[\w-]+$")]


class PackageFile(Strict):
    """One file of an installed Python package; read as a file."""

    name: Line  # of the installed package
    version: Line
    file: Line  # path inside the package
    sha256: Sha256 | None = None


class PackageSource(Strict):
    """Data that arrives with an installed Python package; read as a file."""

    source: Literal["package"]
    name: Line  # of the installed package
    version: Line
    file: Line  # path or glob inside the package
    sha256: Sha256 | None = (
        None  # of the file, or of the matched files' digests in order
    )
    layout: Literal["wikipedia_summaries", "speeches", "chatterbot"]
    domain: Domain | None = None  # of all documents, in place of the layout's own
    licence: Words
    limit: Int | None = Field(None, ge=1)  # records read at most


class FilesSource(Strict):
    """Local files; `columns` maps our column names to the files' own."""

    source: Literal["files"]
    name: Words | None = None  # in the paper; else the files' names
    paths: list[Line] = Field(min_length=1)  # files, folders or patterns
    format: Literal["auto", "text", "jsonl", "parquet", "csv", "tsv"] = "auto"
    # Plain text is cut into documents of at least so many characters, at blank lines;
    # null: a file is one document, and its name the title.
    cut: Int | None = Field(2000, ge=100)
    columns: dict[Line, Line] = {}
    domain: Domain | None = None  # of all documents, in place of the column
    licence: Words = "not stated"
    limit: Int | None = Field(None, ge=1)


class HubSource(Strict):
    """A data set on the Hugging Face hub, downloaded once at a locked revision."""

    source: Literal["hub"]
    repository: Repository
    configuration: Line | None = None
    split: Line = "train"
    revision: Line | None = None  # branch, tag or commit; the lock has the commit
    columns: dict[Line, Line] = {}
    domain: Domain | None = None  # of all documents, in place of the column
    licence: Words = "not stated"
    limit: Int | None = Field(None, ge=1)  # the first ones


class HeldOutText(Strict):
    """An evaluation set cut from the text corpus' own held-out documents."""

    source: Literal["text"]


KINDS: dict[str, type[Strict]] = {
    "package": PackageSource,
    "files": FilesSource,
    "hub": HubSource,
    "text": HeldOutText,
}


def _only_the_chosen_kind(section: Any) -> Any:
    """From `{source: files, files: {...}, package: {...}}` to the chosen kind's keys.

    Each kind has a section of its own, so that an overlay which changes the kind does
    not inherit another kind's licence or limit. The default study's data come from
    packages: their section stays behind when an overlay chooses another kind. Raises
    ValueError for any other section that is not the chosen kind's.
    """
    if not isinstance(section, dict) or not _has_kind(section):
        return section
    own, others = _chosen(section)
    # A rule passes the keys on without the section, which a person may do as well.
    return others | (own if isinstance(own, dict) else {})


def _has_kind(section: dict[str, Any]) -> bool:
    kind = section.get("source")
    return isinstance(kind, str) and kind in KINDS


def _chosen(section: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The chosen kind's section, and the keys beside the kinds' sections."""
    kind = section["source"]
    for other in KINDS:
        if other in section and other not in (kind, "package"):
            raise ValueError(
                f"{other} is given, but source is {kind}; set `source: {other}` or "
                f"delete the section {other}"
            )
    if kind != "package":
        _check_left_behind(section.get("package", []))
    others = {key: v for key, v in section.items() if key not in KINDS}
    return section.get(kind), others


def _check_left_behind(section: Any) -> None:
    """What is not used is still a section of packages: nothing goes unread."""
    for number, each in enumerate(section if isinstance(section, list) else [section]):
        place = f"package.{number}" if isinstance(section, list) else "package"
        if not isinstance(each, dict):
            raise ValueError(f"{place}: expected a section")
        try:
            PackageSource.model_validate({"source": "package"} | each)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, (place, *first["loc"])))
            raise ValueError(f"{where}: {first['msg']}") from None


DocumentSource = Annotated[
    PackageSource | FilesSource | HubSource,
    Field(discriminator="source"),
    BeforeValidator(_only_the_chosen_kind),
]
_ONE: TypeAdapter[PackageSource | FilesSource | HubSource] = TypeAdapter(DocumentSource)


def _one_or_more(section: Any, several: ValidatorFunctionWrapHandler) -> Any:
    """The sources of the text: the chosen kind's section is a mapping or a list."""
    if isinstance(section, list):
        return several(section)
    if isinstance(section, dict) and _has_kind(section):
        own, others = _chosen(section)
        if isinstance(own, list):
            return several([others | {section["source"]: each} for each in own])
    return [_ONE.validate_python(section)]


DocumentSources = Annotated[
    list[DocumentSource], Field(min_length=1), WrapValidator(_one_or_more)
]
EvaluationSource = Annotated[
    PackageSource | FilesSource | HubSource | HeldOutText,
    Field(discriminator="source"),
    BeforeValidator(_only_the_chosen_kind),
]


class EvaluationSet(Strict):
    """Prompts with references; the shape is given by the set's name."""

    data: EvaluationSource
    items: Int = Field(100, ge=1)  # kept at most, chosen by a hash of their id
    minimum_reference_characters: Int = Field(1, ge=1)


class CompletionSet(EvaluationSet):
    """Sentence completion: prompt and reference from the start of one document."""

    prompt_words: Int = Field(32, ge=1)
    reference_words: Int = Field(24, ge=1)


# --- pairs of sentences ---------------------------------------------------------------

PairSource = Annotated[
    FilesSource | HubSource,
    Field(discriminator="source"),
    BeforeValidator(_only_the_chosen_kind),
]


class ArticlePairs(Strict):
    """Are two sentences from one article? Cut from the text corpus' own splits."""

    source: Literal["text"]

    @property
    def labels(self) -> int:
        """0 if they are from two, 1 if they are from one."""
        return 2


class LabelledPairs(Strict):
    """Pairs that come with their labels, a source a split: GLUE's MNLI has three."""

    source: Literal["labelled"]
    labels: Int = Field(3, ge=2, le=1000)
    train: PairSource
    validation: PairSource
    test: PairSource


class Pairs(Strict):
    """The pairs of sentences that an encoder-decoder is fine-tuned on and scored by."""

    data: ArticlePairs | LabelledPairs = Field(discriminator="source")
    without: list[Line] = []  # domains of the text whose documents give none
    # Kept at most, chosen by a hash.
    training_pairs: Int | None = Field(None, ge=4)
    held_out_pairs: Int | None = Field(None, ge=4)


class TaskSettings(Strict):
    """Tasks that need the whole prompt: how many items of each, how long they are."""

    items: Int = Field(40, ge=1)  # of each task
    prompt_words: Int = Field(200, ge=20)  # about, without the question
    choices: Int = Field(4, ge=2, le=10)
    seed: Int = Field(0, ge=0)


# --- all of it ------------------------------------------------------------------------


class Corpus(Strict):
    """The text models are trained on, and the three evaluation sets."""

    text: DocumentSources
    test: DocumentSource | None = None  # the test split; else one part in 20 of `text`
    # Kept at most in each split that is held out, by a hash; the others train.
    held_out_documents: Int | None = Field(None, ge=1)
    minimum_characters: Int = Field(60, ge=1)
    # A set that is null, or that cannot be made, is left out of the study.
    completion: CompletionSet | None
    chat: EvaluationSet | None
    qa: EvaluationSet | None
    # What an encoder-decoder is fine-tuned on; made from the text, or read.
    pairs: Pairs | None = None

    @property
    def sets(self) -> dict[str, EvaluationSet]:
        """The evaluation sets that the study has, by name."""
        given = {name: getattr(self, name) for name in EVALUATION_SETS}
        return {name: each for name, each in given.items() if each is not None}

    @field_validator("text")
    @classmethod
    def _told_apart(
        cls, text: list[PackageSource | FilesSource | HubSource]
    ) -> list[PackageSource | FilesSource | HubSource]:
        domains = [source.domain for source in text]
        for number, domain in enumerate(domains[1:], start=1):
            if domain is None:
                raise ValueError(f"{number}.domain: missing, this is no first source")
            if domain in domains[:number]:
                raise ValueError(f"{number}.domain: {domain} is another source's")
        return text
