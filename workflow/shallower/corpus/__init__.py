"""Documents and evaluation sets: from packages, files and the hub to checked Parquet.

`build.build` does all of it. The modules, in the order in which data pass through them:
`hub` (downloads; `downloaded` finds them without the network), `readers` (file
formats) and `packages` (data inside installed packages), `sources` (any source as rows
with our column names), `documents` (cleaning and splits), `items` (evaluation sets),
`overlap` (contamination), `build`. `pairs` makes pairs of sentences, out of the
documents or of a labelled source; `tasks` makes tasks that need a whole prompt, out of
documents. `settings` is what the configuration can say.
"""

EVALUATION_SETS = ("completion", "chat", "qa")  # prompts with references
