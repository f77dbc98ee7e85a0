# Which runs share a GPU, and what is left to their own jobs.


def _packs():
    """Folders of the runs of each pack, by (kind, seed, number): K of one kind and seed, in the order of the tables."""
    by_wave = {}
    for folder in PLAN.specs:
        kind, _, _, seed = Path(folder).parts
        by_wave.setdefault((kind, seed.removeprefix("seed")), []).append(folder)
    return {
        (*wave, str(start // PACK)): folders[start : start + PACK]
        for wave, folders in by_wave.items()
        for start in range(0, len(folders), PACK)
    }


PACKS = _packs()
PACK_OF = {folder: key for key, folders in PACKS.items() for folder in folders}


def packed(wildcards):
    """Folders of the runs of a pack."""
    return known(PACKS, (wildcards.kind, wildcards.seed, wildcards.number), "pack")


def packed_tasks(wildcards):
    return [Path(folder).parts[1] for folder in packed(wildcards)]


def pack_of(kind):
    """The marker of the pack that trains a run; none without packs. Its age does not matter: each run knows its spec."""

    def marker(wildcards):
        cell(wildcards)
        if PACK == 1:
            return []
        folder = f"{kind}/{wildcards.task}/{wildcards.method}/seed{wildcards.seed}"
        kind_, seed, number = known(PACK_OF, folder, "run")
        return ancient(f"{RESULTS}/packs/{kind_}/seed{seed}-{number}")

    return marker


def train(stage):
    """The command of a run; where a pack has trained it, the job only puts the results under their names."""
    if PACK == 1:
        return f"python -m dfp {stage} --data-dir {{params.data_dir:q}} --threads {{threads}}"
    return "python -m dfp recall"
