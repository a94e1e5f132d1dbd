# pairs of sentences for the encoder-decoders, and what simple rules answer to them
rule pairs:
    input:
        settings=str(INPUTS.settings_file("pairs")),
        code=str(INPUTS.code_file("pairs")),
        text=expand(
            "<results>/corpus/text/{split}.parquet",
            split=["train", "validation", "test"],
        ),
        files=own_files("pairs"),
        hub=hub_manifests(of_pairs=True),
    output:
        pairs=expand(
            "<results>/corpus/pairs/{split}.parquet",
            split=["train", "validation", "test"],
        ),
        manifest="<results>/corpus/pairs/manifest.json",
        baselines="<results>/evaluations/pairs.parquet",
    log:
        "<logs>/pairs.log",
    conda:
        "../../envs/pipeline.yaml"
    params:
        directory=subpath(output.manifest, parent=True),
        corpus=subpath(output.manifest, ancestor=2),
    shell:
        "python -m shallower pairs --settings {input.settings}"
        " --corpus {params.corpus} --output {params.directory}"
        " --baselines {output.baselines} > {log} 2>&1"
