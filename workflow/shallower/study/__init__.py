"""A study: its typed configuration, the models and runs it expands to, and their plan.

`schema.py` holds the sections of the configuration, `study.py` the whole of it,
`names.py` the labels of models, `expand.py` the way from grids to models, `runs.py`
what each stage is told, `inputs.py` the files in which it is told.
"""
