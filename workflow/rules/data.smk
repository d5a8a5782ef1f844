"""The image list: which images, in which order, with labels, split and digests."""


rule images:
    output:
        # the list is frozen: what was listed keeps its place, so the job reads the old one
        update(IMAGES),
    log:
        f"{ROOT}/logs/images.log",
    conda:
        ENVIRONMENT
    resources:
        data=STUDY.data,
    params:
        spec=lambda wildcards: STUDY.spec("images"),
        code=lambda wildcards: STUDY.code("images"),
    shell:
        "python -m vitals images --spec {params.spec:q} --code {params.code:q}"
        " {resources.data} --output {output:q} 2>&1 | tee {log:q}"
