"""What an attempt needs of its machine, without a run."""

import tempfile
from pathlib import Path

import jax
import pytest

from dfp.plan.catalogue import CATALOGUE, load_catalogue, load_config, run_spec
from dfp.training import session
from dfp.training.session import cache_compilations


@pytest.fixture
def cache():
    """The folder of compiled programs, unset; put back afterwards."""
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    yield lambda: jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", before)


def test_compiled_programs_are_kept_in_a_folder_of_this_user_alone(cache, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    cache_compilations()
    (folder,) = tmp_path.iterdir()
    assert cache() == str(folder)
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("place", ["file", "none"])
def test_a_cache_that_cannot_be_written_is_one_line_and_no_end(cache, tmp_path, monkeypatch, caplog, place):
    (tmp_path / "file").touch()
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path / place))
    cache_compilations()
    assert cache() is None
    (line,) = caplog.messages
    assert line.startswith(f"compiled programs are not kept, each start compiles again: {tmp_path / place}")


@pytest.mark.parametrize(("steps", "measured"), [(1_000, False), (100_000_000, True)])
def test_a_short_run_measures_no_speed_before_its_first_update(steps, measured, monkeypatch):
    """Three layers of 128, batch 128: 0.83 GFLOP an update, so 1,000 take 11 minutes at 2 GFLOP/s, below 12 hours."""
    asked = []
    monkeypatch.setattr(session, "gemm_rate", lambda: asked.append(True) or 1e15)
    spec = run_spec(load_config(CATALOGUE / "demo.yaml"), load_catalogue(), "cube-single-task2", "dfp", 0).pretraining()
    spec = spec.model_copy(update={"training": spec.training.model_copy(update={"offline_steps": steps})})
    session.refuse_slow_cpu(spec, session.Options(Path()))
    assert bool(asked) is measured


def test_the_online_phase_is_judged_by_its_own_steps(monkeypatch):
    """One offline update, but 100 million online steps."""
    monkeypatch.setattr(session, "gemm_rate", lambda: 1.0)
    spec = run_spec(load_config(CATALOGUE / "demo.yaml"), load_catalogue(), "cube-single-task2", "dfp", 0)
    assert spec.online is not None
    spec = spec.model_copy(
        update={
            "training": spec.training.model_copy(update={"offline_steps": 1}),
            "online": spec.online.model_copy(update={"steps": 100_000_000}),
        }
    )
    with pytest.raises(session.TrainingError, match="this finetune run would take about"):
        session.refuse_slow_cpu(spec, session.Options(Path()))
