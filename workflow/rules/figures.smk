"""Figures, each as vector and bitmap with the table of what it shows."""


def drawn_results(wildcards):
    figure = FIGURES[wildcards.figure]
    place = f"{ROOT}/compare" if figure.compared else f"{MODEL}/metrics"
    return expand(f"{place}/{{metric}}.nc", model=STUDY.models, metric=figure.metrics)


rule draw:
    input:
        drawn_results,
    output:
        multiext(f"{ROOT}/figures/{{figure}}", ".svg", ".png", ".pdf", ".csv"),
    log:
        f"{ROOT}/logs/figure_{{figure}}.log",
    conda:
        ENVIRONMENT
    params:
        spec=lambda wildcards: STUDY.spec("figure", wildcards.figure),
        code=lambda wildcards: STUDY.code("figure", wildcards.figure),
    shell:
        "python -m vitals figure {wildcards.figure} --spec {params.spec:q} --code {params.code:q}"
        " --results {input:q} --output {output[0]:q} 2>&1 | tee {log:q}"
