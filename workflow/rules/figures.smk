localrules:
    figure,


rule figure:
    input:
        lambda wildcards: metrics_of(f"figure{wildcards.number}"),
        runs=rules.runs.output.table,
    output:
        png=report(
            f"{RESULTS}/figure{{number}}.png",
            category="Figures",
            labels={"figure": "{number}"},
            caption="../report/figure.rst",
        ),
        pdf=f"{RESULTS}/figure{{number}}.pdf",
        csv=f"{RESULTS}/figure{{number}}.csv",
    log:
        f"{RESULTS}/logs/figure{{number}}.log",
    conda:
        ENVIRONMENT
    params:
        results=folder_of("png"),
    shell:
        "python -m dfp figure {wildcards.number} --results-dir {params.results:q}"
        " 2>&1 | tee {log:q}"
