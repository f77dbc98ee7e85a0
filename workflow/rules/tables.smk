localrules:
    runs,
    collect,
    table,
    report,


rule runs:
    output:
        table=f"{RESULTS}/runs.csv",
        config=f"{RESULTS}/config.json",
    params:
        config=canonical_json(SETTINGS.model_dump(mode="json")),
        digest=run_table_digest(),
    shell:
        "printf %s {params.config:q} > {output.config:q}"
        " && {PYTHON:q} -m dfp runs --config {output.config:q}"


rule collect:
    input:
        metrics_of(*SETTINGS.experiments),
        runs=rules.runs.output.table,
    output:
        report(
            f"{RESULTS}/metrics.csv",
            category="Runs",
            labels={"content": "all evaluations"},
        ),
    params:
        results=RESULTS,
    shell:
        "{PYTHON:q} -m dfp collect --results-dir {params.results:q}"


rule table:
    input:
        lambda wildcards: metrics_of(f"table{wildcards.number}"),
        runs=rules.runs.output.table,
    output:
        csv=report(
            f"{RESULTS}/table{{number}}.csv",
            category="Tables",
            labels={"table": "{number}", "format": "numbers"},
            caption="../report/table.rst",
        ),
        markdown=f"{RESULTS}/table{{number}}.md",
        tex=f"{RESULTS}/table{{number}}.tex",
    params:
        results=RESULTS,
    shell:
        "{PYTHON:q} -m dfp table {wildcards.number} --results-dir {params.results:q}"


rule report:
    input:
        TARGETS,
        config=rules.runs.output.config,
    output:
        f"{RESULTS}/report.html",
    params:
        snakefile=workflow.main_snakefile,
    # The workflow's own report, by a second Snakemake that looks at the jobs of this one.
    shell:
        "{PYTHON:q} -m snakemake --snakefile {params.snakefile:q} --configfile {input.config:q}"
        " --nolock --cores 1 --report {output:q} --quiet all -- tables_and_figures"
