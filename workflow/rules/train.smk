# train one model with one seed; checkpoints are no outputs, so that a kill loses nothing
rule train:
    input:
        unpack(training_files),
        tokens="<results>/tokens/text/train/manifest.json",
    output:
        spec="<results>/runs/{model}/seed{seed}/spec.yaml",
        losses="<results>/runs/{model}/seed{seed}/losses.csv",
        diagnostics="<results>/runs/{model}/seed{seed}/diagnostics.csv",
        facts="<results>/runs/{model}/seed{seed}/training.json",
        half="<results>/runs/{model}/seed{seed}/model-half.safetensors",
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
        spec=run_spec,
        tokens=subpath(input.tokens, parent=True),
        directory=subpath(output.weights, parent=True),
        checkpoints=f"results/{study.study}/checkpoints/{{model}}/seed{{seed}}",
        more=training_options,
        limited=ended_at_runtime,
        code=code_digest("training.loop"),
    shell:
        "python -m shallower train --spec {params.spec:q} --tokens {params.tokens}"
        " --output {params.directory} --checkpoints {params.checkpoints}{params.more}"
        " --threads {resources.cpus_per_task} --processes {resources.processes}"
        " --parallel {resources.parallel}"
        " --time-limit $(({resources.runtime} * {params.limited})) 2> >(tee {log} >&2)"
