# Memory and time of a job, by rule. Cores are in the profile (`set-threads`), because they depend on the machine.
#   memory  host memory, MB, of one run. Measured by tests/support/job_memory.py, DFP at the paper's sizes with four evaluation
#           processes, on a CPU, where the rows that a GPU would hold count too: pretrain 4,874 (cube-triple) and 4,167
#           (cube-quadruple), finetune 5,429 and 4,429. The rest is for CUDA's host side, which was not measured.
#   minutes wall time asked of SLURM. Any value works, runs continue; a longer one waits longer in most queues.
NEEDS = {
    "data": {"memory": 1000, "memory_per_core": 500, "minutes": 24 * 60},
    "pretrain": {"memory": 12000, "minutes": 24 * 60},
    "finetune": {"memory": 12000, "minutes": 48 * 60},
}
NEEDS["offline"] = NEEDS["pretrain"]
# A pack's members share the GPU and its hours; each needs the memory of a run.
NEEDS["pack"] = {"memory": PACK * 12000, "minutes": 48 * 60}
