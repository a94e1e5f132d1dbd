"""Shallower: from data to report/paper.pdf. `workflow/rules` has one file a stage."""

from snakemake.utils import min_version

min_version("9.20")


configfile: "config.yaml"


include: "workflow/rules/common.smk"
include: "workflow/rules/download.smk"
include: "workflow/rules/corpus.smk"
include: "workflow/rules/pairs.smk"
include: "workflow/rules/tokens.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/pretrained.smk"
include: "workflow/rules/analyse.smk"
include: "workflow/rules/report.smk"


# the paper of the study that was asked for, and everything beside it
rule all:
    default_target: True
    input:
        paper="report/paper.pdf",
        notebooks=rules.notebooks.input,
        page=rules.page.output.page,
