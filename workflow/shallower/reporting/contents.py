"""What the report consists of: file names, shared with the workflow's rules."""

from shallower.evaluation.metrics import TEXT_METRICS

FIGURES = {  # name -> label in the HTML report
    # heads (S1)
    "training_loss": "2a: training loss",
    "perplexity_latency": "2b: test perplexity against inference time",
    "chat": "3: chat completion against inference time",
    "qa": "4: question answering against inference time",
    "completion": "sentence completion against inference time",
    "training_time": "5: parameters against training time",
    "latency_scales": "decoding time by depth at both scales",
    "roofline": "decoding time against the bandwidth floor",
    "head_ablation": "which part of the added layer matters",
    "learning_rate": "learning rate and initialisation",
    "diagnostics": "the first block during training",
    "budget": "gain of the added layer and of depth by training budget",
    # ffn (S2), skipping (S3), elimination (S4), front (combined)
    "ffn": "S2: FFN variants and distillation",
    "skipping": "S3: skipped sublayers",
    "elimination": "S4: eliminated tokens",
    "front_per_token": "all methods: quality against time per token",
    "front_first_token": "all methods: quality against time to first token",
    "front_pretrained": "a checkpoint: quality against both times",
}

TABLES = [
    # the study
    *("corpus", "settings", "samples", "claims", "claims_notes"),
    # heads (S1)
    *("parameters", "published", "quality", "latency"),
    *("metrics_completion", "metrics_chat", "metrics_qa", "search", "budget"),
    # ffn and t5 (S2), skipping (S3), elimination (S4), front (combined)
    *("ffn", "distillation", "t5", "thesis", "skipping", "elimination", "front"),
    *("tasks", "front_pretrained", "both"),
]

ANALYSIS_TABLES = [  # beside estimates.csv, claims.csv and pareto.csv
    *("facts", "learning_rate", "budget", "gain", "roofline"),
    *("thesis", "methods", "interventions", "profiles", "gates"),
]

# Metric -> name as printed.
METRICS = {name: each.printed for name, each in TEXT_METRICS.items() if each.printed}

INFERENCE_TIME = "time_per_generated_token"  # the x axis of Figures 2b to 4
