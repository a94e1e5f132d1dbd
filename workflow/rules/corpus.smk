# read the sources, split them by document, build the evaluation sets
rule corpus:
    input:
        settings=str(INPUTS.settings_file("corpus")),
        code=str(INPUTS.code_file("corpus")),
        files=own_files("corpus"),
        hub=hub_manifests(),
    output:
        text=expand(
            "<results>/corpus/text/{split}.parquet",
            split=["train", "validation", "test", "questions"],
        ),
        sets=expand("<results>/corpus/{set}/test.parquet", set=EVALUATION_SETS),
        manifest="<results>/corpus/manifest.json",
    log:
        "<logs>/corpus.log",
    conda:
        "../../envs/pipeline.yaml"
    params:
        directory=subpath(output.manifest, parent=True),
    shell:
        "python -m shallower corpus --settings {input.settings}"
        " --output {params.directory} > {log} 2>&1"
