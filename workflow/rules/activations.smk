"""One forward pass over a shard of images, into a Zarr store that exists when it is whole."""


rule extract:
    input:
        images=rules.images.output,
        weights=f"{MODEL}/model.safetensors",
        report=f"{MODEL}/model.json",
    output:
        f"{MODEL}/activations/{{shard}}.zarr/zarr.json",
    log:
        f"{MODEL}/logs/extract_{{shard}}.log",
    conda:
        ENVIRONMENT
    resources:
        gpu=min(1, accelerators()),
    params:
        spec=lambda wildcards: STUDY.spec("extract"),
        code=lambda wildcards: STUDY.code("extract"),
    shell:
        "python -m vitals extract --spec {params.spec:q} --code {params.code:q}"
        " --images {input.images:q} --model {input.weights:q}"
        " --output {output:q} 2>&1 | tee {log:q}"
