"""Figures, each as vector and bitmap with the table of what it shows."""

# a figure of differences reads comparisons, any other the results of each model
DRAWN_FROM = {
    True: f"{ROOT}/compare/{{metric}}.nc",
    False: f"{MODEL}/metrics/{{metric}}.nc",
}


rule draw:
    input:
        results=lambda wildcards: expand(
            DRAWN_FROM[FIGURES[wildcards.figure].compared],
            model=STUDY.models,
            metric=FIGURES[wildcards.figure].metrics,
        ),
        # beside each number, and no figure before it is known to be what it should be
        accuracy=expand(f"{MODEL}/metrics/{CHECK}.nc", model=STUDY.models),
    output:
        figure=report(
            f"{ROOT}/figures/{{figure}}.svg",
            caption="../report/figure.rst",
            category="Figures",
            labels={"figure": "{figure}"},
        ),
        others=multiext(f"{ROOT}/figures/{{figure}}", ".png", ".pdf", ".csv"),
    log:
        f"{ROOT}/logs/figure_{{figure}}.log",
    conda:
        ENVIRONMENT
    params:
        spec=lambda wildcards: STUDY.spec("figure", wildcards.figure),
        code=lambda wildcards: STUDY.code("figure", wildcards.figure),
    shell:
        "python -m vitals figure {wildcards.figure} --spec {params.spec:q} --code {params.code:q}"
        " --results {input.results:q} --accuracy {input.accuracy:q}"
        " --output {output.figure:q} 2>&1 | tee {log:q}"
