"""Our sizes of a Llama by the names that Hugging Face's config.json has for them."""

# Field of `LlamaConfig` -> key. Free of torch, for who only reads sizes.
CONFIG_NAMES = {
    "vocabulary": "vocab_size",
    "width": "hidden_size",
    "depth": "num_hidden_layers",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "head_size": "head_dim",
    "ffn_hidden": "intermediate_size",
    "context": "max_position_embeddings",
    "norm_eps": "rms_norm_eps",
    "rope_theta": "rope_theta",
    "rope_divisors": "rope_divisors",
    "qkv_bias": "qkv_bias",
    "tied": "tie_word_embeddings",
}
