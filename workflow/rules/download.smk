# download a data set or a checkpoint at its locked revision; continues where it stopped
rule download:
    output:
        # the parts beside it are no outputs: a failed job's outputs are deleted
        manifest=downloaded.FOLDER / "{name}" / downloaded.MANIFEST,
    log:
        "<logs>/download/{name}.log",
    wildcard_constraints:
        name="|".join(map(re.escape, [*HUB, *study.pretrained.downloads])) or "none",
    localrule: True  # compute nodes have no internet
    conda:
        "../../envs/pipeline.yaml"
    params:
        directory=subpath(output.manifest, parent=True),
        results=str(INPUTS.directory),
        lock=str(downloaded.LOCK),
    shell:
        "python -m shallower download --name {wildcards.name}"
        " --results {params.results} --lock {params.lock}"
        " --output {params.directory} > {log} 2>&1"


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
            settings=str(INPUTS.settings_file("tokenizer")),
            lock=str(downloaded.LOCK),
        shell:
            "python -m shallower download-file --settings {params.settings}"
            " --lock {params.lock} --output {output.file} > {log} 2>&1"
