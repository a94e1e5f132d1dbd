"""Shallower: a paper that rebuilds itself.

One folder a stage, in the order in which data flows through them::

    corpus -> tokens -> models -> training -> evaluation -> analysis -> reporting

A stage reads only the files of earlier stages; `docs/architecture.md` is the map.
"""

__version__ = "1.0.0"
