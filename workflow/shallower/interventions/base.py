"""An intervention: sublayers that are skipped, tokens that are eliminated, or both.

`Intervention` is what a label says, `Choice` what was chosen for one trained model: the
blocks, and how many tokens. A choice is plain data, so that a model is timed with the
choice that it was scored with. Free of torch; `apply.py` applies it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from shallower.interventions.eliminate import Eliminate, Elimination
from shallower.interventions.skip import Skip
from shallower.models.config import SkippedParts


@dataclass(frozen=True)
class Intervention:
    """First the skip, then the elimination on what is left; either may be missing."""

    skip: Skip | None = None
    eliminate: Eliminate | None = None

    @classmethod
    def parse(
        cls, skip: str | None = None, eliminate: str | None = None
    ) -> Intervention:
        """From text, as `attention.last.2` and `acc.1.5`; ValueError if bad."""
        return cls(
            Skip.parse(skip) if skip else None,
            Eliminate.parse(eliminate) if eliminate else None,
        )

    @classmethod
    def from_text(cls, text: str) -> Intervention:
        """From what `str` gives; ValueError if bad."""
        pairs = [part.partition("=") for part in text.split("__")] if text else []
        parts = {key: value for key, _, value in pairs}
        if len(parts) < len(pairs) or not parts.keys() <= {"skip", "eliminate"}:
            raise ValueError(
                f"found {text!r}, expected skip=<skip>, eliminate=<eliminate> or both "
                "joined by __, as skip=attention.last.2__eliminate=acc.1.5"
            )
        return cls.parse(**parts)

    def __bool__(self) -> bool:
        return self.skip is not None or self.eliminate is not None

    def __str__(self) -> str:
        """`skip=attention.last.2__eliminate=acc.1.5`; '' if nothing is done."""
        parts = {"skip": self.skip, "eliminate": self.eliminate}
        return "__".join(f"{key}={part}" for key, part in parts.items() if part)


@dataclass(frozen=True)
class Choice:
    """What an intervention does to one trained model.

    `skip` holds what the intervention leaves out, not what its run has left out before.
    """

    skip: SkippedParts = field(default_factory=SkippedParts)
    elimination: Elimination | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values for a file."""
        # Through text: tuples become the lists that a file has.
        return dict(json.loads(json.dumps(asdict(self))))

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Choice:
        """From a file's values; TypeError or ValueError for any others."""
        skipped = {part: tuple(blocks) for part, blocks in content["skip"].items()}
        elimination = content["elimination"]
        if elimination is not None:
            profile = {"profile": tuple(elimination["profile"])}
            elimination = Elimination(**(elimination | profile))
        return cls(SkippedParts(**skipped), elimination)
