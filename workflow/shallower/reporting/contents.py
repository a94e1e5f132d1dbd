"""What the report consists of: file names, shared with the workflow's rules."""

FIGURES = {  # name -> label in the HTML report
    "training_loss": "2a: training loss",
    "perplexity_latency": "2b: test perplexity against inference time",
    "chat": "3: chat completion against inference time",
    "qa": "4: question answering against inference time",
    "completion": "sentence completion against inference time",
    "training_time": "5: parameters against training time",
    "latency_scales": "decoding time by depth at both scales",
    "roofline": "decoding time against the bandwidth floor",
    "head_ablation": "F1: which part of the layer matters",
    "learning_rate": "F2: learning rate and initialisation",
    "diagnostics": "F2: the first block during training",
    "budget": "F3: depth by training budget",
    "ffn": "S2: FFN variants and distillation",
    "maximum": "S2: the best of several runs",
}

TABLES = [
    "parameters",
    "published",
    "claims",
    "claims_notes",
    "quality",
    "latency",
    "metrics_completion",
    "metrics_chat",
    "metrics_qa",
    "corpus",
    "search",
    "budget",
    "ffn",
    "distillation",
    "ffn_seeds",
    "thesis",
    "thesis_sizes",
    "thesis_maxima",
    "t5",
    "settings",
    "samples",
]

METRICS = {  # metric -> name as printed
    "bleu1": "BLEU-1",
    "bleu2": "BLEU-2",
    "bleu3": "BLEU-3",
    "bleu4": "BLEU-4",
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L",
    "fuzzy": "FuzzyWuzzy",
}

INFERENCE_TIME = "time_per_generated_token"  # the x axis of Figures 2b to 4
