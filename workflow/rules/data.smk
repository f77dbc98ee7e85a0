rule data:
    output:
        manifest=f"{SETTINGS.data_dir}/{{source}}/{{dataset}}/manifest.json",
    log:
        f"{RESULTS}/logs/data/{{source}}/{{dataset}}.log",
    conda:
        ENVIRONMENT
    # A number, not "all cores": in a SLURM job that would be the node's, and more than the job was given.
    threads: 8 if SETTINGS.data.source == "generate" else 1
    resources:
        mem_mb=lambda wildcards, threads: NEEDS["data"]["memory"]
        + NEEDS["data"]["memory_per_core"] * threads,
        runtime=NEEDS["data"]["minutes"],
    params:
        task=lambda wildcards, output: known(DATASETS, output.manifest, "dataset"),
        data=canonical_json(SETTINGS.data.model_dump(mode="json")),
        data_dir=lambda wildcards, output: str(Path(output.manifest).parents[2]),
    shell:
        "python -m dfp data {params.task:q}"
        " --data {params.data:q}"
        " --data-dir {params.data_dir:q}"
        " --processes {threads}"
        " 2>&1 | tee {log:q}"
