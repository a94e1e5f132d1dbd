# train one model with one seed; checkpoints are no outputs, so that a kill loses nothing
rule train:
    input:
        unpack(training_files),
        spec="<results>/runs/{model}/seed{seed}/spec.yaml",
        code=code_of("train"),
        tokens="<results>/tokens/text/train/manifest.json",
    output:
        losses="<results>/runs/{model}/seed{seed}/losses.csv",
        diagnostics="<results>/runs/{model}/seed{seed}/diagnostics.csv",
        facts="<results>/runs/{model}/seed{seed}/training.json",
        weights="<results>/runs/{model}/seed{seed}/model.safetensors",
    log:
        "<logs>/train/{model}-seed{seed}.log",
    conda:
        "../../envs/pipeline.yaml"
    threads: 1
    resources:
        gpu=1,
        cpus_per_task=1,
        mem_mb=8000,
        runtime=240,
        processes=1,
        parallel="data",
    params:
        tokens=subpath(input.tokens, parent=True),
        folder=subpath(input.spec, parent=True),
        checkpoints=f"results/{study.study}/checkpoints/{{model}}/seed{{seed}}",
        more=training_options,
        limited=ended_at_runtime,
    shell:
        "python -m shallower train-run --run {params.folder} --tokens {params.tokens}"
        " --checkpoints {params.checkpoints} --code {input.code}{params.more}"
        " --threads {resources.cpus_per_task}"
        " --processes {resources.processes} --parallel {resources.parallel}"
        " --time-limit $(({resources.runtime} * {params.limited}))"
        " > {log} 2>&1"
