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
    params:
        results=RESULTS,
    shell:
        "{PYTHON:q} -m dfp figure {wildcards.number} --results-dir {params.results:q}"
