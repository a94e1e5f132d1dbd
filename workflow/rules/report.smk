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
        svg=expand("<results>/figures/{figure}.svg", figure=FIGURES),
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


# typeset the paper
rule typeset:
    input:
        source="report/paper.tex",
        parts=sorted(map(str, Path("report").glob("s*/*.tex"))),
        style="report/shallower.sty",
        script="report/typeset.sh",
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
        "({input.script} {params.results}"
        " && python -m shallower copy --source {params.results}/typeset/paper.pdf"
        " --output {output.pdf}) > {log} 2>&1"


# if everything can be made again: what the study was made with, checksums of all results
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
        "python -m shallower provenance --results {params.results}"
        " --threads {threads} > {log} 2>&1"


# the copy for the study that was asked for, if everything in it could be made again;
# until then the last good one stays
rule paper:
    input:
        pdf=rules.typeset.output.pdf,
        provenance=rules.provenance.output.provenance,
    output:
        pdf=update("report/paper.pdf"),
    log:
        "<logs>/paper.log",
    conda:
        "../../envs/pipeline.yaml"
    shell:
        "python -m shallower copy --source {input.pdf} --output {output.pdf}"
        " > {log} 2>&1"


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


# In a folder of its own: notebooks that run at once would share IPython's, and a home may
# not be there to be written to. As a page that asks for nothing on a network.
NOTEBOOK = (
    "export IPYTHONDIR=$(mktemp -d);"
    """ trap 'rm -rf "$IPYTHONDIR"' EXIT;"""
    ' export JUPYTER_CONFIG_DIR="$IPYTHONDIR";'
    ' made="$IPYTHONDIR"/$(basename {output.notebook} .ipynb);'
    ' (papermill {input.notebook} "$made".ipynb --kernel python3'
    " --no-progress-bar -p results {params.results}"
)
NOTEBOOK_END = (
    " && jupyter nbconvert --to html --embed-images --HTMLExporter.mathjax_url="
    ' --HTMLExporter.require_js_url= "$made".ipynb'
    ' && python -m shallower copy --source "$made".ipynb --output {output.notebook}'
    ' --source "$made".html --output {output.html}) > {log} 2>&1'
)
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
        html="<results>/notebooks/training.html",
    log:
        "<logs>/notebooks/training.log",
    conda:
        "../../envs/pipeline.yaml"
    params:
        results=subpath(output.notebook, ancestor=2),
        model=SHOWN[0],
        seed=SHOWN[1],
    shell:
        "".join(
            (NOTEBOOK, " -p model {params.model} -p seed {params.seed}", NOTEBOOK_END)
        )


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
        html="<results>/notebooks/comparison.html",
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
        "".join(
            (
                NOTEBOOK,
                " -p left {params.left} -p right {params.right} -p seed {params.seed}",
                NOTEBOOK_END,
            )
        )


# one claim, step by step from raw rows to its verdict
rule notebook_claim:
    input:
        notebook="notebooks/claim.ipynb",
        # it compares as well, and would stop before what is wrong has been named
        verified=ancient(str(rules.provenance.output.provenance)),
        claims=rules.estimates.output.claims,
        others=rules.estimates.output.others,
        by_seed=rules.summary.output.by_seed,
        scores=of_runs(
            rules.evaluate.output.scores,
            [(m, seed) for m in study.depth_models for seed in study.seeds],
        ),
    output:
        notebook="<results>/notebooks/claim.ipynb",
        html="<results>/notebooks/claim.html",
    log:
        "<logs>/notebooks/claim.log",
    conda:
        "../../envs/pipeline.yaml"
    params:
        results=subpath(output.notebook, ancestor=2),
    shell:
        NOTEBOOK + NOTEBOOK_END


rule notebooks:
    input:
        rules.notebook_claim.output.html if study.models else [],
        rules.notebook_training.output.html if study.models else [],
        rules.notebook_comparison.output.html if study.models else [],


# verdicts, figures and tables as one page for a browser; it has links to the paper and the
# notebooks, so it needs that they are there, not what is in them
rule page:
    input:
        study=str(INPUTS.study_file),
        code=str(INPUTS.code_file("page")),
        page=expand("report/page/page.{kind}", kind=["html", "css", "js"]),
        captions=expand("report/captions/{figure}.txt", figure=FIGURES),
        svg=rules.figures.output.svg,
        estimates=rules.estimates.output,
        parameters=rules.parameters.output.table,
        provenance=rules.provenance.output.provenance,
        # as text: a mark on a rule's own output would hold for every rule that reads it
        paper=ancient(str(rules.typeset.output.pdf)),
        notebooks=ancient([str(file) for file in rules.notebooks.input]),
    output:
        page="<results>/report.html",
    log:
        "<logs>/page.log",
    conda:
        "../../envs/pipeline.yaml"
    params:
        results=subpath(output.page, parent=True),
        notebooks=lambda wildcards, input: " ".join(
            f"--notebooks notebooks/{Path(file).stem}.ipynb"
            for file in input.notebooks
        ),
    shell:
        "python -m shallower page --results {params.results} {params.notebooks}"
        " > {log} 2>&1"


# code, configuration, result tables and paper as one file; without an output it is always
# written, since any file of the code may have changed
rule archive:
    input:
        paper=rules.paper.output.pdf,
        page=rules.page.output.page,
        notebooks=rules.notebooks.input,
    log:
        "<logs>/archive.log",
    conda:
        "../../envs/pipeline.yaml"
    params:
        results=subpath(input.page, parent=True),
    shell:
        "python -m shallower archive --results {params.results} 2> {log}"
