# Statistics, verdict, provenance, summary and report. These rules read run folders and train nothing.
localrules:
    statistics,
    verdict,
    provenance,
    summary,
    page,
    report,


FINISHED = files_of("metrics.csv", PLAN.runs)
# Snakemake's report has a page "Statistics" of its own, with the times of jobs.
CATEGORIES = {
    "summary": "Summary",
    "verdict": "Verdict",
    "statistics": "Aggregates",
    "provenance": "Provenance",
}
COST = [f"{RESULTS}/cost.csv"] if "table9" in SETTINGS.experiments else []


rule statistics:
    input:
        FINISHED,
        runs=rules.runs.output.table,
    output:
        csv=report(
            f"{RESULTS}/statistics.csv",
            category="Aggregates",
            labels={"content": "numbers"},
            caption="../report/statistics.rst",
        ),
        png=report(
            f"{RESULTS}/statistics.png",
            category="Aggregates",
            labels={"content": "performance profiles"},
            caption="../report/profiles.rst",
        ),
        pdf=f"{RESULTS}/statistics.pdf",
        markdown=f"{RESULTS}/statistics.md",
    log:
        f"{RESULTS}/logs/statistics.log",
    conda:
        ENVIRONMENT
    params:
        command="statistics",
        results=folder_of("csv"),
    shell:
        "python -m dfp report {params.command} --results-dir {params.results:q} 2>&1 | tee {log:q}"


use rule statistics as verdict with:
    input:
        FINISHED,
        *COST,
        runs=rules.runs.output.table,
    output:
        csv=report(
            f"{RESULTS}/verdict.csv",
            category="Verdict",
            labels={"content": "numbers"},
            caption="../report/verdict.rst",
        ),
        markdown=f"{RESULTS}/verdict.md",
    log:
        f"{RESULTS}/logs/verdict.log",
    params:
        command="verdict",
        results=folder_of("csv"),


use rule statistics as provenance with:
    output:
        csv=report(
            f"{RESULTS}/provenance.csv",
            category="Provenance",
            labels={"content": "numbers"},
            caption="../report/provenance.rst",
        ),
        markdown=f"{RESULTS}/provenance.md",
    log:
        f"{RESULTS}/logs/provenance.log",
    params:
        command="provenance",
        results=folder_of("csv"),


use rule verdict as summary with:
    output:
        markdown=f"{RESULTS}/summary.md",
    log:
        f"{RESULTS}/logs/summary.log",
    params:
        command="summary",
        results=folder_of("markdown"),


rule page:
    input:
        markdown=f"{RESULTS}/{{name}}.md",
    output:
        html=report(
            f"{RESULTS}/{{name}}.html",
            category=lambda wildcards: CATEGORIES[wildcards.name],
            labels={"content": "as a page"},
            caption="../report/page.rst",
        ),
    log:
        f"{RESULTS}/logs/page/{{name}}.log",
    wildcard_constraints:
        name="|".join(PAGES),
    conda:
        ENVIRONMENT
    shell:
        "python -m dfp report page {input.markdown:q} --to {output.html:q} > {log:q} 2>&1"


rule report:
    input:
        TARGETS,
    output:
        f"{RESULTS}/report.html",
    log:
        f"{RESULTS}/logs/report.log",
    conda:
        ENVIRONMENT
    # A second Snakemake writes the report on the jobs of this one. It gets the configuration of this run, because
    # {RESULTS}/config.json may name the folder from which these results were moved.
    params:
        config=canonical_json(SETTINGS.model_dump(mode="json")),
    shell:
        "printf %s {params.config:q} > {output:q}.json"
        ' && python -m snakemake --snakefile "$WORKFLOW" --configfile {output:q}.json'
        " --nolock --cores 1 --report {output:q} -- tables_and_figures > {log:q} 2>&1"
        " && rm {output:q}.json"
