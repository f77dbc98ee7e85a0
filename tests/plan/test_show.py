"""What ``show`` prints: the command, every number of the spec, and its source."""

import json

import pytest

from dfp.plan.catalogue import CATALOGUE, load_catalogue, load_config, run_spec
from dfp.plan.show import describe, settings
from dfp.runs.folder import RunFolder, read_run, read_spec
from dfp.spec import ConfigError

CATALOGUE_ENTRIES = load_catalogue()


def spec_of(task: str, method: str, config: str = "config.yaml"):
    return run_spec(load_config(CATALOGUE / config), CATALOGUE_ENTRIES, task, method, 0)


def test_a_started_run_shows_its_command_and_spec(tmp_path):
    spec = spec_of("lift", "dfp")
    RunFolder(tmp_path, spec).start(["python", "-m", "dfp", "train", "finetune", "--run-dir", "a folder"], "cpu: cpu")
    found, command = read_run(tmp_path)
    assert found == spec
    assert command == "python -m dfp train finetune --run-dir 'a folder'"
    page = describe(found, CATALOGUE_ENTRIES, command)
    assert page.startswith(command)
    assert spec.digest() in page


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"no run was started here \(run.json is missing\)"):
        read_run(tmp_path)


def test_a_command_of_another_run_is_refused_and_the_manifest_says_the_spec(tmp_path):
    spec = spec_of("lift", "dfp")
    (tmp_path / "manifest.json").write_text(json.dumps({"spec": json.loads(spec.canonical())}))
    RunFolder(tmp_path, spec_of("can", "dfp")).start(["python"], "cpu: cpu")
    with pytest.raises(ConfigError, match=r"run\.json: not of the run that manifest\.json beside it records"):
        read_run(tmp_path)
    assert read_spec(tmp_path) == spec


def test_every_number_of_the_spec_is_shown_once_with_its_source():
    spec = spec_of("cube-double-task2", "dfp")
    shown = {setting.key: setting for setting in settings(spec, CATALOGUE_ENTRIES)}

    def leaves(tree, prefix=""):
        for key, value in tree.items():
            if isinstance(value, dict):
                yield from leaves(value, f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}", value

    assert {key: setting.value for key, setting in shown.items()} == dict(leaves(json.loads(spec.canonical())))
    assert all(setting.source for setting in shown.values())
    assert "Table 5: 256" in shown["training.batch_size"].source
    assert not any(setting.paper for setting in shown.values())  # this is the paper's configuration


def test_an_offline_phase_of_the_paper_does_not_differ_from_the_paper():
    pretraining = spec_of("cube-double-task2", "dfp").pretraining()
    assert "As in the paper's configuration." in describe(pretraining, CATALOGUE_ENTRIES, "")


def test_what_differs_from_the_paper_and_by_task_is_said():
    shown = {
        setting.key: setting
        for setting in settings(spec_of("cube-single-task2", "dfp", "demo.yaml"), CATALOGUE_ENTRIES)
    }
    assert (shown["network.width"].value, shown["network.width"].paper) == (64, 512)
    shown = {setting.key: setting for setting in settings(spec_of("lift", "dfp"), CATALOGUE_ENTRIES)}
    assert shown["agent.top_k.positives"].value == 2
    assert "Here: Table 5, N', h and K on Robomimic." in shown["agent.top_k.positives"].source
