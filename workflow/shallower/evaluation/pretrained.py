"""All quality measurements of a pretrained checkpoint and of interventions on it.

Text is scored in the checkpoint's own tokens. A window is the beginning of one held-out
document, so that documents are the replicates, and no prompt holds anything that has
nothing to do with what follows it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor

from shallower import machine
from shallower.code import commit
from shallower.corpus.tasks import make_tasks
from shallower.errors import UserError
from shallower.evaluation.choices import calibrate, choose, description
from shallower.evaluation.cross_entropy import losses_of_choices
from shallower.evaluation.evaluate import metric_rows
from shallower.evaluation.generation import encode_prompt, generate_all
from shallower.evaluation.table import Part, Row, table_of, write_table
from shallower.files import sha256, write_json
from shallower.interventions.apply import apply
from shallower.interventions.base import Choice
from shallower.interventions.costs import deployed_costs
from shallower.interventions.eliminate import prefill_speedup
from shallower.interventions.shared import SharedBlocks
from shallower.models.costs import count_parameters
from shallower.models.llama import KeyValueCache, LlamaLM
from shallower.pretrained.checkpoint import Precision, open_model
from shallower.pretrained.vocabulary import open_tokenizer
from shallower.progress import track
from shallower.study.runs import PretrainedSpec
from shallower.tokens.tokenizer import TokenizerLike

NOTHING = Choice()
LENGTHS = (128, 256, 512, 1024, 2048)  # of prompts, tokens


@dataclass(frozen=True)
class Windows:
    """Beginnings of documents in a checkpoint's tokens."""

    ids: Tensor  # (documents, tokens)
    documents: list[str]
    domains: list[str]


def evaluate(
    spec: PretrainedSpec,
    corpus: Path,
    output: Path,
    interventions: Path,
    *,
    threads: int = 1,
    device: str = "auto",
) -> None:
    """Score a checkpoint, and every intervention on it, on held-out text.

    `corpus` is the corpus' folder. Writes `output` (Parquet, a row per intervention,
    sample and metric) and `interventions` (JSON: facts of the checkpoint, and what each
    intervention chose and saves). Raises UserError for a checkpoint that is not what
    the specification says, and for text in which no document is long enough.
    """
    torch.set_num_threads(threads)
    chosen = machine.choose_device(device)
    path = spec.checkpoint.checked_path(f"pretrained.models.{spec.name}")
    precision = precision_of(spec, chosen)
    model = open_model(path, spec.context, precision).to(chosen)
    tokenizer = open_tokenizer(path)
    items = None
    if spec.tasks is not None:  # first: what does not fit is said before hours of work
        documents = pd.read_parquet(corpus / "text" / "test.parquet")
        items = make_tasks(documents, spec.tasks)
        check_tasks_fit(items, tokenizer, model.config.context, spec.name)
    length = spec.prompt_tokens + spec.scored_tokens
    read = WindowReader(corpus, tokenizer, length)
    validation = read("validation", spec.calibration_documents)
    test = read("test", spec.documents)
    written = [each.parsed for each in spec.interventions]
    measured = calibrate(model, validation.ids, written, spec)
    choices = {str(i): choose(model, i, measured, spec) for i in written}
    scored = Scored(model, tokenizer, spec)
    parts = scored.continuations(test, choices)
    if items is not None:
        parts += scored.tasks(items, choices)
    for name in spec.sets:
        table = pd.read_parquet(corpus / name / "test.parquet")
        parts += scored.answers(name, table, choices, threads)
    described = description(model, measured, choices, spec)
    facts = {
        "model": spec.name,
        "seed": spec.seed,
        "parameters": count_parameters(model),
        "precision": precision,
        "device": machine.device_name(chosen),
        "sha256": checksums(path),
        "commit": commit(),
        "versions": machine.versions(),
        "contribution_by_document": measured.by_window,
        "prefill_at": predicted_by_length(model, choices),
        "windows": {domain: test.domains.count(domain) for domain in set(test.domains)},
    }
    write_json(interventions, facts | described)
    write_table(table_of(parts), output)


def check_tasks_fit(
    items: pd.DataFrame, tokenizer: TokenizerLike, context: int, name: str
) -> None:
    """Raise UserError if a task and its longest answer exceed the model's context."""
    for item in items.to_dict("records"):
        texts = (item["prompt"], item["control"])
        asked = max(len(tokenizer.encode(text)) for text in texts)
        answer = max(len(tokenizer.encode(text)) for text in item["choices"])
        needed = len(tokenizer.prefix) + asked + answer
        if needed > context:
            raise UserError(
                f"pretrained.tasks: {needed} tokens exceed the context of {name}, "
                f"{context}; expected fewer prompt_words, or tasks: null"
            )


def predicted_by_length(
    model: LlamaLM, choices: dict[str, Choice]
) -> dict[str, dict[str, float]]:
    """Predicted speed-up of the prefill by a prompt's tokens, of each elimination.

    Of those that skip nothing as well.
    """
    block_costs = deployed_costs(model.config)
    return {
        text: {
            str(n): prefill_speedup(block_costs, choice.elimination.counts(n), n)
            for n in LENGTHS
            if n <= model.config.context
        }
        for text, choice in choices.items()
        if choice.elimination is not None and choice.skip == NOTHING.skip
    }


def checksums(path: Path) -> dict[str, str]:
    """SHA-256 of a checkpoint's file, or of every file in its folder, by name."""
    files = [path] if path.is_file() else sorted(path.iterdir())
    return {file.name: sha256(file) for file in files if file.is_file()}


def precision_of(spec: PretrainedSpec, device: torch.device) -> Precision:
    """The configured precision; `auto` is bfloat16 where products of it are fast."""
    if spec.checkpoint.precision != "auto":
        return spec.checkpoint.precision
    return "bfloat16" if machine.multiplies_bfloat16(device) else "float32"


@dataclass(frozen=True)
class WindowReader:
    """Reads windows of `length` tokens from a corpus' held-out documents."""

    corpus: Path
    tokenizer: TokenizerLike
    length: int

    def __call__(self, split: str, count: int) -> Windows:
        """Of the first `count` documents of each domain that are long enough."""
        path = self.corpus / "text" / f"{split}.parquet"
        table = pd.read_parquet(path, columns=["id", "text", "domain"])
        rows, documents, domains = [], [], []
        taken: dict[str, int] = {}
        for item in table.to_dict("records"):
            domain, text = item["domain"], item["text"]
            if taken.get(domain, 0) == count or len(text) < self.length:
                continue
            # Enough of a long document: a token of English has about four characters.
            beginning = text[: 12 * self.length]
            ids = [*self.tokenizer.prefix, *self.tokenizer.encode(beginning)]
            if len(ids) >= self.length:
                taken[domain] = taken.get(domain, 0) + 1
                rows.append(ids[: self.length])
                documents.append(item["id"])
                domains.append(domain)
        if not rows:
            raise UserError(
                f"{path}: no document has {self.length} tokens of the checkpoint, "
                "expected longer texts or a smaller pretrained.prompt_tokens"
            )
        return Windows(torch.tensor(rows), documents, domains)


@dataclass(frozen=True)
class Scored:
    """A checkpoint that is scored, and how."""

    model: LlamaLM
    tokenizer: TokenizerLike
    spec: PretrainedSpec

    def continuations(self, windows: Windows, choices: dict[str, Choice]) -> list[Part]:
        """What follows the windows' prompts: without and under each choice."""
        everything = {"": Choice()} | choices
        losses = losses_of_choices(
            self.model,
            windows.ids,
            self.spec.prompt_tokens,
            self.spec.batch_size,
            list(everything.values()),
        )
        weight = float(self.spec.scored_tokens)
        parts = []
        for text, nats in zip(everything, losses.tolist(), strict=True):
            places = zip(windows.domains, windows.documents, nats, strict=True)
            rows = [
                Row("continuation", domain, document, "cross_entropy", value, weight)
                for domain, document, value in places
            ]
            parts.append(Part(text, "trained", rows))
        return parts

    def tasks(self, items: pd.DataFrame, choices: dict[str, Choice]) -> list[Part]:
        """Tasks that need the whole prompt, of the checkpoint with their control.

        Several items of a document are one replicate: they share its name.
        """
        asked = self._asked(choices)
        rows: dict[str, list[Row]] = {text: [] for text in ("", *asked)}
        for item in track(items.to_dict("records"), "tasks"):
            place = (item["task"], item["group"], item["document"])
            endings = [self.tokenizer.encode(text) for text in item["choices"]]
            shared = self._read(item["prompt"])
            for text, choice in ({"": Choice()} | asked).items():
                scores = choice_scores(shared, endings, choice)
                rows[text] += answered(place, scores, item["answer"])
            scores = choice_scores(self._read(item["control"]), endings)
            rows[""] += answered(place, scores, item["answer"], ".control")
        return [Part(text, "trained", found) for text, found in rows.items()]

    def answers(
        self, name: str, table: pd.DataFrame, choices: dict[str, Choice], threads: int
    ) -> list[Part]:
        """Text metrics of greedy answers to an evaluation set, as of trained models.

        `table` has `id, group, prompt, reference`. Text metrics take `threads`
        processes.
        """
        spec, tokenizer = self.spec, self.tokenizer
        room = self.model.config.context - spec.new_tokens
        prompts = [encode_prompt(tokenizer, text, room) for text in table["prompt"]]
        asked = self._asked(choices)
        parts = []
        for text, choice in track(({"": Choice()} | asked).items(), name):
            model = apply(self.model, choice)
            how = spec.new_tokens, tokenizer.eos, spec.batch_size, choice.elimination
            found = generate_all(model, prompts, *how)
            predictions = [tokenizer.decode(ids) for ids in found]
            lengths = [len(ids) for ids in found]
            rows = list(metric_rows(name, table, predictions, lengths, threads))
            parts.append(Part(text, "trained", rows))
        return parts

    def _asked(self, choices: dict[str, Choice]) -> dict[str, Choice]:
        """Those of `tasks_under`; a checkpoint may have too few blocks for some."""
        return {
            text: choices[text] for text in self.spec.tasks_under if text in choices
        }

    def _read(self, prompt: str) -> SharedBlocks:
        """The checkpoint behind a prompt."""
        ids = [*self.tokenizer.prefix, *self.tokenizer.encode(prompt)]
        device = self.model.embedding.weight.device
        with torch.inference_mode():
            return SharedBlocks(self.model, torch.tensor([ids], device=device), True)


def answered(
    place: tuple[str, str, str], scores: list[float], answer: int, of: str = ""
) -> Iterator[Row]:
    """Whether the most likely choice is right, 1 or 0, and the right one's nats.

    The nats are those of the right one among the choices: log(choices) at chance.
    """
    nats = torch.tensor(scores, dtype=torch.float64).log_softmax(0)
    right = float(nats.argmax() == answer)
    yield Row(*place, f"accuracy{of}", right, 1.0)
    yield Row(*place, f"choice_loss{of}", -float(nats[answer]), 1.0)


@torch.inference_mode()
def choice_scores(
    shared: SharedBlocks, choices: list[list[int]], intervention: Choice = NOTHING
) -> list[float]:
    """Log-likelihood in nats of each choice behind a prompt, its tokens summed.

    The prompt is the one sequence of `shared`. What the model does under the
    intervention is done to the prompt and behind it.
    """
    begun = shared.prefill(intervention, max(map(len, choices)))
    return [each.nats for each in score_endings(*begun, choices)]


class Ending(NamedTuple):
    """How a model judges what may follow a prompt."""

    nats: float  # log-likelihood, its tokens summed
    greedy: bool  # whether each of its tokens is the most likely one


@torch.inference_mode()
def score_endings(
    model: LlamaLM, logits: Tensor, cache: KeyValueCache, endings: list[list[int]]
) -> list[Ending]:
    """Each ending behind a prompt that `cache` holds, with room for the longest.

    `logits` (1, 1, vocabulary) are those behind the prompt.
    """
    first, longest = logits[0, -1].float().log_softmax(-1), max(map(len, endings))
    best = int(first.argmax())
    begun = [Ending(float(first[ids[0]]), ids[0] == best) for ids in endings]
    if longest == 1:
        return begun
    # Padded at the right, where causal attention hides it.
    device = logits.device
    padded = torch.tensor([ids + [0] * (longest - len(ids)) for ids in endings])
    inputs, targets = padded[:, :-1].to(device), padded[:, 1:].to(device)
    cache.select(torch.zeros(len(endings), dtype=torch.long, device=device))
    later = model(inputs, cache).float().log_softmax(-1)
    nats = later.gather(2, targets[..., None])[..., 0]
    greedy = later.argmax(-1) == targets
    return [
        Ending(
            start.nats + float(nats[row, : len(ids) - 1].sum()),
            start.greedy and bool(greedy[row, : len(ids) - 1].all()),
        )
        for row, (start, ids) in enumerate(zip(begun, endings, strict=True))
    ]
