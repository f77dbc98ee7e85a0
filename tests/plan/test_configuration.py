"""A bad configuration, method or catalogue is refused in one line that names it."""

import copy
import json
import random
import re
import shutil

import pytest
from support.shipped import CATALOGUE, CONFIG, content

from dfp.plan.catalogue import agent_for, load_catalogue, load_config, parse_config, read_yaml
from dfp.plan.experiments import plan
from dfp.shipped import CATALOGUE as FOLDER
from dfp.spec import ConfigError, parse_spec


def without(key):
    def change(config):
        del config[key]

    return change


def setting(path, value):
    def change(config):
        *parents, last = path.split(".")
        for parent in parents:
            config = config[parent]
        config[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (setting("sedes", [1]), "unknown key 'sedes'; allowed: cells, data, data_dir"),
        (setting("training.batchsize", 8), "unknown key 'training.batchsize'; allowed: batch_size, discount"),
        (setting("tasks", ["cube-double-task9"]), "unknown task 'cube-double-task9'; allowed: lift, square"),
        (setting("experiments", ["table99"]), "unknown experiment 'table99'; allowed: table1, table2"),
        (setting("training.discount", 1.5), "'training.discount': Input should be less than 1, got 1.5"),
        (setting("training.batch_size", 0), "'training.batch_size': Input should be greater than 0, got 0"),
        (setting("seeds", [0, 0]), "'seeds': names 0 twice"),
        (setting("seeds", []), "'seeds': List should have at least 1 item"),
        (setting("tasks", ["lift", "can", "lift"]), "'tasks': names 'lift' twice"),
        (setting("offline", {"tasks": ["lift"], "seeds": [1, 1]}), "'offline.seeds': names 1 twice"),
        (setting("offline", {"tasks": ["lift", "lift"], "seeds": [1]}), "'offline.tasks': names 'lift' twice"),
        (setting("cells", {"table2": {"methods": ["dfp", "dfp"]}}), "'cells.table2.methods': names 'dfp' twice"),
        (setting("seeds", [2**31]), "'seeds.0': Input should be less than 2147483648, got 2147483648"),
        (setting("seeds", [-1]), "'seeds.0': Input should be greater than or equal to 0, got -1"),
        (setting("seeds", [True]), "'seeds': Input should be a number, not true or false"),
        (setting("data.seed", True), "'data.seed': Input should be a number, not true or false"),
        (setting("training.batch_size", True), "'training.batch_size': Input should be a number, not true or false"),
        (setting("training.learning_rate", float("inf")), "'training.learning_rate': Input should be a finite number"),
        (setting("results_dir", "$NOWHERE/results"), "'results_dir': '$NOWHERE/results' is not a path"),
        (setting("results_dir", ""), "'results_dir': '' is not a path"),
        (setting("data_dir", "~nobody-here/data"), "'data_dir': '~nobody-here/data' is not a path"),
        (setting("data.source", "steal"), "'data.source': Input should be 'download' or 'generate'"),
        (setting("data.episodes", None), "source 'generate' needs both 'episodes' and 'seed'"),
        (setting("online", 3), "'online'"),
        (without("network"), "'network' is missing"),
    ],
)
def test_a_bad_configuration_is_one_line_that_names_it(change, message):
    config = copy.deepcopy(content())
    change(config)
    with pytest.raises(ConfigError) as error:
        parse_config(config, "my.yaml")
    assert str(error.value).startswith("my.yaml: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("agent", "message"),
    [
        ({"name": "dpf"}, "unknown agent 'dpf'; allowed: bfn, dfp, fql, mvp"),
        ({}, "'name' is missing"),
        ({"name": "dfp", "lambda": 1.0}, "unknown key 'lambda'; allowed: bandwidths, best_of"),
        ({"name": "dfp", "top_k": {"k": 2}}, "unknown key 'top_k.k'; allowed: candidates, ema_rate"),
        ({"name": "dfp", "top_k": {"positives": 17}}, "'positives' (17) is larger than 'candidates' (16)"),
        ({"name": "dfp", "top_k": {"ema_rate": 1.5}}, "'top_k.ema_rate': Input should be less than or equal to 1"),
        ({"name": "dfp", "top_k": {"ema_rate": 0.0}}, "'top_k.ema_rate': Input should be greater than 0"),
        ({"name": "dfp", "top_k": {"weight": -0.1}}, "'top_k.weight': Input should be greater than or equal to 0"),
        ({"name": "dfp", "normalisation": "none"}, "'normalisation': Input should be 'joint' or 'mean_shift'"),
        ({"name": "dfp", "bandwidths": []}, "'bandwidths'"),
        ({"name": "dfp", "bandwidths": [0.0]}, "'bandwidths.0': Input should be greater than 0"),
    ],
)
def test_a_bad_method_is_one_line_that_names_it(agent, message):
    catalogue = json.loads(CATALOGUE.model_dump_json())
    catalogue["methods"]["dfp"]["agent"] = agent
    with pytest.raises(ConfigError) as error:
        agent_for("dfp", "cube-double-task2", type(CATALOGUE).model_validate(catalogue))
    assert str(error.value).startswith("methods.yaml, dfp: ")
    assert message in str(error.value)


def test_a_missing_or_broken_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml: no such file"):
        load_config(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match=r"bad\.yaml: not YAML"):
        load_config(tmp_path / "bad.yaml")
    text = (CONFIG / "smoke.yaml").read_text()
    (tmp_path / "twice.yaml").write_text(text + "seeds: [1]\n")
    first, last = text.splitlines().index("seeds: [0]") + 1, len(text.splitlines()) + 1
    message = rf"twice\.yaml: not YAML: the key 'seeds' is in line {first} and again in line {last}"
    with pytest.raises(ConfigError, match=message):
        load_config(tmp_path / "twice.yaml")
    (tmp_path / "line.yaml").write_text("network: {width: 16, depth: 2, width: 512}\n")
    with pytest.raises(ConfigError, match="the key 'width' is in line 1 and again in line 1"):
        load_config(tmp_path / "line.yaml")
    (tmp_path / "latin.yaml").write_bytes("# für Versuche\n".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"latin\.yaml: not UTF-8 text \(byte 4\)"):
        load_config(tmp_path / "latin.yaml")
    (tmp_path / "tasks.yaml").write_text("# nothing yet\n")
    with pytest.raises(ConfigError, match=r"tasks\.yaml: empty; allowed: a mapping"):
        load_catalogue(tmp_path)
    with pytest.raises(ConfigError, match="--spec: not JSON"):
        parse_spec("{")
    with pytest.raises(ConfigError, match="--spec: not JSON: the key 'seed' is there twice"):
        parse_spec('{"seed": 0, "task": {}, "seed": 1}')


@pytest.mark.parametrize(
    ("name", "right", "wrong", "message"),
    [
        ("methods", "tasks: [lift, square, can]", "tasks: [lfit, square, can]", "qc-bfn, overrides: 'tasks': 'lfit'"),
        ("experiments", "tasks: [cube-quadruple-*]", "tasks: [cube-qadruple-*]", "table3: 'tasks': 'cube-qadruple-*'"),
    ],
)
def test_a_pattern_that_matches_no_task_is_named(tmp_path, name, right, wrong, message):
    for file in ("tasks.yaml", "methods.yaml", "experiments.yaml"):
        shutil.copy(CONFIG / file, tmp_path)
    path = tmp_path / f"{name}.yaml"
    path.write_text(path.read_text().replace(right, wrong, 1))
    with pytest.raises(ConfigError, match=re.escape(f"{path}, {message} matches no task; there are: lift, square,")):
        load_catalogue(tmp_path)


def test_a_task_with_the_key_of_another_is_named(tmp_path):
    for file in ("tasks.yaml", "methods.yaml", "experiments.yaml"):
        shutil.copy(CONFIG / file, tmp_path)
    path = tmp_path / "tasks.yaml"
    path.write_text(path.read_text().replace("environment: Lift\n", "environment: Lift\n    key: can\n"))
    with pytest.raises(ConfigError, match=re.escape(f"{path}, lift: 'spec.key' is 'can'; leave it out")):
        load_catalogue(tmp_path)


def test_an_editors_marks_change_nothing(tmp_path):
    text = (CONFIG / "smoke.yaml").read_bytes()
    (tmp_path / "windows.yaml").write_bytes(b"\xef\xbb\xbf" + text.replace(b"\n", b"\r\n"))
    assert load_config(tmp_path / "windows.yaml") == load_config(CONFIG / "smoke.yaml")


def test_a_home_and_a_variable_are_what_a_shell_makes_of_them(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv("SCRATCH", "/big disk")
    config = parse_config(content() | {"results_dir": "~/results", "data_dir": "$SCRATCH/data"}, "c.yaml")
    assert (config.results_dir, config.data_dir) == ("/home/somebody/results", "/big disk/data")


def test_the_catalogue_of_the_environment_may_be_below_the_home_folder(tmp_path, monkeypatch):
    shutil.copytree(FOLDER, tmp_path / "mine")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DFP_CATALOGUE", "~/mine")
    assert load_catalogue().tasks.keys() == load_catalogue(FOLDER).tasks.keys()
    monkeypatch.setenv("DFP_CATALOGUE", "$NOWHERE/mine")
    with pytest.raises(ConfigError, match=r"DFP_CATALOGUE: '\$NOWHERE/mine' is not a path"):
        load_catalogue()


@pytest.mark.parametrize("name", ["smoke.yaml", "tasks.yaml", "methods.yaml"])
def test_a_damaged_file_is_read_or_refused_in_one_line(tmp_path, name):
    """Hundreds of damages: cut, bytes replaced, lines dropped, doubled or swapped."""
    shipped, draw = (CONFIG / name).read_bytes(), random.Random(name)
    for file in ("tasks.yaml", "methods.yaml", "experiments.yaml", "smoke.yaml"):
        shutil.copy(CONFIG / file, tmp_path)
    said = []
    for _ in range(300 if name == "smoke.yaml" else 30):
        (tmp_path / name).write_bytes(damaged(shipped, draw))
        try:
            catalogue = CATALOGUE if name == "smoke.yaml" else load_catalogue(tmp_path)
            plan(parse_config(read_yaml(tmp_path / "smoke.yaml"), "smoke.yaml", catalogue), catalogue)
        except ConfigError as error:
            said.append(str(error))
    assert len(said) > 10
    assert not [line for line in said if "\n" in line]


def damaged(content: bytes, draw: random.Random) -> bytes:
    lines = content.splitlines(keepends=True)
    kind, line, place = draw.randrange(6), draw.randrange(len(lines)), draw.randrange(len(content))
    if kind == 0:
        return content[:place]
    if kind == 1:
        return content[:place] + bytes(draw.choices(range(256), k=3)) + content[place + 3 :]
    if kind == 2:
        return b"".join(lines[:line] + lines[line + 1 :])
    if kind == 3:
        return b"".join([*lines[: line + 1], *lines[line:]])
    if kind == 4:
        values = (b"true", b"-1", b".inf", b".nan", b"''", b"null", b"[]", b"{}", b"2020-13-45", b"[[[[", b"1e400")
        value = draw.choice(values)
        return b"".join([*lines[:line], lines[line].partition(b":")[0] + b": " + value + b"\n", *lines[line + 1 :]])
    return b"".join([*lines[:line], b"  " + lines[line], *lines[line + 1 :]])
