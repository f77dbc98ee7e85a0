# With `--config pack=K`, one job trains K runs side by side on one GPU, and `pretrain`, `finetune` and `offline` only put
# the results under their names. With `--config seeds_per_job=S`, it trains K programs: each has up to S seeds of an offline
# phase, or one fine-tuning. The job declares a marker and no results, because Snakemake deletes declared files before it
# runs a job again. The finished runs of a pack then survive if another one is unfinished.


rule pack:
    input:
        data=lambda wildcards: [
            ancient(path)
            for path in dict.fromkeys(
                dataset(task) for task in packed_tasks(wildcards)
            )
        ],
        starts=lambda wildcards: [
            f"{RESULTS}/{PLAN.starts[folder]}/agent.npz"
            for folder in packed(wildcards)
            if folder in PLAN.starts
        ],
    output:
        temp(touch(f"{RESULTS}/packs/{{kind}}/seed{{seed}}-{{number}}")),
    log:
        f"{RESULTS}/logs/pack/{{kind}}/seed{{seed}}-{{number}}.log",
    priority: wave
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=1,
        mem_mb=NEEDS["pack"]["memory"],
        runtime=NEEDS["pack"]["minutes"],
    params:
        runs=lambda wildcards: canonical_json(
            [
                {
                    "spec": PLAN.specs[folder].model_dump(mode="json"),
                    "run_dir": f"{RESULTS}/{folder}",
                    "pretrained": (
                        f"{RESULTS}/{PLAN.starts[folder]}"
                        if folder in PLAN.starts
                        else None
                    ),
                }
                for folder in packed(wildcards)
            ]
        ),
        data_dir=str(DATA),
    shell:
        f"{ON_GPU}python -m dfp train pack"
        " --runs {params.runs:q}"
        " --data-dir {params.data_dir:q}"
        f" --seeds-per-job {SEEDS_PER_JOB}"
        " --threads {threads}"
        " 2>&1 | tee {log:q}"
