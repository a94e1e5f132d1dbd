"""Pretrained checkpoints of the Llama family as models of a study.

`sizes.py` reads what a checkpoint says about itself, `weights.py` its weights,
`vocabulary.py` its tokenizer; `checkpoint.py` finds its files, checks them and opens
them. Two formats: a Hugging Face folder (config.json, safetensors, tokenizer.json or
tokenizer.model) and a GGUF file of llama.cpp. No code of a checkpoint is run, and no
pickle is read.
"""
