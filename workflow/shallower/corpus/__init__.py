"""Documents and evaluation sets: from packages and files to checked Parquet.

`build.build` does all of it. The parts, in the order data pass through them:
`readers` (file formats), `packages` (data inside installed packages), `sources` (any
source as a `datasets.Dataset`), `cleaning`, `splits`, `items` (evaluation sets, with
`sentences`), `overlap` (contamination), `build`. `pairs` makes pairs of sentences, of
its splits or of a labelled source.
"""

EVALUATION_SETS = ("completion", "chat", "qa")  # prompts with references
