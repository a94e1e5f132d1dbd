"""Claims by topic: `heads` (S1), `ffn`, `t5` (S2), `skipping` (S3), `elimination` (S4).

A claim is an entry of its topic's `CLAIMS`: what a source says, and the function that
judges it. The function asks for estimates (`Context.estimate`) and applies a rule of
`verdicts`. docs/protocol.md has their dates.

A topic's module may also have

- `comparisons(study)`: further `Comparison`s that tables, figures or text show,
- `facts(context)`: `Fact`s, numbers of the text that are no estimates,
- `tables(context)`: further tables by the name of their CSV file.

`analysis.write` collects all of them.
"""
