"""What a trained model writes."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from shallower import machine
from shallower.errors import UserError
from shallower.evaluation.generation import encode_prompt
from shallower.models.llama import KeyValueCache, LlamaLM
from shallower.randomness import derive
from shallower.tokens.tokenizer import Tokenizer
from shallower.training.runs import load_decoder


def sample(
    run: Path,
    tokenizer: Path,
    prompt: str,
    new_tokens: int,
    temperature: float = 0.0,
    seed: int = 0,
    device: str = "auto",
) -> str:
    """`prompt` with a continuation of at most `new_tokens` tokens.

    Greedy at temperature 0, else drawn from the distribution at that temperature. The
    beginning of a prompt that is too long for the context is left out. Raises UserError
    for an encoder-decoder, or if the new tokens leave no room for a prompt.
    """
    model = load_decoder(run).to(machine.choose_device(device))
    pieces = Tokenizer(tokenizer)
    room = model.config.context - new_tokens
    if room < 2:
        raise UserError(
            f"--tokens: found {new_tokens}, expected at most "
            f"{model.config.context - 2} in a context of {model.config.context}"
        )
    ids = encode_prompt(pieces, prompt, room)
    found = continued(model, ids, new_tokens, pieces.eos, temperature, seed)
    return pieces.decode([*ids, *found])


@torch.inference_mode()
def continued(
    model: LlamaLM,
    prompt: list[int],
    new_tokens: int,
    stop: int,
    temperature: float,
    seed: int,
) -> list[int]:
    """Ids behind the prompt, up to `stop`, which is left out."""
    draw = torch.Generator().manual_seed(derive(seed, "sample"))
    cache = KeyValueCache(model, 1, len(prompt) + new_tokens)
    device, found = model.embedding.weight.device, list[int]()
    tokens = torch.tensor([prompt], device=device)
    while len(found) < new_tokens:
        logits = model(tokens, cache, None, last_only=True)[0, -1]
        token = _choose(logits.float().cpu(), temperature, draw)
        if token == stop:
            break
        found.append(token)
        tokens = torch.tensor([[token]], device=device)
    return found


def _choose(logits: Tensor, temperature: float, draw: torch.Generator) -> int:
    """The likeliest token at temperature 0, else one that is drawn."""
    if temperature == 0:
        return int(logits.argmax())
    weights = torch.softmax(logits / temperature, -1)
    return int(torch.multinomial(weights, 1, generator=draw))
