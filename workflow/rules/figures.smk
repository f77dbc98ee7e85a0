localrules:
    figure,
    figure2,


# A table or figure with a rule of its own does not come from the general one.
ruleorder: figure2 > figure


# Needs OpenGL: EGL on a GPU's node, OSMesa elsewhere.
rule gallery:
    input:
        rules.runs.output.config,
    output:
        directory(f"{RESULTS}/gallery"),
    log:
        f"{RESULTS}/logs/gallery.log",
    conda:
        ENVIRONMENT
    resources:
        mem_mb=4000,
        runtime=60,
    shell:
        "python -m dfp gallery --config {input:q} 2>&1 | tee {log:q}"


rule figure2:
    input:
        rules.gallery.output,
    output:
        png=report(
            f"{RESULTS}/figure2.png",
            category="Figures",
            labels={"figure": "2"},
            caption="../report/gallery.rst",
        ),
        pdf=f"{RESULTS}/figure2.pdf",
        csv=f"{RESULTS}/figure2.csv",
    log:
        f"{RESULTS}/logs/figure2.log",
    conda:
        ENVIRONMENT
    params:
        results=folder_of("png"),
    shell:
        "python -m dfp figure 2 --results-dir {params.results:q} 2>&1 | tee {log:q}"


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
