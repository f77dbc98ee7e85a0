# Memory and time of a job, by rule. Cores are in the profile (`set-threads`), because they depend on the machine.
#   memory  host memory of one run, MB. tests/support/job_memory.py measured, for DFP at the paper's sizes with four
#           evaluation processes, on a CPU (its memory also has the rows that a GPU would hold): pretrain 4,874 (cube-triple)
#           and 4,167 (cube-quadruple), finetune 5,429 and 4,429. The rest is for CUDA's host side, which was not measured.
#   minutes wall time requested from SLURM. Any value works, because runs continue. Longer jobs wait longer in most queues.
NEEDS = {
    "data": {"memory": 1000, "memory_per_core": 500, "minutes": 24 * 60},
    "pretrain": {"memory": 12000, "minutes": 24 * 60},
    "finetune": {"memory": 12000, "minutes": 48 * 60},
}
NEEDS["offline"] = NEEDS["pretrain"]
# The runs of a pack share a GPU and its time. Each needs the memory of a run.
NEEDS["pack"] = {"memory": PACK * 12000, "minutes": 48 * 60}
