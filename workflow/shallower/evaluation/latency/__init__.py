"""Latency: how long models take to answer, to train a step, and memory to be read.

`job.py` runs the sessions, `cases.py` says what is timed, `harness.py` times requests,
`decode_modes.py` decoding with a static cache. `bandwidth.py` and `step_time.py`
measure the rest of what the job writes.
"""

PROMPTS = "prompt_"  # of workloads that are a first token alone; the length follows
