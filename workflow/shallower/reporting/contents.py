"""What the report consists of: file names, shared with the workflow's rules."""

from shallower.evaluation.metrics import TEXT_METRICS

FIGURES = {  # name -> module of reporting/figures, title in report.html
    "training_loss": ("heads", "Training loss (Figure 2a of the original)"),
    "perplexity_latency": (
        "heads",
        "Test perplexity against inference time (Figure 2b)",
    ),
    "chat": ("heads", "Chat completion against inference time (Figure 3)"),
    "qa": ("heads", "Question answering against inference time (Figure 4)"),
    "training_time": ("heads", "Parameters against training time (Figure 5)"),
    "latency_scales": ("heads", "Decoding time by depth at both scales"),
    "head_ablation": ("heads", "Which part of the added layer matters"),
    "roofline": ("roofline", "Decoding time against the bandwidth floor"),
    "learning_rate": ("search", "Learning rate and initialisation"),
    "diagnostics": ("search", "The first block during training"),
    "budget": ("search", "Gain of the added layer and of depth by training budget"),
    "ffn": ("ffn", "FFN variants and distillation"),
    "skipping": ("skipping", "Skipped sublayers"),
    "elimination": ("elimination", "Eliminated tokens"),
    "front_per_token": ("front", "Quality against time per token"),
    "front_first_token": ("front", "Quality against time to first token"),
    "front_pretrained": ("front", "A checkpoint: quality against both times"),
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

# Claims that a reader sees first: richer, fewer, faster, and whether depth helps.
HEADLINES = ("C5", "C6", "C7", "C11")
VERDICTS = ("supported", "not supported", "inconclusive", "not tested")

INFERENCE_TIME = "time_per_generated_token"  # the x axis of Figures 2b to 4
