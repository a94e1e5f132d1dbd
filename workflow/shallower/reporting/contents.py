"""What the report consists of: file names, shared with the workflow's rules."""

from shallower.evaluation.metrics import TEXT_METRICS

FIGURES_BY_TOPIC = {  # module of reporting/figures -> name -> label in the HTML report
    "heads": {  # S1
        "training_loss": "2a: training loss",
        "perplexity_latency": "2b: test perplexity against inference time",
        "chat": "3: chat completion against inference time",
        "qa": "4: question answering against inference time",
        "training_time": "5: parameters against training time",
        "latency_scales": "decoding time by depth at both scales",
        "head_ablation": "which part of the added layer matters",
    },
    "roofline": {"roofline": "decoding time against the bandwidth floor"},
    "search": {
        "learning_rate": "learning rate and initialisation",
        "diagnostics": "the first block during training",
        "budget": "gain of the added layer and of depth by training budget",
    },
    "ffn": {"ffn": "S2: FFN variants and distillation"},
    "skipping": {"skipping": "S3: skipped sublayers"},
    "elimination": {"elimination": "S4: eliminated tokens"},
    "front": {
        "front_per_token": "all methods: quality against time per token",
        "front_first_token": "all methods: quality against time to first token",
        "front_pretrained": "a checkpoint: quality against both times",
    },
}
FIGURES = {
    name: label for topic in FIGURES_BY_TOPIC.values() for name, label in topic.items()
}

TABLES_BY_TOPIC = {  # module of reporting/tables -> names
    "study": [
        *("corpus", "settings", "samples", "claims", "claims_others", "contrasts"),
        *("claims_notes", "gates", "provenance"),
    ],
    "heads": [
        *("parameters", "quality", "latency"),
        *("metrics_completion", "metrics_chat", "metrics_qa", "search", "budget"),
    ],
    "ffn": ["ffn", "distillation", "t5", "thesis"],
    "interventions": ["skipping", "elimination", "tasks"],
    "front": ["front", "front_pretrained", "both"],
}
TABLES = [name for names in TABLES_BY_TOPIC.values() for name in names]

ANALYSIS_TABLES = [  # beside estimates.csv, claims.csv and pareto.csv
    *("facts", "learning_rate", "budget", "gain", "roofline"),
    *("thesis", "methods", "interventions", "profiles", "gates"),
]

# Metric -> name as printed.
METRICS = {name: each.printed for name, each in TEXT_METRICS.items() if each.printed}

INFERENCE_TIME = "time_per_generated_token"  # the x axis of Figures 2b to 4
