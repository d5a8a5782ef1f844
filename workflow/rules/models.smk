"""Weights and a report for each model: trained here, or loaded from a file or from timm."""


rule train:
    input:
        images=lambda wildcards: image_list("train", wildcards.model),
    output:
        weights=f"{MODEL}/model.safetensors",
        report=f"{MODEL}/model.json",
    log:
        f"{MODEL}/logs/train.log",
    wildcard_constraints:
        model="|".join(STUDY.trained) or "(?!)",
    conda:
        ENVIRONMENT
    resources:
        gpu=min(1, accelerators()),
        mem_mb=lambda wildcards, attempt: ESTIMATES.megabytes(
            "train", model=wildcards.model, attempt=attempt
        ),
        runtime=lambda wildcards, attempt: ESTIMATES.minutes(
            "train", model=wildcards.model, attempt=attempt
        ),
        data=STUDY.data,
        sharing=STUDY.sharing,
    params:
        spec=lambda wildcards: STUDY.spec("train", wildcards.model),
        code=lambda wildcards: STUDY.code("train"),
    shell:
        "python -m vitals train --spec {params.spec:q} --code {params.code:q}"
        " --images {input.images:q} {resources.data} {resources.sharing}"
        " --output {output.weights:q} 2>&1 | tee {log:q}"


rule load:
    input:
        images=lambda wildcards: image_list("load", wildcards.model),
    output:
        weights=f"{MODEL}/model.safetensors",
        report=f"{MODEL}/model.json",
    log:
        f"{MODEL}/logs/load.log",
    wildcard_constraints:
        model="|".join(STUDY.loaded) or "(?!)",
    conda:
        ENVIRONMENT
    resources:
        gpu=min(1, accelerators()),
        mem_mb=lambda wildcards, attempt: ESTIMATES.megabytes(
            "load", model=wildcards.model, attempt=attempt
        ),
        runtime=lambda wildcards, attempt: ESTIMATES.minutes(
            "load", model=wildcards.model, attempt=attempt
        ),
        # where it lies is the machine's; what is in it is in `spec`
        weights=lambda wildcards: STUDY.weights(wildcards.model),
    params:
        spec=lambda wildcards: STUDY.spec("load", wildcards.model),
        code=lambda wildcards: STUDY.code("load"),
    shell:
        "python -m vitals load --spec {params.spec:q} --code {params.code:q}"
        " --images {input.images:q} {resources.weights}"
        " --output {output.weights:q} 2>&1 | tee {log:q}"
