# download a data set at its locked revision; continues where it stopped
rule download:
    output:
        # the parts beside it are no outputs: a failed job's outputs are deleted
        manifest=downloaded.FOLDER / "{name}" / downloaded.MANIFEST,
    log:
        "<logs>/download/{name}.log",
    wildcard_constraints:
        name="|".join(map(re.escape, HUB)) or "none",
    localrule: True  # compute nodes have no internet
    conda:
        "../../envs/pipeline.yaml"
    params:
        directory=subpath(output.manifest, parent=True),
        settings=lambda wildcards: as_json(HUB[wildcards.name].source),
        kind=lambda wildcards: HUB[wildcards.name].kind,
        key=lambda wildcards: HUB[wildcards.name].key,
        lock=str(downloaded.LOCK),
        code=code_digest("corpus.hub"),
    shell:
        "python -m shallower download --settings {params.settings:q}"
        " --kind {params.kind} --key {params.key} --lock {params.lock}"
        " --output {params.directory} 2> >(tee {log} >&2)"


if HUB_FILE is not None:

    # download the tokenizer at its locked revision
    rule download_file:
        output:
            file=downloaded.file_path(
                HUB_FILE.repository, HUB_FILE.file, HUB_FILE.revision
            ),
        log:
            "<logs>/download/tokenizer.log",
        localrule: True
        conda:
            "../../envs/pipeline.yaml"
        params:
            settings=as_json(HUB_FILE),
            lock=str(downloaded.LOCK),
            code=code_digest("corpus.hub"),
        shell:
            "python -m shallower download-file --settings {params.settings:q}"
            " --lock {params.lock} --output {output.file} 2> >(tee {log} >&2)"
