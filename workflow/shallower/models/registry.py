"""The registry of head variants. Add a variant by adding an entry.

A run's specification carries its variant's entry and not only the name, so a new
entry makes nothing stale, and a changed one the runs of that variant.
"""

from shallower.models.variants import HeadVariant

HEADS: dict[str, HeadVariant] = {
    "baseline": HeadVariant(),
    "proposed": HeadVariant(linear="per_head", activation="silu"),
    "silu": HeadVariant(activation="silu"),
    "value_bias_silu": HeadVariant(value_bias=True, activation="silu"),
}
