"""A decoder under an intervention, as lm-evaluation-harness asks for it.

The harness asks for the likelihood of a continuation behind a context, for that of a
whole text, and for greedy answers. A context is the prompt whose tokens may be
eliminated; tokens of a continuation or an answer never are.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tqdm import tqdm

from shallower import machine
from shallower.errors import UserError
from shallower.evaluation.cross_entropy import pass_size
from shallower.evaluation.generation import generate_all
from shallower.evaluation.pretrained import Ending, score_endings
from shallower.interventions.apply import apply
from shallower.interventions.base import Intervention
from shallower.interventions.forward import prefill
from shallower.lm_eval.calibration import DEFAULTS, ByText
from shallower.lm_eval.source import Precision, opened, tuned_for
from shallower.models.llama import KeyValueCache

Request = tuple[Any, list[int], list[int]]  # texts, tokens of context and continuation

log = logging.getLogger(__name__)
NEW_TOKENS = 256  # of an answer, unless its task says how many


@register_model("shallower")
class InterventionLM(TemplateLM):  # type: ignore[misc]
    """A checkpoint or a trained run under an intervention.

    `checkpoint` is a Hugging Face folder, a GGUF file or the folder of a run in its
    study, `intervention` as `skip=attention.last.4__eliminate=acc.1.5`. Where it must
    be chosen by measurements, `calibration` is a corpus' folder or a text file. The
    speed-up of an elimination is solved for `prompt_tokens`; longer and shorter prompts
    lose the same shares. Raises UserError for what cannot be read or is not possible.
    """

    def __init__(
        self,
        checkpoint: str,
        intervention: str = "",
        precision: Precision = "auto",
        calibration: str | None = None,
        prompt_tokens: int = DEFAULTS.prompt_tokens,
        batch_size: int = 8,
        device: str = "auto",
    ) -> None:
        super().__init__()
        self.batch_size = int(batch_size)
        try:
            self.intervention = Intervention.from_text(intervention)
        except ValueError as error:
            raise UserError(f"intervention: {error}") from None
        path, on = Path(checkpoint).expanduser(), machine.choose_device(device)
        model, self.text = opened(path, precision, on)
        text = Path(calibration).expanduser() if calibration else None
        chooser = ByText(
            path.name, self.text, text, tuned_for(path), int(prompt_tokens)
        )
        self.choice = chooser.choose(model, self.intervention)
        self.model = apply(model, self.choice)
        self.max_length = model.config.context
        self._device = on

    def get_model_info(self) -> dict[str, Any]:
        """What the harness writes beside its results: what was chosen."""
        weight = self.model.embedding.weight
        precision = str(weight.dtype).removeprefix("torch.")
        return {"precision": precision, "chosen": self.choice.to_json()}

    # --- tokens ---

    @property
    def eot_token_id(self) -> int:
        """The id that ends a text."""
        return self.text.eos

    @property
    def prefix_token_id(self) -> int:
        """The id that stands for an empty context."""
        return self.text.bos

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """Ids of a text, behind BOS if the model's convention has it."""
        prefix = [] if add_special_tokens is False else self.text.prefix
        return [*prefix, *self.text.encode(string)]

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """Raises UserError: prompts are given as they are."""
        raise UserError("--apply_chat_template: not possible with --checkpoint")

    # --- the three kinds of requests ---

    def _loglikelihood_tokens(
        self, requests: Sequence[Request], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """Nats of each continuation, and whether it is the greedy one.

        A context that is too long loses its beginning.
        """
        by_prompt: dict[tuple[int, ...], list[int]] = {}
        cut = 0
        for index, (texts, context, ending) in enumerate(requests):
            room = self.max_length + 1 - len(ending)
            if not ending or room < 1:
                raise UserError(
                    f"a continuation of {len(ending)} tokens, expected 1 to "
                    f"{self.max_length}, the context: {str(texts)[-80:]}"
                )
            by_prompt.setdefault(tuple(context[-room:]), []).append(index)
            cut += len(context) > room
        self._warn(cut)
        found: dict[int, Ending] = {}
        with tqdm(total=len(requests), disable=disable_tqdm) as progress:
            for prompt, indices in by_prompt.items():
                for some in self._batches(indices, requests):
                    rows = [requests[index][2] for index in some]
                    found.update(zip(some, self._score(prompt, rows), strict=True))
                    progress.update(len(some))
        return [found[index] for index in range(len(requests))]

    @torch.inference_mode()
    def _score(self, prompt: Sequence[int], rows: list[list[int]]) -> list[Ending]:
        """Continuations of a prompt, which goes through the model once."""
        model, longest = self.model, max(map(len, rows))
        ids = torch.tensor([prompt], device=self._device)
        if self.choice.elimination is not None:
            begun = prefill(model, ids, self.choice.elimination, longest)
            return score_endings(model, *begun, rows)
        cache = KeyValueCache(model, 1, len(prompt) + longest)
        logits = model(ids, cache, last_only=True)
        return score_endings(model, logits, cache, rows)

    def _batches(
        self, indices: list[int], requests: Sequence[Request]
    ) -> Iterator[list[int]]:
        """Continuations of one context that are scored at once, the longest first."""
        left = sorted(indices, key=lambda index: -len(requests[index][2]))
        while left:
            longest = len(requests[left[0]][2])
            size = pass_size(self._device, longest, self.batch_size)
            yield left[:size]
            left = left[size:]

    def loglikelihood_rolling(
        self, requests: Sequence[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Nats of whole texts, in windows of the model's context.

        Raises UserError where tokens are eliminated: there is no prompt.
        """
        if self.choice.elimination is not None:
            raise UserError(
                f"{self.intervention}: a task that scores whole texts has no prompt to "
                "eliminate tokens of, expected another task or a skip alone"
            )
        totals = []
        for request in tqdm(requests, disable=disable_tqdm):
            windows = get_rolling_token_windows(
                self.text.encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            pairs = [(None, *make_disjoint_window(window)) for window in windows]
            found = self._loglikelihood_tokens(pairs, disable_tqdm=True)
            totals.append(sum(nats for nats, _ in found))
        return totals

    def generate_until(
        self, requests: Sequence[Instance], disable_tqdm: bool = False
    ) -> list[str]:
        """Greedy answers, which end before EOS and before a task's own end.

        Raises UserError for a task that samples, or that leaves no room for a prompt.
        """
        by_way: dict[tuple[int, tuple[str, ...]], list[int]] = {}
        for index, request in enumerate(requests):
            how = normalize_gen_kwargs(request.args[1], NEW_TOKENS)
            if how["do_sample"]:
                raise UserError(
                    "a task that samples, expected greedy answers: "
                    "--gen_kwargs do_sample=False temperature=0"
                )
            way = how["max_gen_toks"], tuple(filter(None, how["until"]))
            by_way.setdefault(way, []).append(index)
        answers: dict[int, str] = {}
        for (new_tokens, until), indices in by_way.items():
            contexts = [requests[index].args[0] for index in indices]
            found = self._answers(contexts, new_tokens, list(until))
            answers.update(zip(indices, found, strict=True))
        return [answers[index] for index in range(len(requests))]

    def _answers(
        self, contexts: list[str], new_tokens: int, until: list[str]
    ) -> list[str]:
        room = self.max_length - new_tokens
        if room < 1:
            raise UserError(
                f"answers of {new_tokens} tokens, expected fewer than the context of "
                f"{self.max_length}: --gen_kwargs max_gen_toks=32"
            )

        def ends(ids: list[int]) -> bool:
            text = self.text.decode(ids)
            return any(end in text for end in until)

        whole = [self.tok_encode(context) for context in contexts]
        self._warn(sum(len(prompt) > room for prompt in whole))
        prompts = [prompt[-room:] for prompt in whole]
        how = self.text.eos, self.batch_size, self.choice.elimination, ends
        found = generate_all(self.model, prompts, new_tokens, *how)
        return [
            postprocess_generated_text(self.text.decode(ids), until, None)
            for ids in found
        ]

    def _warn(self, cut: int) -> None:
        if cut:
            log.warning(
                "%s contexts do not fit into %s tokens and lose their beginning",
                cut,
                self.max_length,
            )
