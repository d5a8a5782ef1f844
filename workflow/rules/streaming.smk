"""Token metrics found inside passes of their own: one a shard, and the metric of all of them.

Where the study stores the tokens of all images, none is (`activations.tokens`).
"""

STREAMED = f"{MODEL}/streamed/{{metric}}"


rule stream:
    input:
        images=lambda wildcards: image_list("extract", wildcards.shard),
        weights=f"{MODEL}/model.safetensors",
        report=f"{MODEL}/model.json",
    output:
        f"{STREAMED}/{{shard}}.nc",
    log:
        f"{MODEL}/logs/stream_{{metric}}_{{shard}}.log",
    wildcard_constraints:
        metric="|".join(STUDY.streamed) or "(?!)",
    conda:
        ENVIRONMENT
    threads: workers()
    resources:
        gpu=min(1, accelerators()),
        # the same for each model, so that their shards can be one array of jobs
        mem_mb=lambda wildcards, attempt: ESTIMATES.megabytes("stream", attempt=attempt),
        runtime=lambda wildcards, attempt: ESTIMATES.minutes("stream", attempt=attempt),
        data=STUDY.data,
        passing=STUDY.passing,
    params:
        spec=lambda wildcards: STUDY.spec("stream", f"{wildcards.metric}/{wildcards.shard}"),
        code=lambda wildcards: STUDY.code("stream", wildcards.metric),
    shell:
        "python -m vitals stream {wildcards.metric} --spec {params.spec:q} --code {params.code:q}"
        " --images {input.images:q} --model {input.weights:q}"
        " {resources.data} {resources.passing} --workers {threads} --output {output:q}"
        " 2>&1 | tee {log:q}"


rule merge:
    input:
        streamed=expand(f"{STREAMED}/{{shard}}.nc", shard=STUDY.shards, allow_missing=True),
        activations=branch(
            lambda wildcards: wildcards.metric in STUDY.streamed_besides, then=SHARDS
        ),
    output:
        f"{MODEL}/metrics/{{metric}}.nc",
    log:
        f"{MODEL}/logs/{{metric}}.log",
    wildcard_constraints:
        metric="|".join(STUDY.streamed) or "(?!)",
    conda:
        ENVIRONMENT
    resources:
        mem_mb=lambda wildcards, attempt: ESTIMATES.megabytes(
            "metric", wildcards.metric, wildcards.model, attempt
        ),
        runtime=lambda wildcards, attempt: ESTIMATES.minutes(
            "metric", wildcards.metric, wildcards.model, attempt
        ),
    params:
        spec=lambda wildcards: STUDY.spec("merge", wildcards.metric),
        code=lambda wildcards: STUDY.code("merge", wildcards.metric),
    shell:
        "python -m vitals merge {wildcards.metric} --spec {params.spec:q} --code {params.code:q}"
        " --streamed {input.streamed:q} --activations {input.activations:q} --output {output:q} 2>&1 | tee {log:q}"


# where a metric is streamed, it is not measured from the store
ruleorder: merge > measure_similarity
ruleorder: merge > measure_position
ruleorder: merge > measure_attention
