"""The registries of head and feed-forward variants. Add one by adding an entry.

A variant with a layer of its own names it in `layer`: see `models/layers`. A run's
specification holds its variant and not only the name, so a new entry retrains nothing,
and a changed one the runs of that variant. The labels in the comments are those of the
ablation in the paper's appendix.
"""

from shallower.models.config import FFNVariant, HeadVariant

HEADS: dict[str, HeadVariant] = {
    "baseline": HeadVariant(),  # A0
    "proposed": HeadVariant(linear="per_head", activation="silu"),  # A4, the paper's
    "silu": HeadVariant(activation="silu"),  # A1
    "value_bias_silu": HeadVariant(value_bias=True, activation="silu"),  # A2
    "value_bias_silu_folded_init": HeadVariant(
        value_bias=True, activation="silu", folded_start=True
    ),  # A2b: starts as the proposed block does, folded
    "proposed_no_bias": HeadVariant(linear="no_bias", activation="silu"),  # A3
    "linear": HeadVariant(linear="per_head"),  # A5: no new function
    "shared_linear_silu": HeadVariant(linear="shared", activation="silu"),  # A6
    "full_linear_silu": HeadVariant(linear="full", activation="silu"),  # A7
    "matched": HeadVariant(ffn_matched=True),  # A8: H = 2795 at the paper's size
    "gelu": HeadVariant(activation="gelu"),  # A9
    "relu": HeadVariant(activation="relu"),  # A9, A13
    "tanh": HeadVariant(activation="tanh"),  # A9, A13
    "self_gate": HeadVariant(gate="self"),  # A9
    "proposed_identity": HeadVariant(
        linear="per_head", linear_start="identity", activation="silu"
    ),  # A10, A17: A = I, b = 0
    "silu_even": HeadVariant(activation="silu_even"),  # A12: SiLU(o) - o/2
    "half": HeadVariant(activation="half"),  # A13: o/2
    "absolute": HeadVariant(activation="absolute"),  # A13
    "square": HeadVariant(activation="square"),  # A13
    "silu_on_values": HeadVariant(value_activation="silu"),  # A14
    "silu_after_output": HeadVariant(output_activation="silu"),  # A14
    "gate_head": HeadVariant(gate="head"),  # A15
    "gate_element": HeadVariant(gate="element"),  # A15
    "head_norm": HeadVariant(norm=True),  # A16
    "query_key_norm": HeadVariant(query_key_norm=True),  # A16
    "proposed_zero_bias": HeadVariant(
        linear="per_head", linear_start="zero_bias", activation="silu"
    ),  # A17: b = 0
    "proposed_matched_bias": HeadVariant(
        linear="per_head", linear_start="matched_bias", activation="silu"
    ),  # A17: b as large as o A at the start
    "head_scale": HeadVariant(layer="head_scale.HeadScale"),
}

FFNS: dict[str, FFNVariant] = {
    "none": FFNVariant("none"),
    "one_matrix": FFNVariant("linear"),
    "one_matrix_relu": FFNVariant("linear", activation="relu"),
    "two_matrices": FFNVariant("linear", matrices=2),
    "three_matrices": FFNVariant("linear", matrices=3),
}
