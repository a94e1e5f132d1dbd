# every figure of the paper, as PDF for print and SVG for screens
rule figures:
    input:
        study=str(INPUTS.study_file),
        code=str(INPUTS.code_file("figures")),
        summary=rules.summary.output.summary,
        by_seed=rules.summary.output.by_seed,
        estimates=rules.estimates.output,
        floors=rules.floors.output.table,
        parameters=rules.parameters.output.table,
        runs=rules.summary.output.runs,
    output:
        pdf=expand("<results>/figures/{figure}.pdf", figure=FIGURES),
        svg=[
            report(
                f"<results>/figures/{figure}.svg",
                category="Figures",
                labels={"figure": label},
                caption=f"../../report/captions/{figure}.rst",
            )
            for figure, (_, label) in FIGURES.items()
        ],
    log:
        "<logs>/figures.log",
    conda:
        "../../envs/pipeline.yaml"
    threads: 2  # processes that share out the figures
    params:
        results=subpath(input.summary, parent=True),
    shell:
        "python -m shallower figures --results {params.results} --threads {threads}"
        " > {log} 2>&1"


# the paper's tables, and every number its text mentions
rule tables:
    input:
        study=str(INPUTS.study_file),
        code=str(INPUTS.code_file("tables")),
        summary=rules.summary.output.summary,
        sessions=rules.summary.output.sessions,
        estimates=rules.estimates.output,
        floors=rules.floors.output.table,
        parameters=rules.parameters.output.table,
        manifest=rules.corpus.output.manifest,
        tokens=expand(
            "<results>/tokens/text/{split}/manifest.json", split=["train", "test"]
        ),
        runs=rules.summary.output.runs,
        benchmark="benchmarks/results/decode.csv",
        benchmarked="benchmarks/results/about.json",
    output:
        tables=expand("<results>/tables/{table}.tex", table=TABLES),
        numbers="<results>/numbers.tex",
    log:
        "<logs>/tables.log",
    conda:
        "../../envs/pipeline.yaml"
    params:
        results=subpath(output.numbers, parent=True),
    shell:
        "python -m shallower tables --results {params.results} > {log} 2>&1"


# typeset the paper; no shell escape, and a fixed date so that the same input gives
# the same bytes
rule typeset:
    input:
        source="report/paper.tex",
        parts=sorted(map(str, Path("report").glob("s*/*.tex"))),
        style="report/shallower.sty",
        references="report/references.bib",
        figures=rules.figures.output.pdf,
        tables=rules.tables.output.tables,
        numbers=rules.tables.output.numbers,
    output:
        pdf="<results>/paper.pdf",
    log:
        "<logs>/typeset.log",
    conda:
        "../../envs/paper.yaml"
    params:
        results=subpath(output.pdf, parent=True),
    shell:
        "export SOURCE_DATE_EPOCH=0 FORCE_SOURCE_DATE=1 BIBINPUTS=report:"
        " TEXINPUTS=report:{params.results}: ;"
        " latexmk -g -pdf -no-shell-escape -interaction=nonstopmode -halt-on-error -file-line-error"
        " -outdir={params.results}/typeset {input.source} > {log} 2>&1"
        " || {{ reason=$(grep -m1 -A2 -E '^[^ ]+:[0-9]+:' {log} | paste -sd' ');"
        " echo $reason >> {log}; exit 1; }};"
        " cp {params.results}/typeset/paper.pdf {output.pdf}"


# what the study was made with, and the checksum of every result
rule provenance:
    input:
        study=str(INPUTS.study_file),
        code=str(INPUTS.code_file("provenance")),
        figures=rules.figures.output.pdf,
        tables=rules.tables.output.tables,
        numbers=rules.tables.output.numbers,
        runs=rules.summary.output.runs,
    output:
        provenance="<results>/provenance.json",
    log:
        "<logs>/provenance.log",
    conda:
        "../../envs/pipeline.yaml"
    params:
        results=subpath(output.provenance, parent=True),
    shell:
        "python -m shallower provenance --results {params.results}" " > {log} 2>&1"


# the copy for the study that was asked for, if everything in it can be made again
rule paper:
    input:
        pdf=rules.typeset.output.pdf,
        provenance=rules.provenance.output.provenance,
    output:
        pdf=report(
            "report/paper.pdf",
            category="Paper",
            caption="../../report/captions/paper.rst",
        ),
    log:
        "<logs>/paper.log",
    conda:
        "../../envs/pipeline.yaml"
    threads: 2  # the figures are drawn again
    params:
        results=subpath(input.provenance, parent=True),
    shell:
        "(python -m shallower verify --results {params.results}"
        " --threads {threads} && cp {input.pdf} {output.pdf}) > {log} 2>&1"


# the same check by itself: without an output it always runs, and without an input it
# makes nothing that is missing but says so
rule verify:
    log:
        "<logs>/verify.log",
    conda:
        "../../envs/pipeline.yaml"
    threads: 2  # the figures are drawn again
    params:
        results=f"results/{study.study}",
    shell:
        "python -m shallower verify --results {params.results}"
        " --threads {threads} > {log} 2>&1"


# Where nothing is trained, of no run: nothing asks for the notebooks then.
SHOWN = ((study.depth_models or [study.deepest_baseline])[-1], study.seeds[0])


# the training curves of one run, of the deepest model
rule notebook_training:
    input:
        notebook="notebooks/training.ipynb",
        losses=of_runs(rules.train.output.losses, [SHOWN]),
        facts=of_runs(rules.train.output.facts, [SHOWN]),
    output:
        notebook="<results>/notebooks/training.ipynb",
        html=report(
            "<results>/notebooks/training.html",
            category="Notebooks",
            labels={"notebook": "training curves of a run"},
            caption="../../report/captions/notebook_training.rst",
        ),
    log:
        "<logs>/notebooks/training.log",
    conda:
        "../../envs/pipeline.yaml"
    params:
        results=subpath(output.notebook, ancestor=2),
        model=SHOWN[0],
        seed=SHOWN[1],
    shell:
        "(papermill {input.notebook} {output.notebook} --kernel python3"
        " --no-progress-bar -p results {params.results} -p model {params.model}"
        " -p seed {params.seed} && jupyter nbconvert --to html --embed-images"
        " {output.notebook}) > {log} 2>&1"


COMPARED = (f"baseline-{study.depths[-1]}", f"proposed-{study.depths[0]}")


# two models side by side, with what they generate
rule notebook_comparison:
    input:
        notebook="notebooks/comparison.ipynb",
        study=str(INPUTS.study_file),
        summary=rules.summary.output.summary,
        by_seed=rules.summary.output.by_seed,
        scores=of_runs(
            rules.evaluate.output.scores,
            [(model, seed) for model in COMPARED for seed in study.seeds],
        ),
        samples=of_runs(
            rules.evaluate.output.samples,
            [(model, study.seeds[0]) for model in COMPARED],
        ),
    output:
        notebook="<results>/notebooks/comparison.ipynb",
        html=report(
            "<results>/notebooks/comparison.html",
            category="Notebooks",
            labels={"notebook": "two models compared"},
            caption="../../report/captions/notebook_comparison.rst",
        ),
    log:
        "<logs>/notebooks/comparison.log",
    conda:
        "../../envs/pipeline.yaml"
    params:
        results=subpath(output.notebook, ancestor=2),
        left=COMPARED[0],
        right=COMPARED[1],
        seed=study.seeds[0],
    shell:
        "(papermill {input.notebook} {output.notebook} --kernel python3"
        " --no-progress-bar -p results {params.results} -p left {params.left}"
        " -p right {params.right} -p seed {params.seed} && jupyter nbconvert --to html"
        " --embed-images {output.notebook}) > {log} 2>&1"


# one claim, step by step from raw rows to its verdict
rule notebook_claim:
    input:
        notebook="notebooks/claim.ipynb",
        claims=rules.estimates.output.claims,
        others=rules.estimates.output.others,
        by_seed=rules.summary.output.by_seed,
        scores=of_runs(
            rules.evaluate.output.scores,
            [(m, seed) for m in study.depth_models for seed in study.seeds],
        ),
    output:
        notebook="<results>/notebooks/claim.ipynb",
        html=report(
            "<results>/notebooks/claim.html",
            category="Notebooks",
            labels={"notebook": "one claim, from raw rows to its verdict"},
            caption="../../report/captions/notebook_claim.rst",
        ),
    log:
        "<logs>/notebooks/claim.log",
    conda:
        "../../envs/pipeline.yaml"
    params:
        results=subpath(output.notebook, ancestor=2),
    shell:
        "(papermill {input.notebook} {output.notebook} --kernel python3"
        " --no-progress-bar -p results {params.results} && jupyter nbconvert --to html"
        " --embed-images {output.notebook}) > {log} 2>&1"


rule notebooks:
    input:
        rules.notebook_claim.output.html if study.models else [],
        rules.notebook_training.output.html if study.models else [],
        rules.notebook_comparison.output.html if study.models else [],
