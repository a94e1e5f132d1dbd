# one CSV per data set, and one of all; the only rule that has every run's files as input,
# of which it writes the list that later rules depend on
rule summary:
    input:
        study=str(INPUTS.study_file),
        code=str(INPUTS.code_file("summary")),
        losses=of_every_run(rules.train.output.losses),
        diagnostics=of_every_run(rules.train.output.diagnostics),
        facts=of_every_run(rules.train.output.facts),
        scores=of_every_run(rules.evaluate.output.scores),
        samples=of_every_run(rules.evaluate.output.samples),
        interventions=of_every_run(rules.evaluate.output.interventions),
        checkpoints=expand(rules.pretrained.output, checkpoint=study.pretrained.chosen),
        latency=rules.latency.output.latency,
        step_time=rules.latency.output.step_time,
        baselines=rules.pairs.output.baselines if study.experiments.t5 else [],
    output:
        summary="<results>/summary.csv",
        sets=expand("<results>/summaries/{set}.csv", set=SUMMARISED_SETS),
        by_seed="<results>/by_seed.csv",
        sessions="<results>/sessions.csv",
        runs="<results>/runs.json",
    log:
        "<logs>/summary.log",
    conda:
        "../../envs/pipeline.yaml"
    params:
        results=subpath(output.summary, parent=True),
    shell:
        "python -m shallower summary --results {params.results} > {log} 2>&1"


# every difference and ratio with its interval, every claim with its verdict, all methods
# by quality and latency
rule estimates:
    input:
        study=str(INPUTS.study_file),
        code=str(INPUTS.code_file("estimates")),
        summary=rules.summary.output.summary,
        by_seed=rules.summary.output.by_seed,
        sessions=rules.summary.output.sessions,
        corpus=rules.corpus.output.manifest,
        tokens=expand(
            rules.shards.output.manifest, split=["train", "validation", "test"]
        ),
        parameters=rules.parameters.output.table,
        predictions=rules.parameters.output.predictions,
        floors=rules.floors.output.table,
        runs=rules.summary.output.runs,
        latency=rules.latency.output.latency,
        bandwidth=rules.latency.output.bandwidth,
    output:
        estimates="<results>/estimates.csv",
        claims="<results>/claims.csv",
        pareto="<results>/pareto.csv",
        others=expand("<results>/{table}.csv", table=ANALYSIS_TABLES),
    log:
        "<logs>/estimates.log",
    conda:
        "../../envs/pipeline.yaml"
    params:
        results=subpath(output.claims, parent=True),
    shell:
        "python -m shallower estimates --results {params.results} > {log} 2>&1"
