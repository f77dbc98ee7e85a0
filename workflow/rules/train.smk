# Checkpoints, progress and train.log are not declared: Snakemake would delete them before a restart. For the same reason
# a finished run keeps its results under a second name (dfp/runs/finished.py).

if PACKED["pretrained"]:

    localrules:
        pretrain,
        offline,


if PACKED["runs"]:

    localrules:
        finetune,


rule pretrain:
    input:
        data=dataset_of,
        pack=pack_of("pretrained"),
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
        gpu=int(not PACKED["pretrained"]),
        mem_mb=NEEDS["pretrain"]["memory"],
        runtime=NEEDS["pretrain"]["minutes"],
    params:
        spec=spec_in("pretrained"),
        run_dir=folder_of("metrics"),
        data_dir=data_dir_of("data"),
    shell:
        f"{train('pretrain')}"
        " --spec {params.spec:q}"
        " --run-dir {params.run_dir:q}"
        " 2>&1 | tee {log:q}"


rule finetune:
    input:
        data=dataset_of,
        start=start_of,
        pack=pack_of("runs"),
    output:
        agent=f"{RESULTS}/runs/{{task}}/{{method}}/seed{{seed}}/agent.npz",
        metrics=f"{RESULTS}/runs/{{task}}/{{method}}/seed{{seed}}/metrics.csv",
        manifest=f"{RESULTS}/runs/{{task}}/{{method}}/seed{{seed}}/manifest.json",
    log:
        f"{RESULTS}/logs/finetune/{{task}}/{{method}}/seed{{seed}}.log",
    priority: wave
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=int(not PACKED["runs"]),
        mem_mb=NEEDS["finetune"]["memory"],
        runtime=NEEDS["finetune"]["minutes"],
    params:
        spec=spec_in("runs"),
        run_dir=folder_of("metrics"),
        pretrained=lambda wildcards, input: str(Path(input.start).parent),
        data_dir=data_dir_of("data"),
    shell:
        f"{train('finetune')}"
        " --spec {params.spec:q}"
        " --run-dir {params.run_dir:q}"
        " --pretrained {params.pretrained:q}"
        " 2>&1 | tee {log:q}"


# A run of offline RL.
rule offline:
    input:
        data=dataset_of,
        pack=pack_of("offline"),
    output:
        agent=f"{RESULTS}/offline/{{task}}/{{method}}/seed{{seed}}/agent.npz",
        metrics=f"{RESULTS}/offline/{{task}}/{{method}}/seed{{seed}}/metrics.csv",
        manifest=f"{RESULTS}/offline/{{task}}/{{method}}/seed{{seed}}/manifest.json",
    log:
        f"{RESULTS}/logs/offline/{{task}}/{{method}}/seed{{seed}}.log",
    priority: wave
    conda:
        ENVIRONMENT
    threads: 1
    resources:
        gpu=int(not PACKED["offline"]),
        mem_mb=NEEDS["offline"]["memory"],
        runtime=NEEDS["offline"]["minutes"],
    params:
        spec=spec_in("offline"),
        run_dir=folder_of("metrics"),
        data_dir=data_dir_of("data"),
    shell:
        f"{train('offline')}"
        " --spec {params.spec:q}"
        " --run-dir {params.run_dir:q}"
        " 2>&1 | tee {log:q}"
