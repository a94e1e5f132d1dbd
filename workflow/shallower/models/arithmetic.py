"""FLOPs of a decoder by formula, without torch: what the configuration needs to know.

Equal to what `counting.count_flops_per_token` counts on real tensors (a test says so):
two per multiply-accumulate, matrix products only, attention over all pairs of tokens.
"""

from __future__ import annotations

from typing import Any

from shallower.models.variants import FFNVariant, HeadVariant, Skip

BACKWARD = 2  # the backward pass takes two products for each of the forward pass


def forward_flops(model: dict[str, Any]) -> int:
    """FLOPs of a forward pass a token; `model` as a run's specification holds it."""
    pairs = 2 * model["context"] * inner_width(model)
    products = model["width"] * model["vocabulary"]
    for attention, ffn in block_products(model):
        products += attention + ffn + (pairs if attention else 0)
    return 2 * products


def block_products(model: dict[str, Any]) -> list[tuple[int, int]]:
    """Multiply-accumulates a token in each block: of its attention, and of its FFN.

    Of attention those with weights, which the length has no part in; 0: there is none.
    """
    head, ffn = HeadVariant(**model["head"]), FFNVariant(**model.get("ffn", {}))
    skip, depth = Skip.parse(model.get("skip", {})), model["depth"]
    inner = inner_width(model)
    whole = 4 * model["width"] * inner + _mix(head, model, inner)
    return [
        (
            0 if index in skip.attention else whole,
            0
            if index in skip.ffn
            else _feed_forward(ffn.in_block(index, depth), head, model),
        )
        for index in range(depth)
    ]


def inner_width(model: dict[str, Any]) -> int:
    """Width of all heads together: d, unless heads have a size of their own."""
    return model["heads"] * (model.get("head_size") or model["width"] // model["heads"])


FP32 = 4  # bytes of a number, in which caches are compared


def cache_bytes(model: dict[str, Any], tokens: int, item: int) -> int:
    """Bytes of a sequence's keys and values, `item` for a number.

    Blocks without attention hold none.
    """
    attending = sum(attention > 0 for attention, _ in block_products(model))
    return 2 * attending * tokens * inner_width(model) * item


def weights_read(model: dict[str, Any]) -> int:
    """Weights that decoding reads for a token at batch 1: those of all matrices.

    One row of the input embedding, gains and biases, a thousandth, are left out.
    """
    products = sum(attention + ffn for attention, ffn in block_products(model))
    return int(products + model["width"] * model["vocabulary"])


def training_flops(model: dict[str, Any], teacher: dict[str, Any] | None = None) -> int:
    """FLOPs of training a token: forward, backward, and the teacher's forward pass."""
    own = (1 + BACKWARD) * forward_flops(model)
    return own + (forward_flops(teacher) if teacher else 0)


def _mix(head: HeadVariant, model: dict[str, Any], inner: int) -> int:
    size = inner // model["heads"]
    linear = {"none": 0, "full": inner * inner}.get(head.linear, inner * size)
    gates = {
        "none": 0,
        "head": model["width"] * model["heads"],
        "element": model["width"] * inner,
        "self": inner * inner,
    }
    return linear + gates[head.gate]


def _feed_forward(ffn: FFNVariant, head: HeadVariant, model: dict[str, Any]) -> int:
    width = model["width"]
    if ffn.kind == "none":
        return 0
    if ffn.kind == "own":
        return 3 * width * (model["ffn_hidden"] + matched_units(head, model))
    if ffn.matrices == 1:
        return width * width
    hidden = ffn.hidden(width)
    return 2 * width * hidden + (ffn.matrices - 2) * hidden * hidden


def matched_units(head: HeadVariant, model: dict[str, Any]) -> int:
    """Hidden units of the FFN that cost what the paper's layer would: 43 at its size.

    A unit has 3d parameters, the layer d^2/n + d.
    """
    size = model.get("head_size") or model["width"] // model["heads"]
    return round((size + 1) / 3) if head.ffn_matched else 0
