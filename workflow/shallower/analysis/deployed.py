"""Which of a model's forms is deployed: the last one that was timed.

`folded` has the heads' linear layers multiplied into the value projections, `collapsed`
its chains of matrices too; both compute what the `trained` form does, with less work.
"""

from __future__ import annotations

import pandas as pd

FORMS = ("trained", "folded", "collapsed")


def deployed(rows: pd.DataFrame) -> pd.DataFrame:
    """Of one measurement's rows in by_seed.csv or summary.csv, those of that form.

    Each model at each scale has its own.
    """
    place = rows["form"].map(FORMS.index)
    last = place.groupby([rows["model"], rows["scale"]]).transform("max")
    return rows[place == last]
