"""SLURM settings that lose jobs. Pure functions of what SLURM says; asking is :mod:`dfp.runs.slurm`'s."""

from __future__ import annotations

import getpass
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dfp.ops.doctor.findings import Finding
from dfp.plan.catalogue import read_yaml
from dfp.runs import slurm
from dfp.spec import ConfigError

CHECKPOINT_MIN = 10.0  # the default of --checkpoint-minutes


class Profile(NamedTuple):
    """The settings of a Snakemake profile for SLURM that the checks read."""

    jobs: int  #: at once
    polling_s: float  #: between two looks at the jobs
    status_command: str  #: sacct, squeue or auto
    partition: str | None


def read_profile(paths: Sequence[Path], partition: str | None = None) -> Profile:
    """The settings of one or more profiles. As in Snakemake, a later profile replaces the keys of an earlier one.

    A key that no profile has gets Snakemake's default.

    Args:
      paths: the profiles, each a file, or a folder with a ``config.yaml``.
      partition: the SLURM partition of the jobs, instead of the one in the profiles.

    Raises:
      ConfigError: a profile is missing or is not YAML, or a value is not a number.
    """
    content: dict[str, Any] = {}
    for path in paths:
        content |= read_yaml(path / "config.yaml" if path.is_dir() else path)
    source = ", ".join(map(str, paths))
    return Profile(
        jobs=int(_number(content, "jobs", 100, source)),
        polling_s=_number(content, "seconds-between-status-checks", 40, source),
        status_command=str(content.get("slurm-status-command", "auto")),
        partition=partition or _default_partition(content),
    )


def _number(content: Mapping[str, Any], key: str, default: float, source: str) -> float:
    value = content.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"{source}: '{key}': {value!r} is not a number")
    return value


def _default_partition(content: Mapping[str, Any]) -> str | None:
    resources = content.get("default-resources") or {}  # a key without entries is None
    if isinstance(resources, list):
        resources = dict(str(item).split("=", 1) for item in resources)
    return resources.get("slurm_partition")


def check_cluster(profile: Profile, query: slurm.Ask = slurm.ask) -> list[Finding]:
    """Ask SLURM and judge its answers. One finding if there is no SLURM here."""
    text = query(("scontrol", "show", "config"))
    if text is None:
        if shutil.which("scontrol") is None:
            return [Finding("slurm", "ok", "no SLURM here (scontrol is not on the PATH): nothing to check")]
        why = "jobs cannot be submitted or watched"
        return [Finding("slurm", "error", "scontrol does not answer", why, "scontrol ping")]
    config = slurm.parse_config(text)
    partitions = slurm.parse_records(query(("scontrol", "--oneliner", "show", "partition")) or "")
    account = ("sacctmgr", "-n", "-P", "show", "assoc", f"user={getpass.getuser()}", "format=MaxSubmit,GrpSubmit")
    limits = slurm.parse_table(query(account) or "", ("MaxSubmit", "GrpSubmit"))
    findings = [
        *check_accounting(config, profile, shutil.which("sacct") is not None),
        *check_memory_of_jobs(config, profile),
        *check_preemption(config, partitions, profile.partition),
        *check_requeue(config),
        *check_limits(config, limits, profile),
        *check_partition(partitions, profile.partition),
    ]
    return findings or [Finding("slurm", "ok", f"{config.get('ClusterName', 'cluster')}: no setting that loses jobs")]


def check_accounting(config: Mapping[str, str], profile: Profile, sacct: bool) -> list[Finding]:
    """Snakemake would ask ``sacct``, but accounting is off. ``sacct``: whether it is on the PATH."""
    if config.get("AccountingStorageType", "") not in ("accounting_storage/none", "(null)", ""):
        return []
    if profile.status_command == "squeue" or (profile.status_command == "auto" and not sacct):
        return []
    return [
        Finding(
            "slurm",
            "error",
            f"accounting is off, and the profile asks sacct (slurm-status-command: {profile.status_command})",
            "sacct knows no job then: Snakemake waits forever for jobs that are done",
            "slurm-status-command: squeue    # in the profile",
        )
    ]


def check_memory_of_jobs(config: Mapping[str, str], profile: Profile) -> list[Finding]:
    """The controller forgets a finished job (``MinJobAge``) before Snakemake looks twice."""
    if profile.status_command == "sacct" or "MinJobAge" not in config:
        return []
    age = slurm.seconds(config["MinJobAge"])
    if age == 0 or age >= 2 * profile.polling_s:  # 0: never forgotten
        return []
    return [
        Finding(
            "slurm",
            "error",
            f"MinJobAge is {age:.0f} s, Snakemake looks every {profile.polling_s:.0f} s",
            "a job that ended between two looks is unknown to squeue, and its end is missed",
            f"seconds-between-status-checks: {max(1, int(age // 2))}    # in the profile; or sacct, with accounting on",
        )
    ]


def check_preemption(
    config: Mapping[str, str], partitions: Sequence[Mapping[str, str]], wanted: str | None
) -> list[Finding]:
    """The cluster, or the partition of the jobs, cancels a preempted job instead of requeueing it."""
    if config.get("PreemptType", "preempt/none") == "preempt/none":
        return []
    modes = {"the cluster": config.get("PreemptMode", "OFF")}
    modes |= {f"partition {one['PartitionName']}": one.get("PreemptMode", "OFF") for one in _used(partitions, wanted)}
    return [
        Finding(
            "slurm",
            "warning",
            f"PreemptMode of {name} is {mode}",
            "a preempted job is cancelled: Snakemake may wait for it forever, or count it as failed",
            "use a partition or QOS that is not preempted, or ask the site for PreemptMode=REQUEUE",
        )
        for name, mode in modes.items()
        if "CANCEL" in mode.upper()
    ]


def check_requeue(config: Mapping[str, str]) -> list[Finding]:
    """Jobs are not requeued unless they ask for it."""
    if config.get("JobRequeue", "1") != "0":
        return []
    return [
        Finding(
            "slurm",
            "warning",
            "JobRequeue is 0: SLURM does not put a job back after its node failed",
            "such a job counts as failed, and takes one of the profile's retries",
            "slurm-requeue: true    # in the profile, as in ours; sbatch --requeue asks for it job by job",
        )
    ]


def check_limits(
    config: Mapping[str, str], limits: Sequence[Mapping[str, str]], profile: Profile
) -> list[Finding]:  # fmt: skip
    """The user, the account or the whole cluster may hold fewer jobs than the profile submits."""
    found = {f"{key} of your account": int(one[key]) for one in limits for key in one if one[key].isdigit()}
    if config.get("MaxJobCount", "").isdigit():
        found["MaxJobCount of the cluster"] = int(config["MaxJobCount"])
    return [
        Finding(
            "slurm",
            "error",
            f"{name} is {count}, the profile submits up to {profile.jobs} jobs at once",
            "sbatch refuses what is above it, and Snakemake counts the refused job as failed",
            f"snakemake --profile slurm --jobs {count} all",
        )
        for name, count in found.items()
        if count < profile.jobs
    ]


def check_partition(partitions: Sequence[Mapping[str, str]], wanted: str | None) -> list[Finding]:
    """The partition exists, is up, and lasts longer than one checkpoint interval and the margin before its end."""
    names = [one["PartitionName"] for one in partitions]
    if wanted is not None and wanted not in names:
        why, command = "sbatch refuses every job", "sinfo -s    # and --partition, or slurm_partition in your profile"
        return [Finding("slurm", "error", f"no partition '{wanted}'; there are: {', '.join(names)}", why, command)]
    needed = CHECKPOINT_MIN + slurm.SLURM_MARGIN_S / 60
    findings = []
    for one in _used(partitions, wanted):
        name, limit = one["PartitionName"], one.get("MaxTime", "UNLIMITED")
        if one.get("State", "UP") != "UP":
            why = "SLURM refuses its jobs, or lets them wait until it is up"
            findings.append(Finding("slurm", "error", f"partition {name} is {one['State']}", why, "sinfo -s"))
        if slurm.minutes(limit) < needed:
            findings.append(
                Finding(
                    "slurm",
                    "error",
                    f"partition {name} ends jobs after {limit}, less than the {needed:.0f} min to a first checkpoint",
                    "no attempt would get further than the one before",
                    "use a partition with a longer limit",
                )
            )
    return findings


def _used(partitions: Sequence[Mapping[str, str]], wanted: str | None) -> list[Mapping[str, str]]:
    """The partition that jobs go to: the one that is wanted, else the site's default."""
    is_used: Callable[[Mapping[str, str]], bool] = (
        (lambda one: one["PartitionName"] == wanted) if wanted else (lambda one: one.get("Default") == "YES")
    )
    return [one for one in partitions if is_used(one)]
