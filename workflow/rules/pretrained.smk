# quality of one pretrained checkpoint and of all interventions on it, in one process
rule pretrained:
    input:
        settings="<results>/evaluations/{checkpoint}/seed0.spec.json",
        code=str(INPUTS.code_file("pretrained")),
        weights=checkpoint_file,
        corpus=rules.corpus.output.text,
        sets=[f"<results>/corpus/{name}/test.parquet" for name in study.pretrained.sets],
    output:
        scores="<results>/evaluations/{checkpoint}/seed0.parquet",
        interventions="<results>/evaluations/{checkpoint}/seed0.interventions.json",
    log:
        "<logs>/pretrained/{checkpoint}.log",
    conda:
        "../../envs/pipeline.yaml"
    threads: 2
    resources:
        gpu=1,
        cpus_per_task=2,
        mem_mb=checkpoint_memory,
        runtime=120,
    params:
        corpus=lambda wildcards, input: str(Path(input.corpus[0]).parents[1]),
    shell:
        "python -m shallower pretrained --settings {input.settings}"
        " --corpus {params.corpus} --output {output.scores}"
        " --interventions {output.interventions}"
        " --threads {resources.cpus_per_task} > {log} 2>&1"
