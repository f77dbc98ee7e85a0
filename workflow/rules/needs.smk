# What a job needs, by rule: the one place. Cores are the profile's (`set-threads`), since a laptop has other ones.
#   memory  host memory, MB, of one run, estimated (measured was a laptop's demo only: 1.5 GB at its peak): process and
#           simulators ~2.5 GB, the rows of a million transitions and their copy while the buffer is built ~2 GB, the
#           next file of cube-quadruple ~1 GB; the rest is slack for CUDA's host side.
#   minutes wall time asked of SLURM. Any value works, runs continue; a longer one waits longer in most queues.
NEEDS = {
    "data": {"memory": 1000, "memory_per_core": 500, "minutes": 24 * 60},
    "pretrain": {"memory": 12000, "minutes": 24 * 60},
    "finetune": {"memory": 12000, "minutes": 48 * 60},
}
NEEDS["offline"] = NEEDS["pretrain"]
# A pack's members share the GPU and its hours; each needs the memory of a run.
NEEDS["pack"] = {"memory": PACK * 12000, "minutes": 48 * 60}
