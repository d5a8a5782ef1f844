"""What is told of a study's numbers: findings, captions of the report, and two pages."""

MODEL_FILES = ("model.json", "gallery.nc")


rule gallery:
    input:
        SHARDS,
    output:
        f"{MODEL}/gallery.nc",
    log:
        f"{MODEL}/logs/gallery.log",
    conda:
        ENVIRONMENT
    params:
        spec=lambda wildcards: STUDY.spec("gallery"),
        code=lambda wildcards: STUDY.code("gallery"),
    shell:
        "python -m vitals gallery --spec {params.spec:q} --code {params.code:q}"
        " --activations {input:q} --output {output:q} 2>&1 | tee {log:q}"


rule findings:
    input:
        f"{ROOT}/summary.csv",
    output:
        table=report(
            f"{ROOT}/findings.csv",
            caption="../report/findings.rst",
            category="Tables",
            labels={"table": "findings"},
        ),
        origin=f"{ROOT}/findings.json",
    log:
        f"{ROOT}/logs/findings.log",
    conda:
        ENVIRONMENT
    params:
        spec=lambda wildcards: STUDY.spec("findings"),
        code=lambda wildcards: STUDY.code("findings"),
    shell:
        "python -m vitals findings --spec {params.spec:q} --code {params.code:q}"
        " --results {input:q} --output {output.table:q} 2>&1 | tee {log:q}"


rule captions:
    input:
        f"{ROOT}/summary.csv",
        f"{ROOT}/findings.csv",
    output:
        origin=f"{ROOT}/captions/captions.json",
        captions=expand(f"{ROOT}/captions/{{name}}.rst", name=CAPTIONED),
    log:
        f"{ROOT}/logs/captions.log",
    conda:
        ENVIRONMENT
    params:
        spec=lambda wildcards: STUDY.spec("captions"),
        code=lambda wildcards: STUDY.code("captions"),
    shell:
        "python -m vitals captions --spec {params.spec:q} --code {params.code:q}"
        " --results {input:q} --output {output.origin:q} 2>&1 | tee {log:q}"


rule replicate:
    input:
        f"{ROOT}/summary.csv",
        f"{ROOT}/findings.csv",
    output:
        page=f"{ROOT}/replication.md",
        origin=f"{ROOT}/replication.json",
    log:
        f"{ROOT}/logs/replication.log",
    conda:
        ENVIRONMENT
    params:
        spec=lambda wildcards: STUDY.spec("replicate"),
        code=lambda wildcards: STUDY.code("replicate"),
    shell:
        "python -m vitals replicate --spec {params.spec:q} --code {params.code:q}"
        " --results {input:q} --output {output.page:q} 2>&1 | tee {log:q}"


rule page:
    input:
        f"{ROOT}/summary.csv",
        f"{ROOT}/findings.csv",
        expand(f"{MODEL}/{{file}}", file=MODEL_FILES, model=STUDY.models),
    output:
        f"{ROOT}/index.html",
    log:
        f"{ROOT}/logs/page.log",
    conda:
        ENVIRONMENT
    params:
        spec=lambda wildcards: STUDY.spec("page"),
        code=lambda wildcards: STUDY.code("page"),
    shell:
        "python -m vitals page --spec {params.spec:q} --code {params.code:q}"
        " --results {input:q} --output {output:q} 2>&1 | tee {log:q}"
