localrules:
    figure,
    figure2,
    plot,


# A table or figure with a rule of its own does not come from the general one.
ruleorder: figure2 > figure


# Needs OpenGL: EGL on a GPU's node, OSMesa elsewhere.
rule gallery:
    input:
        rules.runs.output.config,
    output:
        pictures=directory(f"{RESULTS}/gallery"),
    log:
        f"{RESULTS}/logs/gallery.log",
    conda:
        ENVIRONMENT
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        results=folder_of("pictures"),
    shell:
        "python -m dfp report gallery --config {input:q} --results-dir {params.results:q} 2>&1 | tee {log:q}"


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
        "python -m dfp report figure 2 --results-dir {params.results:q} 2>&1 | tee {log:q}"


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
    wildcard_constraints:
        number=r"(?!2\.)\d+",  # Figure 2 is a gallery, not made from runs
    conda:
        ENVIRONMENT
    params:
        results=folder_of("png"),
        has_published=has_published,
        published="" if SETTINGS.published_curves else "--no-published",
    shell:
        "python -m dfp report figure {wildcards.number} --results-dir {params.results:q} {params.published}"
        " 2>&1 | tee {log:q}"


# Studies beyond the paper. They run on a CPU, because the tolerances of the checks need products in full float32.
rule theory:
    output:
        csv=report(
            f"{RESULTS}/theory.csv",
            category="Theory",
            labels={"content": "checks"},
            caption="../report/study.rst",
        ),
        points=f"{RESULTS}/theory_points.csv",
        png=report(
            f"{RESULTS}/theory.png",
            category="Theory",
            labels={"content": "figure"},
            caption="../report/study.rst",
        ),
        pdf=f"{RESULTS}/theory.pdf",
    log:
        f"{RESULTS}/logs/theory.log",
    conda:
        ENVIRONMENT
    params:
        results=folder_of("csv"),
    shell:
        "JAX_PLATFORMS=cpu python -m dfp study theory --results-dir {params.results:q}"
        " 2>&1 | tee {log:q}"


rule study:
    input:
        lambda wildcards: (
            [] if wildcards.study == "field" else metrics_of(wildcards.study)
        ),
        runs=rules.runs.output.table,
    output:
        csv=f"{RESULTS}/{{study}}.csv",
    log:
        f"{RESULTS}/logs/study-{{study}}.log",
    wildcard_constraints:
        study="field|normalisation|candidates",
    conda:
        ENVIRONMENT
    resources:
        mem_mb=12000,
    params:
        results=folder_of("csv"),
        data_dir=SETTINGS.data_dir,
    shell:
        "JAX_PLATFORMS=cpu python -m dfp study {wildcards.study} --results-dir {params.results:q}"
        " --data-dir {params.data_dir:q} 2>&1 | tee {log:q}"


rule plot:
    input:
        csv=rules.study.output.csv,
    output:
        png=report(
            f"{RESULTS}/{{study}}.png",
            category="Studies",
            labels={"study": "{study}"},
            caption="../report/study.rst",
        ),
        pdf=f"{RESULTS}/{{study}}.pdf",
    log:
        f"{RESULTS}/logs/plot-{{study}}.log",
    wildcard_constraints:
        study="field|normalisation|candidates",
    conda:
        ENVIRONMENT
    params:
        results=folder_of("png"),
    shell:
        "python -m dfp study plot {wildcards.study} --results-dir {params.results:q} 2>&1 | tee {log:q}"
