"""One forward pass over a shard of images, into a Zarr store that exists when it is whole.

And variants of it, which the nulls of scrambling are measured on, where a study asks for them.
"""

VARIED = expand(
    f"{MODEL}/variants/{{variant}}/{{shard}}.zarr/zarr.json",
    variant=STUDY.variants,
    shard=STUDY.varied_shards,
    allow_missing=True,
)


rule extract:
    input:
        images=lambda wildcards: image_list("extract", wildcards.shard),
        weights=f"{MODEL}/model.safetensors",
        report=f"{MODEL}/model.json",
    output:
        f"{MODEL}/activations/{{shard}}.zarr/zarr.json",
    log:
        f"{MODEL}/logs/extract_{{shard}}.log",
    conda:
        ENVIRONMENT
    threads: workers()
    resources:
        gpu=min(1, accelerators()),
        # the same for each model, so that their shards can be one array of jobs
        mem_mb=lambda wildcards, attempt: ESTIMATES.megabytes("extract", attempt=attempt),
        runtime=lambda wildcards, attempt: ESTIMATES.minutes("extract", attempt=attempt),
        # the machine's own: what changes none of the results
        data=STUDY.data,
        passing=STUDY.passing,
        sharing=STUDY.sharing,
    params:
        spec=lambda wildcards: STUDY.spec("extract", wildcards.shard),
        code=lambda wildcards: STUDY.code("extract"),
    shell:
        "python -m vitals extract --spec {params.spec:q} --code {params.code:q}"
        " --images {input.images:q} --model {input.weights:q}"
        " {resources.data} {resources.passing} {resources.sharing} --workers {threads} --output {output:q} 2>&1 | tee {log:q}"


rule vary:
    input:
        images=lambda wildcards: image_list("extract", wildcards.shard),
        weights=f"{MODEL}/model.safetensors",
        report=f"{MODEL}/model.json",
    output:
        f"{MODEL}/variants/{{variant}}/{{shard}}.zarr/zarr.json",
    log:
        f"{MODEL}/logs/vary_{{variant}}_{{shard}}.log",
    wildcard_constraints:
        variant="|".join(STUDY.variants) or "(?!)",
    conda:
        ENVIRONMENT
    threads: workers()
    resources:
        gpu=min(1, accelerators()),
        mem_mb=lambda wildcards, attempt: ESTIMATES.megabytes("vary", attempt=attempt),
        runtime=lambda wildcards, attempt: ESTIMATES.minutes("vary", attempt=attempt),
        # the machine's own: what changes none of the results
        data=STUDY.data,
        passing=STUDY.passing,
        sharing=STUDY.sharing,
    params:
        spec=lambda wildcards: STUDY.spec("vary", f"{wildcards.variant}/{wildcards.shard}"),
        code=lambda wildcards: STUDY.code("vary"),
    shell:
        "python -m vitals vary {wildcards.variant} --spec {params.spec:q} --code {params.code:q}"
        " --images {input.images:q} --model {input.weights:q}"
        " {resources.data} {resources.passing} {resources.sharing} --workers {threads} --output {output:q} 2>&1 | tee {log:q}"
