# The paper as a DAG: data -> pretrain -> finetune -> tables, figures, report.
#   snakemake --cores all --configfile config/demo.yaml     a laptop, minutes
#   snakemake --profile slurm all                           the paper, on a cluster
import os

from snakemake.utils import min_version

min_version("9.19")

# A configuration file, or the configuration of a workflow that uses this one, replaces the default completely.
# `--config seeds=[0]` changes single keys of the default. The default is the working folder's, or else the one beside this file.
GIVEN = workflow.config_settings.config or {}
DEFAULT = "config/config.yaml"
if not os.path.exists(DEFAULT):
    DEFAULT = f"{workflow.current_basedir}/{DEFAULT}"
if not workflow.configfiles and config.keys() <= GIVEN.keys():

    configfile: DEFAULT


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/inputs.smk"
include: "workflow/rules/needs.smk"
include: "workflow/rules/packing.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/pack.smk"
include: "workflow/rules/tables.smk"
include: "workflow/rules/figures.smk"
include: "workflow/rules/report.smk"


onstart:
    record(Path(SETTINGS.results_dir), [Path(path) for path in workflow.configfiles])


onsuccess:
    print(what_was_made())


localrules:
    all,
    tables_and_figures,


rule all:
    default_target: True
    input:
        TARGETS,
        f"{RESULTS}/report.html",
        # No rule reads these agents. Snakemake only makes a missing output again if something asks for it.
        files_of("agent.npz", PLAN.runs),


rule tables_and_figures:
    input:
        TARGETS,
