"""Decoders that plain `transformers` does not know, as models of its own kind.

Importing this module registers them: `AutoModelForCausalLM.from_pretrained` then reads
a folder that `shallower export` wrote, and no code from that folder is run. The blocks
are `llama.py`'s own, with their names in the weights, between Hugging Face's masks and
caches; so what is evaluated there is what was trained here.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationMixin
from transformers import initialization as init
from transformers.cache_utils import Cache, DynamicCache
from transformers.configuration_utils import PreTrainedConfig
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.modeling_utils import PreTrainedModel
from transformers.utils.generic import can_return_tuple

from shallower.models.config import FFNVariant, HeadVariant, LlamaConfig, SkippedParts
from shallower.models.config_names import CONFIG_NAMES
from shallower.models.layers import Layer
from shallower.models.llama import Attention, KeyValueCache, LlamaLM, rotary_table

VARIANTS = {"head": "head_variant", "ffn": "ffn_variant", "skip": "skip"}


class ShallowerConfig(PreTrainedConfig):  # type: ignore[no-untyped-call]
    """A `LlamaConfig` under Hugging Face's names; of variants what differs."""

    model_type = "shallower"
    keys_to_ignore_at_inference = ["past_key_values"]

    vocab_size: int = 2048
    hidden_size: int = 128
    num_hidden_layers: int = 5
    num_attention_heads: int = 8
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    intermediate_size: int = 344
    max_position_embeddings: int = 128
    rms_norm_eps: float = 1e-5
    rope_theta: float = 1e4
    rope_divisors: list[float] | tuple[float, ...] = ()
    qkv_bias: bool = False
    initializer_range: float = 0.02
    use_cache: bool = True
    tie_word_embeddings: bool = False
    head_variant: dict[str, Any] | None = None
    ffn_variant: dict[str, Any] | None = None
    skip: dict[str, Any] | None = None

    @classmethod
    def of(cls, config: LlamaConfig) -> ShallowerConfig:
        """The same model's configuration in Hugging Face's words."""
        given: dict[str, Any] = {
            theirs: getattr(config, ours) for ours, theirs in CONFIG_NAMES.items()
        }
        for ours, theirs in VARIANTS.items():
            given[theirs] = _differences(getattr(config, ours))
        # What is usual has a number there.
        sizes = {"head_dim": config.head_dim, "num_key_value_heads": config.groups}
        return cls(**given | sizes)

    def parsed(self) -> LlamaConfig:
        """What `LlamaLM` is made from."""
        sizes = {ours: getattr(self, theirs) for ours, theirs in CONFIG_NAMES.items()}
        parts = {us: getattr(self, theirs) or {} for us, theirs in VARIANTS.items()}
        return TypeAdapter(LlamaConfig).validate_python(sizes | parts)


def _differences(variant: HeadVariant | FFNVariant | SkippedParts) -> dict[str, Any]:
    """The fields that differ from the plain block's."""
    plain = asdict(type(variant)())
    return {k: v for k, v in asdict(variant).items() if v != plain[k]}


class HuggingFaceCache(KeyValueCache):
    """A cache of Hugging Face's, as our attention calls one."""

    def __init__(self, cache: Cache, config: LlamaConfig) -> None:
        # Without gaps: the length of the first layer is taken for the cache's.
        self.slots = {block: n for n, block in enumerate(config.attending)}
        self.cache = cache

    def append(self, block: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store (batch, heads, tokens, head_dim) and return all keys and values."""
        return self.cache.update(keys, values, self.slots[block])


class ShallowerForCausalLM(  # type: ignore[no-untyped-call]
    PreTrainedModel, GenerationMixin
):
    """`LlamaLM` with Hugging Face's interface: `generate`, `labels`, `save_pretrained`.

    Attention is torch's scaled dot product, and its weights are never returned.
    """

    config_class = ShallowerConfig
    base_model_prefix = "model"
    _no_split_modules = ["Block"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_sdpa = True
    _tied_weights_keys = {"model.head.weight": "model.embedding.weight"}

    def __init__(self, config: ShallowerConfig) -> None:
        super().__init__(config)
        self.model = LlamaLM(config.parsed())
        self.post_init()  # type: ignore[no-untyped-call]

    @classmethod
    def of(cls, model: LlamaLM) -> ShallowerForCausalLM:
        """`model` itself, its tensors not copied, behind Hugging Face's interface."""
        with torch.device("meta"):
            wrapped = cls(ShallowerConfig.of(model.config))
        wrapped.model = model
        wrapped.train(model.training)
        return wrapped

    def get_input_embeddings(self) -> nn.Module:
        """Token id to vector."""
        embedding: nn.Module = self.model.embedding
        return embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Put another embedding in its place."""
        self.model.embedding = value

    def get_output_embeddings(self) -> nn.Module:
        """Vector to logits."""
        head: nn.Module = self.model.head
        return head

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Put another output head in its place."""
        self.model.head = new_embeddings

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Start values of what a checkpoint lacks, which is the rotary table alone."""
        super()._init_weights(module)  # type: ignore[no-untyped-call]
        if isinstance(module, LlamaLM):
            table = rotary_table(module.config, module.rotary.device)
            init.copy_(module.rotary, table)
        elif isinstance(module, Layer) and not isinstance(
            module, nn.Linear | nn.RMSNorm
        ):
            for name, parameter in module.named_parameters(recurse=False):
                if name == "bias":
                    init.zeros_(parameter)
                else:
                    init.normal_(parameter, std=self.config.initializer_range)
        elif isinstance(module, Attention) and module.value_bias is not None:
            init.zeros_(module.value_bias)

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """As of Hugging Face's Llama: logits (batch, tokens, vocabulary), loss, cache.

        Raises ValueError for neither or both of `input_ids` and `inputs_embeds`, and
        for more tokens than the model's context.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("expected either input_ids or inputs_embeds")
        x = self.model.embedding(input_ids) if inputs_embeds is None else inputs_embeds
        use_cache = self.config.use_cache if use_cache is None else use_cache
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        positions = self._positions(x, attention_mask, position_ids, past_key_values)
        states = self._states(x, *positions)
        last = isinstance(logits_to_keep, int)
        rows = slice(-logits_to_keep, None) if last else logits_to_keep
        logits = self.model.head(states[-1][:, rows])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, self.config.vocab_size, **kwargs)
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=past_key_values if use_cache else None,
            hidden_states=tuple(states) if output_hidden_states else None,
        )

    def _positions(
        self,
        x: Tensor,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        cache: Cache | None,
    ) -> tuple[Tensor, Any, HuggingFaceCache | None]:
        """Rotary factors, mask and cache for `x` (batch, tokens, width)."""
        config, seen = self.model.config, 0 if cache is None else cache.get_seq_length()
        end = seen + x.shape[1]
        # A static cache counts in a tensor, which would have to be waited for.
        if isinstance(end, int) and end > config.context:
            raise ValueError(f"{end} tokens exceed the context of {config.context}")
        if position_ids is None:
            position_ids = torch.arange(x.shape[1], device=x.device)[None] + seen
        rotary = self.model.rotary_at(position_ids)
        if not config.attending:
            return rotary, None, None
        mask = create_causal_mask(
            config=self.config,
            inputs_embeds=x,
            attention_mask=attention_mask,
            past_key_values=cache,
            position_ids=position_ids,
        )
        return rotary, mask, None if cache is None else HuggingFaceCache(cache, config)

    def _states(
        self,
        x: Tensor,
        rotary: Tensor,
        mask: Tensor | None,
        cache: HuggingFaceCache | None,
    ) -> list[Tensor]:
        """The input of each block, and that of the output head."""
        states = [x]
        for index, block in enumerate(self.model.blocks):
            states.append(block(states[-1], rotary, mask, cache, index))
        return [*states[:-1], self.model.norm(states[-1])]


AutoConfig.register(ShallowerConfig.model_type, ShallowerConfig, exist_ok=True)
AutoModelForCausalLM.register(ShallowerConfig, ShallowerForCausalLM, exist_ok=True)
