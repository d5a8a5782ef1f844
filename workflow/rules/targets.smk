"""What can be asked for by name: the figures, one metric, one stage."""


rule figures:
    input:
        expand(f"{ROOT}/figures/{{figure}}.svg", figure=STUDY.figures),


rule models:
    input:
        expand(f"{MODEL}/model.safetensors", model=STUDY.models),


rule activations:
    input:
        f"{ROOT}/images.parquet",
        expand(SHARDS, model=STUDY.models),


for metric_name in STUDY.metrics:

    rule:
        name:
            metric_name
        input:
            expand(f"{MODEL}/metrics/{metric_name}.nc", model=STUDY.models),
            f"{ROOT}/compare/{metric_name}.nc",
            expand(
                f"{ROOT}/figures/{{figure}}.svg",
                figure=[metric_name] if metric_name in STUDY.figures else [],
            ),


rule sweep:
    input:
        f"{ROOT}/depth.csv",
        lambda wildcards: expand(f"{ROOT}/figures/{{figure}}.svg", figure=STUDY.sweep_figures()),
