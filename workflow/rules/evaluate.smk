# quality of one run and of all interventions on it, in one process
rule evaluate:
    input:
        unpack(scored_files),
        settings="<results>/evaluations/{model}/seed{seed}.spec.json",
        code=code_of("evaluate"),
        weights=rules.train.output.weights,
        facts=rules.train.output.facts,
        tokenizer=rules.tokenizer.output.model,
    output:
        scores="<results>/evaluations/{model}/seed{seed}.parquet",
        samples="<results>/evaluations/{model}/seed{seed}.samples.jsonl",
        interventions="<results>/evaluations/{model}/seed{seed}.interventions.json",
    log:
        "<logs>/evaluate/{model}-seed{seed}.log",
    conda:
        "../../envs/pipeline.yaml"
    threads: 1
    resources:
        gpu=1,
        cpus_per_task=1,
        mem_mb=8000,
        runtime=120,
    params:
        run=subpath(input.weights, parent=True),
        corpus=CORPUS,
        tokens=TOKENS,
    shell:
        "python -m shallower evaluate --settings {input.settings} --run {params.run}"
        " --corpus {params.corpus} --tokens {params.tokens}"
        " --tokenizer {input.tokenizer} --output {output.scores}"
        " --samples {output.samples} --interventions {output.interventions}"
        " --code {input.code} --threads {resources.cpus_per_task} > {log} 2>&1"


# what n-grams of the models' training tokens reach on the same text
rule floors:
    input:
        settings=str(INPUTS.settings_file("floors")),
        code=str(INPUTS.code_file("floors")),
        text=expand(
            "<results>/corpus/text/{split}.parquet", split=["validation", "test"]
        ),
        tokens=expand(
            "<results>/tokens/text/{split}/manifest.json",
            split=["train", "validation", "test"],
        ),
    output:
        table="<results>/floors.csv",
    log:
        "<logs>/floors.log",
    conda:
        "../../envs/pipeline.yaml"
    params:
        corpus=lambda wildcards, input: str(Path(input.text[0]).parents[1]),
        tokens=lambda wildcards, input: str(Path(input.tokens[0]).parents[1]),
    shell:
        "python -m shallower floors --settings {input.settings}"
        " --tokens {params.tokens} --corpus {params.corpus}"
        " --output {output.table} > {log} 2>&1"


# speed of all models, interleaved; takes every core so that nothing runs beside it
rule latency:
    input:
        settings=str(INPUTS.settings_file("latency")),
        code=str(INPUTS.code_file("latency")),
        weights=of_runs(rules.train.output.weights, timed_runs()),
        interventions=of_runs(
            rules.evaluate.output.interventions, study.intervened_runs
        ),
        checkpoints=of_runs(
            "<results>/evaluations/{model}/seed{seed}.interventions.json",
            study.scored if study.latency.pretrained else [],
        ),
        sets=rules.corpus.output.sets,
        tokenizer=rules.tokenizer.output.model,
    output:
        latency="<results>/latency.parquet",
        step_time="<results>/step_time.parquet",
        bandwidth="<results>/bandwidth.parquet",
    log:
        "<logs>/latency.log",
    conda:
        "../../envs/pipeline.yaml"
    threads: all_cores
    resources:
        gpu=1,
        mem_mb=latency_memory(),
        runtime=240,
        slurm_extra="--exclusive",
    params:
        runs=f"results/{study.study}/runs",
        evaluations=f"results/{study.study}/evaluations",
        corpus=lambda wildcards, input: str(Path(input.sets[0]).parents[1]),
    shell:
        "python -m shallower latency --settings {input.settings}"
        " --runs {params.runs} --evaluations {params.evaluations}"
        " --corpus {params.corpus} --tokenizer {input.tokenizer}"
        " --output {output.latency} --step-time {output.step_time}"
        " --bandwidth {output.bandwidth} > {log} 2>&1"


# sizes of all models, on the meta device, and what they predict
rule parameters:
    input:
        settings=str(INPUTS.settings_file("parameters")),
        code=str(INPUTS.code_file("parameters")),
    output:
        table="<results>/parameters.csv",
        predictions="<results>/predictions.csv",
    log:
        "<logs>/parameters.log",
    conda:
        "../../envs/pipeline.yaml"
    shell:
        "python -m shallower parameters --settings {input.settings}"
        " --output {output.table} --predictions {output.predictions}"
        " > {log} 2>&1"
