"""What an intervention does to one model, by text that the user has."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from shallower.errors import UserError
from shallower.evaluation.choices import Calibration, calibrate, choose
from shallower.evaluation.pretrained import WindowReader
from shallower.interventions.base import Choice, Intervention
from shallower.interventions.calibration import Importance
from shallower.models.llama import LlamaLM
from shallower.pretrained.settings import Pretrained
from shallower.tokens.tokenizer import TokenizerLike

DEFAULTS = Pretrained()  # as in a study
TEXT_WINDOWS = 8  # of a text file


@dataclass(frozen=True)
class ByText:
    """How an intervention is chosen; `Settings` of `evaluation.choices`."""

    name: str  # of the model
    tokenizer: TokenizerLike
    text: Path | None  # a corpus' folder or a text file
    tuned: tuple[float, ...] | None = None  # profile that a run was fine-tuned with
    prompt_tokens: int = DEFAULTS.prompt_tokens
    ranking_window: int = DEFAULTS.ranking_window
    batch_size: int = DEFAULTS.batch_size
    seed: int = 0

    def choose(self, model: LlamaLM, wanted: Intervention) -> Choice:
        """Blocks, and an elimination of the asked strength.

        Raises UserError where text is needed and missing or too short, and for an
        intervention that the model has too few blocks for.
        """
        if wanted.needs_model:
            windows = self.windows(wanted, model.config.context)
            measured = calibrate(model, windows, [wanted], self, self.tuned)
        else:
            measured = Calibration(Importance((), (), ()), [], [], (), {})
        try:
            return choose(model, wanted, measured, self)
        except ValueError as error:
            raise UserError(f"{self.name}: {wanted}: {error}") from None

    def windows(self, wanted: Intervention, context: int) -> Tensor:
        """Windows (windows, tokens) of prompts and of what is scored behind them."""
        scored = min(DEFAULTS.scored_tokens, context - self.prompt_tokens)
        if scored < 1:
            raise UserError(
                f"--prompt_tokens: {self.prompt_tokens}, expected fewer than the "
                f"{context} tokens of the model's context"
            )
        length, text = self.prompt_tokens + scored, self.text
        if text is not None and (text / "text" / "validation.parquet").is_file():
            read = WindowReader(text, self.tokenizer, length)
            return read("validation", DEFAULTS.calibration_documents).ids
        if text is None or not text.is_file():
            raise UserError(
                f"--calibration: {text or 'not given'}, expected a text file or a "
                f"corpus' folder, as results/default/corpus: {wanted} is chosen by "
                "measurements on text"
            )
        # A token of English has about four characters.
        with text.open(encoding="utf-8", errors="replace") as file:
            ids = self.tokenizer.encode(file.read(12 * length * TEXT_WINDOWS))
        prefix = self.tokenizer.prefix
        step = length - len(prefix)
        starts = range(0, len(ids) - step + 1, step)[:TEXT_WINDOWS]
        if not starts:
            raise UserError(
                f"--calibration: {text} has {len(ids)} tokens, expected {step} or more"
            )
        return torch.tensor([[*prefix, *ids[i : i + step]] for i in starts])
