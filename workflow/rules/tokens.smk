# train the tokenizer on the training split, or adopt a given one
rule tokenizer:
    input:
        settings=str(INPUTS.settings_file("tokenizer")),
        code=str(INPUTS.code_file("tokenizer")),
        text="<results>/corpus/text/train.parquet",
        given=downloaded_tokenizer(),
        files=own_files("tokenizer"),
    output:
        model="<results>/tokens/tokenizer.model",
    log:
        "<logs>/tokenizer.log",
    conda:
        "../../envs/pipeline.yaml"
    resources:
        mem_mb=8000,
        runtime=60,
    params:
        given=lambda wildcards, input: (
            f"--given {shlex.quote(str(input.given))}" if input.given else ""
        ),
    shell:
        "python -m shallower tokenizer --settings {input.settings} --text {input.text}"
        " {params.given} --output {output.model} > {log} 2>&1"


# tokenize one part of a split
rule shard:
    input:
        code=str(INPUTS.code_file("shards")),
        text="<results>/corpus/text/{split}.parquet",
        tokenizer=rules.tokenizer.output.model,
    output:
        tokens="<results>/tokens/text/{split}/shard-{part}.bin",
        offsets="<results>/tokens/text/{split}/shard-{part}.offsets.npy",
        check="<results>/tokens/text/{split}/shard-{part}.check.json",
    log:
        "<logs>/shard/{split}-{part}.log",
    conda:
        "../../envs/pipeline.yaml"
    resources:
        mem_mb=2000,
        runtime=120,
    params:
        parts=parts_of,
    shell:
        "python -m shallower shard --text {input.text} --tokenizer {input.tokenizer}"
        " --part {wildcards.part} --parts {params.parts} --output {output.tokens}"
        " > {log} 2>&1"


# describe a split's shards, with checksums
rule shards:
    input:
        code=str(INPUTS.code_file("shards")),
        shards=shards_of,
        tokenizer=rules.tokenizer.output.model,
    output:
        manifest="<results>/tokens/text/{split}/manifest.json",
    log:
        "<logs>/shard/{split}.log",
    conda:
        "../../envs/pipeline.yaml"
    params:
        shards=lambda wildcards, input: [f"--shards {path}" for path in input.shards],
    shell:
        "python -m shallower manifest --tokenizer {input.tokenizer}"
        " --output {output.manifest} {params.shards} > {log} 2>&1"
