"""Write a run's model as a folder for `transformers`, all or nothing."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from shallower.errors import UserError
from shallower.models.config import FFNVariant
from shallower.models.families import LanguageModel, deployed
from shallower.models.hugging_face import (
    difference,
    to_hugging_face,
    to_hugging_face_t5,
)
from shallower.models.llama import LlamaLM
from shallower.models.t5 import PAD, T5LM
from shallower.models.transforms import deployed_form, fold
from shallower.study.runs import RunSpec
from shallower.tokens.tokenizer import Tokenizer
from shallower.training.runs import WEIGHTS, load_model, read_spec


@dataclass(frozen=True)
class Export:
    """What is exported, and where to."""

    run: Path  # folder of a finished run
    tokenizer: Path
    form: str  # trained, folded, collapsed, or deployed: the last of these it has
    output: Path
    licence: str | None = None  # of the text; None: the card says nothing of it


def export(job: Export) -> None:
    """Write `job.output`, which must not exist.

    Raises UserError if it does, if the run, form or tokenizer is not as expected, and
    for models that neither `transformers` nor `models/exported.py` can load.
    """
    if job.output.exists():
        raise UserError(f"{job.output}: exists already, expected a new folder's name")
    spec, model = read_run(job.run)
    tokenizer = Tokenizer(job.tokenizer)
    if len(tokenizer) != spec.pieces:
        raise UserError(
            f"{job.tokenizer}: {len(tokenizer)} pieces, but {job.run} was trained "
            f"with {spec.pieces}"
        )
    model, form = in_form(model, job.form, job.run)
    theirs = for_transformers(model, job.run)
    padding = PAD if isinstance(model, T5LM) else tokenizer.unknown
    for config in (theirs.config, theirs.generation_config):
        config.bos_token_id, config.eos_token_id = tokenizer.bos, tokenizer.eos
        config.pad_token_id = padding
    kind, registered = type(theirs).__name__, theirs.is_custom_code()
    card = Card(spec.name, spec.seed, form, kind, registered, job.licence)
    # Only here: transformers, which these need, is slow to import.
    from transformers.utils.logging import disable_progress_bar

    from shallower.export.tokenizer import write_tokenizer

    disable_progress_bar()  # type: ignore[no-untyped-call]
    with new_folder(job.output) as folder:
        theirs.save_pretrained(folder)
        is_t5 = isinstance(model, T5LM)
        extra = model.config.vocabulary - spec.pieces if is_t5 else None
        write_tokenizer(job.tokenizer, folder, extra, model.config.context)
        (folder / "README.md").write_text(card.text(job.output.name), encoding="utf-8")


def read_run(folder: Path) -> tuple[RunSpec, LanguageModel]:
    """Specification and model of a run. Raises UserError if it cannot be loaded."""
    for name in ("spec.yaml", WEIGHTS):
        if not (folder / name).is_file():
            raise UserError(f"{folder}: no {name}, expected a finished run's folder")
    try:
        return read_spec(folder), load_model(folder)
    except (SafetensorError, RuntimeError) as error:
        # torch names every tensor that does not fit, a line each.
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{folder}: weights cannot be loaded: {reason}") from None


def in_form(model: LanguageModel, form: str, run: Path) -> tuple[LanguageModel, str]:
    """The model in a form, and that form's name.

    Raises UserError if the model has no such form; every model has `deployed`.
    """
    folds = isinstance(model, LlamaLM) and model.config.head.folds
    available = {
        "trained": True,
        "folded": folds,
        "collapsed": model.config.ffn.collapses,
    }
    forms = [name for name, has in available.items() if has]
    if form == "deployed":
        form = deployed_form(model.config)
    if form not in forms:
        expected = ", ".join([*forms, "deployed"])
        raise UserError(f"--form: {run} cannot be {form}, expected {expected}")
    if form == "trained":
        return model, form
    if form == "folded" and isinstance(model, LlamaLM):
        return fold(model), form
    return deployed(model), form


def for_transformers(model: LanguageModel, run: Path) -> Any:
    """The model behind Hugging Face's interface, of their own class if possible."""
    try:
        import transformers  # noqa: F401  a dependency of this command alone
    except ModuleNotFoundError:
        raise UserError(
            "transformers is not installed: pip install 'transformers>=5'"
        ) from None
    if isinstance(model, T5LM):
        if model.config.ffn != FFNVariant():
            raise UserError(
                f"{run}: {model.config.ffn} in an encoder-decoder cannot be "
                "exported, expected one with T5's own FFN"
            )
        return to_hugging_face_t5(model)
    if difference(model.config) is None:
        return to_hugging_face(model)
    from shallower.models.exported import ShallowerForCausalLM

    return ShallowerForCausalLM.of(model)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; rename it to `path` if all went well.

    Raises UserError if `path` exists by then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield temporary
        for file in temporary.iterdir():
            with file.open("rb+") as written:
                os.fsync(written.fileno())
        # mkdtemp makes folders private; results are for everyone the umask allows.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o777 & ~umask)
        for file in temporary.iterdir():
            file.chmod(0o666 & ~umask)
        if path.exists():
            raise UserError(f"{path}: exists already, expected a new folder's name")
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


# --- the card -------------------------------------------------------------------------


FORMS = {
    "trained": "as it was trained",
    "folded": "the layer on the heads folded into the value projection, exactly",
    "collapsed": "chains of matrices multiplied out, and folded if it folds, exactly",
}
PLAIN = """\
`transformers` 5 reads it as it is:

```python
from transformers import {auto}, AutoTokenizer

model = {auto}.from_pretrained({folder!r})
tokenizer = AutoTokenizer.from_pretrained({folder!r})
```
"""
REGISTERED = """\
`transformers` does not know its blocks. The package `shallower` does, once imported; no
code in this folder is run, and `trust_remote_code` is not needed:

```python
import shallower.models.exported  # registers the model
from transformers import {auto}, AutoTokenizer

model = {auto}.from_pretrained({folder!r})
tokenizer = AutoTokenizer.from_pretrained({folder!r})
```
"""
HARNESS = """
With lm-evaluation-harness:

```
{command} --model hf --model_args pretrained={folder} --tasks ...
```

For tasks of rolling perplexity, such as wikitext, add `,add_bos_token=False` to the
model's arguments: there, the harness puts BOS before a text itself.
"""
OF_A_DECODER = "The tokenizer puts BOS first, as in training; `<s>` in a text is text."
OF_A_T5 = """\
The tokenizer puts EOS last and BOS between two texts, as in training. `<extra_id_0>`
and so on are sentinels; `<label_0>` and so on, where there are any, answers."""


@dataclass(frozen=True)
class Card:
    """What a folder holds, for readers who do not have the study."""

    model: str  # its name in the study
    seed: int
    form: str
    kind: str  # class in transformers, or of ours
    registered: bool  # only by our package
    licence: str | None  # of the text

    def text(self, folder: str) -> str:
        """The card, in Markdown, of the folder of that name."""
        decoder = self.kind.endswith("CausalLM")
        auto = "AutoModelForCausalLM" if decoder else "AutoModelForSeq2SeqLM"
        parts = [
            "---\nlibrary_name: transformers\n---\n",
            f"# {self.model}, seed {self.seed}, {self.form}\n",
            "A small language model, trained to compare architectures in a study of\n"
            '"Shallower LLMs for Faster Inference". It is not made to be used.\n',
            f"- model: `{self.model}`\n- seed: {self.seed}\n"
            f"- form: {self.form} ({FORMS[self.form]})\n- class: `{self.kind}`",
        ]
        if self.licence:
            parts.append(f"- licence of the training text: {_line(self.licence)}")
        how = REGISTERED if self.registered else PLAIN
        parts.append("\n" + how.format(auto=auto, folder=folder))
        parts.append(OF_A_DECODER if decoder else OF_A_T5)
        if decoder:
            command = "python -m shallower.lm_eval" if self.registered else "lm_eval"
            parts.append(HARNESS.format(command=command, folder=folder))
        return "\n".join(parts).rstrip() + "\n"


def _line(text: str) -> str:
    return " ".join(text.split())
