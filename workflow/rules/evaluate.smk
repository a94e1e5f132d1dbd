# quality of one run: test text and all evaluation sets in one process
rule evaluate:
    input:
        unpack(scored_files),
        weights=rules.train.output.weights,
        tokenizer=rules.tokenizer.output.model,
    output:
        scores="<results>/evaluations/{model}/seed{seed}.parquet",
        samples="<results>/evaluations/{model}/seed{seed}.samples.jsonl",
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
        settings=evaluation_of,
        code=code_digest("evaluation.evaluate"),
    shell:
        "python -m shallower evaluate --folder {params.run} --corpus {params.corpus}"
        " --tokens {params.tokens} --tokenizer {input.tokenizer}"
        " --settings {params.settings:q} --output {output.scores}"
        " --samples {output.samples} --threads {resources.cpus_per_task}"
        " 2> >(tee {log} >&2)"


# what is done to one run at inference alone: all its arms in one process. A rule a model
# that has arms, since a rule has as many outputs for every value of its wildcards.
for run in study.arms_of:

    rule:
        name:
            arms_rule(run)
        input:
            weights=f"<results>/runs/{run}/seed{{seed}}/model.safetensors",
            facts=f"<results>/runs/{run}/seed{{seed}}/training.json",
            test="<results>/tokens/text/test/manifest.json",
            validation="<results>/tokens/text/validation/manifest.json",
            sets=arm_sets,
            tokenizer=rules.tokenizer.output.model,
        output:
            [
                f"<results>/evaluations/{arm}/seed{{seed}}.{kind}"
                for arm in study.arms_of[run]
                for kind in ("parquet", "samples.jsonl")
            ],
            arms=f"<results>/evaluations/{run}/seed{{seed}}.arms.json",
        log:
            f"<logs>/arms/{run}-seed{{seed}}.log",
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
            tokens=subpath(input.test, ancestor=2),
            settings=arm_settings(run),
            evaluations=subpath(output.arms, ancestor=2),
            code=code_digest("evaluation.arms"),
        shell:
            "python -m shallower arms --folder {params.run} --corpus {params.corpus}"
            " --tokens {params.tokens} --tokenizer {input.tokenizer}"
            " --settings {params.settings:q} --output {params.evaluations}"
            " --threads {resources.cpus_per_task} 2> >(tee {log} >&2)"


# speed of all models, interleaved; takes every core so that nothing runs beside it
rule latency:
    input:
        weights=of_runs(rules.train.output.weights, study.timed_runs),
        arms=of_runs(ARMS, study.arm_runs),
        sets=rules.corpus.output.sets,
        text="<results>/corpus/text/test.parquet",
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
        mem_mb=16000,
        runtime=240,
        slurm_extra="--exclusive",
    params:
        runs=runs_folder,
        corpus=subpath(input.text, ancestor=2),
        evaluations=f"results/{study.study}/evaluations",
        settings=whole_study,
        depends=depends_on(study.timed),
        code=code_digest("evaluation.latency"),
    shell:
        "python -m shallower latency --settings {params.settings:q}"
        " --runs {params.runs} --corpus {params.corpus} --tokenizer {input.tokenizer}"
        " --evaluations {params.evaluations} --output {output.latency}"
        " --step-time {output.step_time} --bandwidth {output.bandwidth}"
        " 2> >(tee {log} >&2)"


# sizes of all models, on the meta device
rule parameters:
    output:
        table=report(
            "<results>/parameters.csv",
            category="Tables",
            labels={"table": "parameters and FLOPs"},
            caption="../../report/captions/parameters_table.rst",
        ),
    log:
        "<logs>/parameters.log",
    conda:
        "../../envs/pipeline.yaml"
    params:
        settings=whole_study,
        depends=depends_on(study.counted),
        code=code_digest("evaluation.parameters"),
    shell:
        "python -m shallower parameters --settings {params.settings:q}"
        " --output {output.table} 2>&1 | tee {log}"
