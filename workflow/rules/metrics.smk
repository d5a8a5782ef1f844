"""Reductions of stored activations, one rule a metric, and what needs several models.

A metric reads the shards of one model, or the results of other metrics of that model.
"""


rule measure_accuracy:
    input:
        SHARDS,
    output:
        f"{MODEL}/metrics/accuracy.nc",
    log:
        f"{MODEL}/logs/accuracy.log",
    conda:
        ENVIRONMENT
    resources:
        mem_mb=lambda wildcards, attempt: ESTIMATES.megabytes(
            "metric", "accuracy", wildcards.model, attempt
        ),
        runtime=lambda wildcards, attempt: ESTIMATES.minutes(
            "metric", "accuracy", wildcards.model, attempt
        ),
    params:
        spec=lambda wildcards: STUDY.spec("metric", "accuracy"),
        code=lambda wildcards: STUDY.code("metric", "accuracy"),
    shell:
        "python -m vitals metric accuracy --spec {params.spec:q} --code {params.code:q}"
        " --activations {input:q} --output {output:q} 2>&1 | tee {log:q}"


rule measure_similarity:
    input:
        SHARDS,
    output:
        f"{MODEL}/metrics/similarity.nc",
    log:
        f"{MODEL}/logs/similarity.log",
    conda:
        ENVIRONMENT
    resources:
        gpu=min(1, accelerators()),
        mem_mb=lambda wildcards, attempt: ESTIMATES.megabytes(
            "metric", "similarity", model=wildcards.model, attempt=attempt
        ),
        runtime=lambda wildcards, attempt: ESTIMATES.minutes(
            "metric", "similarity", model=wildcards.model, attempt=attempt
        ),
    params:
        spec=lambda wildcards: STUDY.spec("metric", "similarity"),
        code=lambda wildcards: STUDY.code("metric", "similarity"),
    shell:
        "python -m vitals metric similarity --spec {params.spec:q} --code {params.code:q}"
        " --activations {input:q} --output {output:q} 2>&1 | tee {log:q}"


rule measure_phases:
    input:
        expand(
            f"{MODEL}/metrics/{{metric}}.nc", metric=METRICS["phases"].results, allow_missing=True
        ),
    output:
        f"{MODEL}/metrics/phases.nc",
    log:
        f"{MODEL}/logs/phases.log",
    conda:
        ENVIRONMENT
    params:
        spec=lambda wildcards: STUDY.spec("metric", "phases"),
        code=lambda wildcards: STUDY.code("metric", "phases"),
    shell:
        "python -m vitals metric phases --spec {params.spec:q} --code {params.code:q}"
        " --results {input:q} --output {output:q} 2>&1 | tee {log:q}"


rule measure_position:
    input:
        SHARDS,
    output:
        f"{MODEL}/metrics/position.nc",
    log:
        f"{MODEL}/logs/position.log",
    conda:
        ENVIRONMENT
    resources:
        gpu=min(1, accelerators()),
        mem_mb=lambda wildcards, attempt: ESTIMATES.megabytes(
            "metric", "position", model=wildcards.model, attempt=attempt
        ),
        runtime=lambda wildcards, attempt: ESTIMATES.minutes(
            "metric", "position", model=wildcards.model, attempt=attempt
        ),
    params:
        spec=lambda wildcards: STUDY.spec("metric", "position"),
        code=lambda wildcards: STUDY.code("metric", "position"),
    shell:
        "python -m vitals metric position --spec {params.spec:q} --code {params.code:q}"
        " --activations {input:q} --output {output:q} 2>&1 | tee {log:q}"


rule measure_scrambling:
    input:
        activations=SHARDS,
        variants=VARIED,
    output:
        f"{MODEL}/metrics/scrambling.nc",
    log:
        f"{MODEL}/logs/scrambling.log",
    conda:
        ENVIRONMENT
    resources:
        gpu=min(1, accelerators()),
        mem_mb=lambda wildcards, attempt: ESTIMATES.megabytes(
            "metric", "scrambling", model=wildcards.model, attempt=attempt
        ),
        runtime=lambda wildcards, attempt: ESTIMATES.minutes(
            "metric", "scrambling", model=wildcards.model, attempt=attempt
        ),
    params:
        spec=lambda wildcards: STUDY.spec("metric", "scrambling"),
        code=lambda wildcards: STUDY.code("metric", "scrambling"),
    shell:
        "python -m vitals metric scrambling --spec {params.spec:q} --code {params.code:q}"
        " --activations {input.activations:q} --variants {input.variants:q} --output {output:q} 2>&1 | tee {log:q}"


rule measure_attention:
    input:
        SHARDS,
    output:
        f"{MODEL}/metrics/attention.nc",
    log:
        f"{MODEL}/logs/attention.log",
    conda:
        ENVIRONMENT
    resources:
        gpu=min(1, accelerators()),
        mem_mb=lambda wildcards, attempt: ESTIMATES.megabytes(
            "metric", "attention", model=wildcards.model, attempt=attempt
        ),
        runtime=lambda wildcards, attempt: ESTIMATES.minutes(
            "metric", "attention", model=wildcards.model, attempt=attempt
        ),
    params:
        spec=lambda wildcards: STUDY.spec("metric", "attention"),
        code=lambda wildcards: STUDY.code("metric", "attention"),
    shell:
        "python -m vitals metric attention --spec {params.spec:q} --code {params.code:q}"
        " --activations {input:q} --output {output:q} 2>&1 | tee {log:q}"


rule measure_collapse:
    input:
        SHARDS,
    output:
        f"{MODEL}/metrics/collapse.nc",
    log:
        f"{MODEL}/logs/collapse.log",
    conda:
        ENVIRONMENT
    resources:
        gpu=min(1, accelerators()),
        mem_mb=lambda wildcards, attempt: ESTIMATES.megabytes(
            "metric", "collapse", model=wildcards.model, attempt=attempt
        ),
        runtime=lambda wildcards, attempt: ESTIMATES.minutes(
            "metric", "collapse", model=wildcards.model, attempt=attempt
        ),
    params:
        spec=lambda wildcards: STUDY.spec("metric", "collapse"),
        code=lambda wildcards: STUDY.code("metric", "collapse"),
    shell:
        "python -m vitals metric collapse --spec {params.spec:q} --code {params.code:q}"
        " --activations {input:q} --output {output:q} 2>&1 | tee {log:q}"


rule measure_probes:
    input:
        SHARDS,
    output:
        f"{MODEL}/metrics/probes.nc",
    log:
        f"{MODEL}/logs/probes.log",
    conda:
        ENVIRONMENT
    threads: 4
    resources:
        gpu=min(1, accelerators()),
        mem_mb=lambda wildcards, attempt: ESTIMATES.megabytes(
            "metric", "probes", model=wildcards.model, attempt=attempt
        ),
        runtime=lambda wildcards, attempt: ESTIMATES.minutes(
            "metric", "probes", model=wildcards.model, attempt=attempt
        ),
    params:
        spec=lambda wildcards: STUDY.spec("metric", "probes"),
        code=lambda wildcards: STUDY.code("metric", "probes"),
    shell:
        "python -m vitals metric probes --spec {params.spec:q} --code {params.code:q}"
        " --activations {input:q} --output {output:q} 2>&1 | tee {log:q}"


rule measure_tradeoff:
    input:
        expand(
            f"{MODEL}/metrics/{{metric}}.nc",
            metric=METRICS["tradeoff"].results,
            allow_missing=True,
        ),
    output:
        f"{MODEL}/metrics/tradeoff.nc",
    log:
        f"{MODEL}/logs/tradeoff.log",
    conda:
        ENVIRONMENT
    params:
        spec=lambda wildcards: STUDY.spec("metric", "tradeoff"),
        code=lambda wildcards: STUDY.code("metric", "tradeoff"),
    shell:
        "python -m vitals metric tradeoff --spec {params.spec:q} --code {params.code:q}"
        " --results {input:q} --output {output:q} 2>&1 | tee {log:q}"


rule measure_depth:
    input:
        expand(
            f"{MODEL}/metrics/{{metric}}.nc", metric=METRICS["depth"].results, allow_missing=True
        ),
    output:
        f"{MODEL}/metrics/depth.nc",
    log:
        f"{MODEL}/logs/depth.log",
    conda:
        ENVIRONMENT
    params:
        spec=lambda wildcards: STUDY.spec("metric", "depth"),
        code=lambda wildcards: STUDY.code("metric", "depth"),
    shell:
        "python -m vitals metric depth --spec {params.spec:q} --code {params.code:q}"
        " --results {input:q} --output {output:q} 2>&1 | tee {log:q}"


rule measure_geometry:
    input:
        SHARDS,
    output:
        f"{MODEL}/metrics/geometry.nc",
    log:
        f"{MODEL}/logs/geometry.log",
    conda:
        ENVIRONMENT
    resources:
        gpu=min(1, accelerators()),
        mem_mb=lambda wildcards, attempt: ESTIMATES.megabytes(
            "metric", "geometry", model=wildcards.model, attempt=attempt
        ),
        runtime=lambda wildcards, attempt: ESTIMATES.minutes(
            "metric", "geometry", model=wildcards.model, attempt=attempt
        ),
    params:
        spec=lambda wildcards: STUDY.spec("metric", "geometry"),
        code=lambda wildcards: STUDY.code("metric", "geometry"),
    shell:
        "python -m vitals metric geometry --spec {params.spec:q} --code {params.code:q}"
        " --activations {input:q} --output {output:q} 2>&1 | tee {log:q}"


rule compare:
    input:
        expand(f"{MODEL}/metrics/{{metric}}.nc", model=STUDY.models, allow_missing=True),
    output:
        f"{ROOT}/compare/{{metric}}.nc",
    log:
        f"{ROOT}/logs/compare_{{metric}}.log",
    conda:
        ENVIRONMENT
    params:
        spec=lambda wildcards: STUDY.spec("compare", wildcards.metric),
        code=lambda wildcards: STUDY.code("compare"),
    shell:
        "python -m vitals compare {wildcards.metric} --spec {params.spec:q} --code {params.code:q}"
        " --results {input:q} --output {output:q} 2>&1 | tee {log:q}"


rule align:
    input:
        expand(SHARDS, model=STUDY.models),
    output:
        f"{ROOT}/compare/{ALIGNMENT}.nc",
    log:
        f"{ROOT}/logs/align.log",
    conda:
        ENVIRONMENT
    resources:
        gpu=min(1, accelerators()),
        mem_mb=lambda wildcards, attempt: ESTIMATES.megabytes("align", attempt=attempt),
        runtime=lambda wildcards, attempt: ESTIMATES.minutes("align", attempt=attempt),
    params:
        spec=lambda wildcards: STUDY.spec("align"),
        code=lambda wildcards: STUDY.code("align"),
    shell:
        "python -m vitals align --spec {params.spec:q} --code {params.code:q}"
        " --activations {input:q} --output {output:q} 2>&1 | tee {log:q}"


rule sweep_models:
    input:
        results=expand(f"{MODEL}/metrics/{{metric}}.nc", model=STUDY.models, metric=SWEPT),
        reports=expand(f"{MODEL}/model.json", model=STUDY.models),
    output:
        f"{ROOT}/compare/{SWEEP}.nc",
    log:
        f"{ROOT}/logs/sweep.log",
    conda:
        ENVIRONMENT
    params:
        spec=lambda wildcards: STUDY.spec(SWEEP),
        code=lambda wildcards: STUDY.code(SWEEP),
    shell:
        "python -m vitals sweep --spec {params.spec:q} --code {params.code:q}"
        " --results {input.results:q} --reports {input.reports:q} --output {output:q} 2>&1 | tee {log:q}"


rule depths:
    input:
        expand(f"{MODEL}/metrics/depth.nc", model=STUDY.models),
    output:
        table=f"{ROOT}/depth.csv",
        origin=f"{ROOT}/depth.json",
    log:
        f"{ROOT}/logs/depths.log",
    conda:
        ENVIRONMENT
    params:
        spec=lambda wildcards: STUDY.spec("depths"),
        code=lambda wildcards: STUDY.code("depths"),
    shell:
        "python -m vitals depths --spec {params.spec:q} --code {params.code:q}"
        " --results {input:q} --output {output.table:q} 2>&1 | tee {log:q}"


rule summary:
    input:
        expand(f"{MODEL}/metrics/{{metric}}.nc", model=STUDY.models, metric=STUDY.metrics),
        expand(
            f"{ROOT}/compare/{{metric}}.nc",
            metric=[*STUDY.metrics, ALIGNMENT, *([SWEEP] if STUDY.swept else [])],
        ),
    output:
        table=report(
            f"{ROOT}/summary.csv",
            caption="../report/summary.rst",
            category="Tables",
            labels={"table": "all numbers"},
        ),
        differences=report(
            f"{ROOT}/differences.csv",
            caption="../report/differences.rst",
            category="Tables",
            labels={"table": "differences between models"},
        ),
        origin=f"{ROOT}/summary.json",
    log:
        f"{ROOT}/logs/summary.log",
    conda:
        ENVIRONMENT
    params:
        spec=lambda wildcards: STUDY.spec("summary"),
        code=lambda wildcards: STUDY.code("summary"),
    shell:
        "python -m vitals summary --spec {params.spec:q} --code {params.code:q}"
        " --results {input:q} --output {output.table:q} 2>&1 | tee {log:q}"
