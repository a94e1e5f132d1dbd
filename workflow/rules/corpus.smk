# read the sources, split them by document, build the evaluation sets
rule corpus:
    input:
        files=source_files(),
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
        settings=as_json(study.corpus.model_dump(mode="json", exclude={"pairs"})),
        code=code_digest("corpus.build"),
    shell:
        "python -m shallower corpus --settings {params.settings:q}"
        " --output {params.directory} 2> >(tee {log} >&2)"
