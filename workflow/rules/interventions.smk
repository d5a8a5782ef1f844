"""Passes with one change each, over images of the split "test"; the scores of each image."""


rule intervene:
    input:
        images=lambda wildcards: image_list("intervene", wildcards.model),
        weights=f"{MODEL}/model.safetensors",
        report=f"{MODEL}/model.json",
    output:
        f"{MODEL}/intervene.nc",
    log:
        f"{MODEL}/logs/intervene.log",
    conda:
        ENVIRONMENT
    threads: workers()
    resources:
        gpu=min(1, accelerators()),
        mem_mb=lambda wildcards, attempt: ESTIMATES.megabytes(
            "intervene", model=wildcards.model, attempt=attempt
        ),
        runtime=lambda wildcards, attempt: ESTIMATES.minutes(
            "intervene", model=wildcards.model, attempt=attempt
        ),
        data=STUDY.data,
        passing=STUDY.passing,
    params:
        spec=lambda wildcards: STUDY.spec("intervene"),
        code=lambda wildcards: STUDY.code("intervene"),
    shell:
        "python -m vitals intervene --spec {params.spec:q} --code {params.code:q}"
        " --images {input.images:q} --model {input.weights:q}"
        " {resources.data} {resources.passing} --workers {threads} --output {output:q}"
        " 2>&1 | tee {log:q}"


rule measure_interventions:
    input:
        f"{MODEL}/intervene.nc",
    output:
        f"{MODEL}/metrics/interventions.nc",
    log:
        f"{MODEL}/logs/interventions.log",
    conda:
        ENVIRONMENT
    params:
        spec=lambda wildcards: STUDY.spec("metric", "interventions"),
        code=lambda wildcards: STUDY.code("metric", "interventions"),
    shell:
        "python -m vitals metric interventions --spec {params.spec:q} --code {params.code:q}"
        " --results {input:q} --output {output:q} 2>&1 | tee {log:q}"
