# Checkpoints, progress and train.log are not declared: Snakemake would delete them before a restart.


rule pretrain:
    input:
        data=dataset_of,
    output:
        agent=f"{RESULTS}/pretrained/{{task}}/{{method}}/seed{{seed}}/agent.npz",
        metrics=f"{RESULTS}/pretrained/{{task}}/{{method}}/seed{{seed}}/metrics.csv",
        manifest=f"{RESULTS}/pretrained/{{task}}/{{method}}/seed{{seed}}/manifest.json",
    log:
        f"{RESULTS}/logs/pretrain/{{task}}/{{method}}/seed{{seed}}.log",
    priority: wave
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=1,
        mem_mb=12000,
        runtime=24 * 60,
    params:
        spec=spec_in("pretrained"),
        run_dir=folder_of("metrics"),
        data_dir=data_dir_of("data"),
    shell:
        "python -m dfp {rule}"
        " --spec {params.spec:q}"
        " --run-dir {params.run_dir:q}"
        " --data-dir {params.data_dir:q}"
        " --threads {threads}"
        " 2>&1 | tee {log:q}"


rule finetune:
    input:
        data=dataset_of,
        start=start_of,
    output:
        metrics=f"{RESULTS}/runs/{{task}}/{{method}}/seed{{seed}}/metrics.csv",
        manifest=f"{RESULTS}/runs/{{task}}/{{method}}/seed{{seed}}/manifest.json",
    log:
        f"{RESULTS}/logs/finetune/{{task}}/{{method}}/seed{{seed}}.log",
    priority: wave
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=1,
        mem_mb=12000,
        runtime=48 * 60,
    params:
        spec=spec_in("runs"),
        run_dir=folder_of("metrics"),
        pretrained=lambda wildcards, input: str(Path(input.start).parent),
        data_dir=data_dir_of("data"),
    shell:
        "python -m dfp {rule}"
        " --spec {params.spec:q}"
        " --run-dir {params.run_dir:q}"
        " --pretrained {params.pretrained:q}"
        " --data-dir {params.data_dir:q}"
        " --threads {threads}"
        " 2>&1 | tee {log:q}"


# A run of offline RL: the same kind of job, with a place, a spec and a command of its own.
use rule pretrain as offline with:
    output:
        agent=f"{RESULTS}/offline/{{task}}/{{method}}/seed{{seed}}/agent.npz",
        metrics=f"{RESULTS}/offline/{{task}}/{{method}}/seed{{seed}}/metrics.csv",
        manifest=f"{RESULTS}/offline/{{task}}/{{method}}/seed{{seed}}/manifest.json",
    log:
        f"{RESULTS}/logs/offline/{{task}}/{{method}}/seed{{seed}}.log",
    params:
        spec=spec_in("offline"),
        run_dir=folder_of("metrics"),
        data_dir=data_dir_of("data"),
