localrules:
    runs,
    collect,
    table,


rule runs:
    output:
        table=f"{RESULTS}/runs.csv",
        config=f"{RESULTS}/config.json",
    log:
        f"{RESULTS}/logs/runs.log",
    conda:
        ENVIRONMENT
    params:
        config=canonical_json(SETTINGS.model_dump(mode="json")),
        digest=digest(run_table(PLAN, CATALOGUE)),  # labels and order included
        results=folder_of("table"),
    shell:
        "printf %s {params.config:q} > {output.config:q}"
        " && python -m dfp report runs --config {output.config:q} --results-dir {params.results:q} > {log:q} 2>&1"


rule collect:
    input:
        files_of("metrics.csv", PLAN.runs),
        runs=rules.runs.output.table,
    output:
        metrics=report(
            f"{RESULTS}/metrics.csv",
            category="Runs",
            labels={"content": "all evaluations"},
        ),
    log:
        f"{RESULTS}/logs/collect.log",
    conda:
        ENVIRONMENT
    params:
        results=folder_of("metrics"),
    shell:
        "python -m dfp report collect --results-dir {params.results:q} > {log:q} 2>&1"


# Table 9: every method in one run, on the kind of machine that trains. It has a configuration of its own: with that of the
# results, a further seed would make Snakemake delete the table and measure it again.
rule cost:
    output:
        table=f"{RESULTS}/cost.csv",
    log:
        f"{RESULTS}/logs/cost.log",
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=1,
        mem_mb=12000,
        runtime=4 * 60,
    params:
        config=canonical_json(TIMED.model_dump(mode="json")),
        digest=lambda wildcards: digest(timed_runs()),
    shell:
        "printf %s {params.config:q} > {output.table:q}.json"
        f" && {ON_GPU}python -m dfp ops cost"
        " --config {output.table:q}.json --output {output.table:q} --threads {threads}"
        " 2>&1 | tee {log:q}"
        " && rm {output.table:q}.json"


rule table:
    input:
        lambda wildcards: inputs_of(f"table{wildcards.number}"),
    output:
        csv=report(
            f"{RESULTS}/table{{number}}.csv",
            category="Tables",
            labels={"table": "{number}", "format": "numbers"},
            caption="../report/table.rst",
        ),
        markdown=f"{RESULTS}/table{{number}}.md",
        tex=f"{RESULTS}/table{{number}}.tex",
        html=report(
            f"{RESULTS}/table{{number}}.html",
            category="Tables",
            labels={"table": "{number}", "format": "as a page"},
            caption="../report/table-page.rst",
        ),
    log:
        f"{RESULTS}/logs/table{{number}}.log",
    conda:
        ENVIRONMENT
    params:
        results=folder_of("csv"),
    shell:
        "python -m dfp report table {wildcards.number} --results-dir {params.results:q}"
        " 2>&1 | tee {log:q}"
