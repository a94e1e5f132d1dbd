# one CSV per data set, one of all, and the paired differences; the only rule that has
# every run's files as input, of which it writes the list that later rules depend on
rule summary:
    input:
        spec=of_every_run(rules.train.output.spec),
        losses=of_every_run(rules.train.output.losses),
        diagnostics=of_every_run(rules.train.output.diagnostics),
        facts=of_every_run(rules.train.output.facts),
        scores=of_every_run(rules.evaluate.output.scores),
        samples=of_every_run(rules.evaluate.output.samples),
        arms=of_runs(ARMS, study.arm_runs),
        arm_scores=of_runs(rules.evaluate.output.scores, study.arm_cells),
        latency=rules.latency.output.latency,
        step_time=rules.latency.output.step_time,
        baselines=rules.pairs.output.baselines if study.experiments.t5 else [],
    output:
        summary=report(
            "<results>/summary.csv",
            category="Tables",
            labels={"table": "summary of everything"},
            caption="../../report/captions/summary.rst",
        ),
        sets=expand("<results>/summaries/{set}.csv", set=SUMMARISED_SETS),
        by_seed="<results>/by_seed.csv",
        sessions="<results>/sessions.csv",
        runs="<results>/runs.json",
        comparisons=report(
            "<results>/comparisons.csv",
            category="Tables",
            labels={"table": "paired comparisons"},
            caption="../../report/captions/comparisons.rst",
        ),
    log:
        "<logs>/summary.log",
    conda:
        "../../envs/pipeline.yaml"
    params:
        results=subpath(output.summary, parent=True),
        settings=whole_study,
        depends=depends_on(study.summarised),
        sets=SUMMARISED_SETS,
        code=code_digest(
            "analysis.summary", "analysis.comparisons", "analysis.inventory"
        ),
    shell:
        "python -m shallower summary --results {params.results}"
        " --settings {params.settings:q} --sets {params.sets}"
        " 2> >(tee {log} >&2)"


# all methods by quality and latency: the front, gains over depth, what combines
rule front:
    input:
        by_seed=rules.summary.output.by_seed,
        parameters=rules.parameters.output.table,
        runs=rules.summary.output.runs,
    output:
        pareto=report(
            "<results>/pareto.csv",
            category="Tables",
            labels={"table": "quality against latency"},
            caption="../../report/captions/pareto.rst",
        ),
        tables=expand("<results>/{table}.csv", table=FRONT_TABLES),
    log:
        "<logs>/front.log",
    conda:
        "../../envs/pipeline.yaml"
    params:
        results=subpath(output.pareto, parent=True),
        settings=STUDY,
        code=code_digest("analysis.front"),
    shell:
        "python -m shallower front --results {params.results}"
        " --settings {params.settings:q} 2> >(tee {log} >&2)"


# every claim of the original with its verdict; search, budgets and roofline
rule claims:
    input:
        by_seed=rules.summary.output.by_seed,
        parameters=rules.parameters.output.table,
        runs=rules.summary.output.runs,
        latency=rules.latency.output.latency,
        bandwidth=rules.latency.output.bandwidth,
        front=rules.front.output.pareto,
    output:
        claims=report(
            "<results>/claims.csv",
            category="Tables",
            labels={"table": "claims and verdicts"},
            caption="../../report/captions/claims.rst",
        ),
        search="<results>/learning_rate.csv",
        envelopes="<results>/learning_rate_envelope.csv",
        budgets="<results>/budget.csv",
        budget_pairs="<results>/budget_pairs.csv",
        roofline="<results>/roofline.csv",
        pairs="<results>/roofline_pairs.csv",
    log:
        "<logs>/claims.log",
    conda:
        "../../envs/pipeline.yaml"
    params:
        results=subpath(output.claims, parent=True),
        settings=STUDY,
        code=code_digest(
            "analysis.claims",
            "analysis.search",
            "analysis.budgets",
            "analysis.roofline",
        ),
    shell:
        "python -m shallower claims --results {params.results}"
        " --settings {params.settings:q} 2> >(tee {log} >&2)"
