# Which runs share a GPU or a program, and which have a job of their own.
from dfp.plan.experiments import KINDS

# Whether a pack trains the runs of a kind: side by side with others, or in one program with other seeds.
PACKED = {
    "pretrained": PACK > 1 or SEEDS_PER_JOB > 1,
    "runs": PACK > 1,
    "offline": PACK > 1 or SEEDS_PER_JOB > 1,
}


def _packs():
    """Folders of the runs of each pack, by (kind, first seed, number). A pack has K programs of one kind."""
    by_wave = {}
    for folders in programs(PLAN.specs, SEEDS_PER_JOB):
        kind, _, _, seed = Path(folders[0]).parts
        by_wave.setdefault((kind, seed.removeprefix("seed")), []).append(folders)
    return {
        (*wave, str(start // PACK)): sum(groups[start : start + PACK], [])
        for wave, groups in by_wave.items()
        for start in range(0, len(groups), PACK)
    }


PACKS = _packs()
PACK_OF = {folder: key for key, folders in PACKS.items() for folder in folders}


def packed(wildcards):
    """Folders of the runs of a pack."""
    return known(PACKS, (wildcards.kind, wildcards.seed, wildcards.number), "pack")


def packed_tasks(wildcards):
    return [Path(folder).parts[1] for folder in packed(wildcards)]


def pack_of(kind):
    """The marker of the pack that trains a run, if any. Its age does not matter, because each run has its spec."""

    def marker(wildcards):
        cell(wildcards)
        if not PACKED[kind]:
            return []
        folder = f"{kind}/{wildcards.task}/{wildcards.method}/seed{wildcards.seed}"
        kind_, seed, number = known(PACK_OF, folder, "run")
        return ancient(f"{RESULTS}/packs/{kind_}/seed{seed}-{number}")

    return marker


def train(stage):
    """The command of a run. If a pack has trained the run, the job only puts the results under their names."""
    if not PACKED[KINDS[stage]]:
        return f"{ON_GPU}python -m dfp train {stage} --data-dir {{params.data_dir:q}} --threads {{threads}}"
    return "python -m dfp train recall"
