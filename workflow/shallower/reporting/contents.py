"""What the report consists of: file names, shared with the workflow's rules."""

from shallower.evaluation.metrics import TEXT_METRICS

FIGURES = {  # name -> module of reporting/figures, label in the HTML report
    "training_loss": ("heads", "2a: training loss"),
    "perplexity_latency": ("heads", "2b: test perplexity against inference time"),
    "chat": ("heads", "3: chat completion against inference time"),
    "qa": ("heads", "4: question answering against inference time"),
    "training_time": ("heads", "5: parameters against training time"),
    "latency_scales": ("heads", "decoding time by depth at both scales"),
    "head_ablation": ("heads", "which part of the added layer matters"),
    "roofline": ("roofline", "decoding time against the bandwidth floor"),
    "learning_rate": ("search", "learning rate and initialisation"),
    "diagnostics": ("search", "the first block during training"),
    "budget": ("search", "gain of the added layer and of depth by training budget"),
    "ffn": ("ffn", "S2: FFN variants and distillation"),
    "skipping": ("skipping", "S3: skipped sublayers"),
    "elimination": ("elimination", "S4: eliminated tokens"),
    "front_per_token": ("front", "all methods: quality against time per token"),
    "front_first_token": ("front", "all methods: quality against time to first token"),
    "front_pretrained": ("front", "a checkpoint: quality against both times"),
}

TABLES = {  # name -> module of reporting/tables
    "corpus": "study",
    "settings": "study",
    "samples": "study",
    "claims": "study",
    "claims_others": "study",
    "contrasts": "study",
    "claims_notes": "study",
    "gates": "study",
    "provenance": "study",
    "parameters": "heads",
    "quality": "heads",
    "latency": "heads",
    "metrics_completion": "heads",
    "metrics_chat": "heads",
    "metrics_qa": "heads",
    "search": "heads",
    "budget": "heads",
    "ffn": "ffn",
    "distillation": "ffn",
    "t5": "ffn",
    "thesis": "ffn",
    "skipping": "interventions",
    "elimination": "interventions",
    "tasks": "interventions",
    "front": "front",
    "front_pretrained": "front",
    "both": "front",
}

ANALYSIS_TABLES = [  # beside estimates.csv, claims.csv and pareto.csv
    *("facts", "learning_rate", "budget", "gain", "roofline"),
    *("thesis", "methods", "interventions", "profiles", "gates"),
]

# Metric -> name as printed.
METRICS = {name: each.printed for name, each in TEXT_METRICS.items() if each.printed}

INFERENCE_TIME = "time_per_generated_token"  # the x axis of Figures 2b to 4
