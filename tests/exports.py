"""Runs that are exported, for the tests of what comes of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from conftest import run_spec
from models_for_tests import tiny
from shallower.export.folder import Export, export
from shallower.interventions.apply import skip
from shallower.models.config import LlamaConfig, SkippedParts
from shallower.models.initial import initialise
from shallower.models.llama import LlamaLM
from shallower.models.registry import FFNS, HEADS
from shallower.models.t5 import T5LM
from shallower.training.runs import save_weights

# Prompts of different length, so that batches of them are padded.
PROMPTS = [[1, 7, 9], [1, 5], [1, 200, 31, 8, 16, 250, 3], [1, 20, 3, 4, 5]]
TOKENS = torch.randint(3, 300, (3, 24), generator=torch.Generator().manual_seed(1))
PLAIN = {
    "baseline": {},
    "wide heads": {"head_size": 12},
    "narrow heads": {"head_size": 6, "heads": 2},
    "matched": {"head": HEADS["matched"]},
    "tied": {"tied": True, "kv_heads": 2},  # two names of one tensor
}
# What other members of the family have, of a model that skips something.
FAMILY = {
    **{"tied": True, "kv_heads": 2, "qkv_bias": True},
    "skip": SkippedParts(attention=(0,)),
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small only wait for a second one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def of(config: LlamaConfig) -> LlamaLM:
    """A model in fp32 whose weights are large enough for every part to matter."""
    model = initialise(LlamaLM(config), 0)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.mul_(2 if "matrices" in name else 4)
            elif parameter.ndim == 1:  # gains that a mistake could mix up
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=draw))
    return model.eval()


def model_of(kind: str) -> LlamaLM:
    if kind in HEADS:
        return of(tiny(kind))
    if kind in FFNS:
        return of(replace(tiny("proposed"), ffn=FFNS[kind]))
    skipped = {
        "no attention first": SkippedParts(attention=(0,)),
        "no ffn": SkippedParts(ffn=(1,)),
        "nothing": SkippedParts((0, 1), (0, 1)),
    }
    if kind == "family":
        scaled = replace(tiny(), **FAMILY)
        return of(replace(scaled, rope_divisors=(2.0,) * (scaled.head_dim // 2)))
    if kind in skipped:
        return skip(of(tiny("proposed")), skipped[kind])
    return of(tiny("proposed", heads=3, head_size=10))


def write_run(folder: Path, model: LlamaLM | T5LM, **changes: Any) -> Path:
    """The folder of a finished run of that model."""
    spec = run_spec("baseline", 3, 3, model=model.config, seed=7, **changes)
    folder.mkdir(parents=True)
    content = yaml.safe_dump(spec.model_dump(mode="json"))
    (folder / "spec.yaml").write_text(content)
    save_weights(model.state_dict(), folder / "model.safetensors")
    return folder


def exported(
    corpus: Path, tmp_path: Path, model: LlamaLM | T5LM, form: str = "trained", **s: Any
) -> Path:
    run = write_run(
        tmp_path / "runs" / f"run{len(list(tmp_path.iterdir()))}", model, **s
    )
    output = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
    export(Export(run, corpus / "tokenizer.model", form, output))
    return output


# Imports stand inside: transformers takes seconds, and every worker collects tests.


def auto(kind: str) -> Any:
    """An Auto class of transformers, with our models registered."""
    import transformers

    import shallower.models.exported  # noqa: F401

    return getattr(transformers, f"Auto{kind}")


def load(folder: Path, **how: Any) -> Any:
    return auto("ModelForCausalLM").from_pretrained(folder, **how).eval()


def wrapped(model: LlamaLM) -> Any:
    from shallower.models.exported import ShallowerForCausalLM

    return ShallowerForCausalLM.of(model)


def continued(model: Any, prompts: list[list[int]], new: int, **how: Any) -> list:
    """What Hugging Face's greedy `generate` adds to each prompt, padded at the left."""
    longest = max(map(len, prompts))
    rows = [[0] * (longest - len(p)) + p for p in prompts]
    mask = [[0] * (longest - len(p)) + [1] * len(p) for p in prompts]
    ids, mask = torch.tensor(rows), torch.tensor(mask)
    how = {"do_sample": False, "max_new_tokens": new} | how
    out = model.generate(input_ids=ids, attention_mask=mask, **how)
    return out[:, longest:].tolist()
