"""The model card of an exported folder."""

from __future__ import annotations

from dataclasses import dataclass

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
