"""EleutherAI's lm-evaluation-harness on our models: `python -m shallower.lm_eval`."""
