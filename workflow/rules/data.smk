"""The image list: which images, in which order, with labels, split and digests."""


rule images:
    output:
        f"{ROOT}/images.parquet",
    log:
        f"{ROOT}/logs/images.log",
    conda:
        ENVIRONMENT
    params:
        spec=lambda wildcards: STUDY.spec("images"),
        code=lambda wildcards: STUDY.code("images"),
    shell:
        "python -m vitals images --spec {params.spec:q} --code {params.code:q}"
        " --output {output:q} 2>&1 | tee {log:q}"
