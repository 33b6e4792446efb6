"""The check in a fresh process: the right folder passes, broken and different ones are told apart."""

import shutil
from pathlib import Path

import pytest
from clara.data.sample_corpus import sample_documents
from clara.hub.check import SETTINGS, _compare, _environment, check_folder, run_fresh
from clara.hub.folder import write_model
from conftest import make_model, stir


@pytest.fixture(scope="module")
def folder(shared_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("assembled") / "model"
    folder.mkdir()
    write_model(shared_model, folder)
    return folder


@pytest.mark.slow
def test_the_folder_answers_as_its_model_in_both_ways(folder, shared_model, monkeypatch):
    monkeypatch.chdir(folder.parent)
    found = check_folder(Path(folder.name), shared_model)  # `--output` may be a relative path
    assert list(found) == ["AutoModel", "pipeline"]
    assert found["AutoModel"]["module"].startswith("transformers_modules.")
    assert len(found["pipeline"]["ids"]) == SETTINGS["retrieval_top_k"]
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


@pytest.mark.slow
def test_another_model_is_noticed(folder, base):
    other = stir(make_model(base), seed=9)
    with pytest.raises(RuntimeError, match="answers otherwise by AutoModel"):
        check_folder(folder, other)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["retrieval_clara.py", "pipeline_clara.py", "config.json"])
def test_a_missing_file_is_noticed_although_the_package_has_it(folder, tmp_path, name):
    broken = Path(shutil.copytree(folder, tmp_path / "model"))
    (broken / name).unlink()
    with pytest.raises(RuntimeError, match="does not load in a fresh process"):
        run_fresh(broken, {"question": "Who?", "documents": sample_documents()[:5], "device": "cpu"})


def test_the_fresh_process_gets_no_token_no_cache_and_no_memory(tmp_path, monkeypatch):
    for name in ("HF_TOKEN", "HF_ENDPOINT", "CLARA_MEMORIES", "HF_HOME"):
        monkeypatch.setenv(name, "secret")
    given = _environment(tmp_path, "cpu")
    assert "secret" not in given.values() and given["HF_HUB_OFFLINE"] == "1"
    assert given["HF_HOME"] == str(tmp_path / "home") and given["CUDA_VISIBLE_DEVICES"] == ""
    assert given["PATH"]


@pytest.mark.parametrize("changed", [{"answer": "b"}, {"ids": ["1", "0"]}, {"scores": [0.5, 0.402]}])
def test_any_difference_counts(changed):
    expected = {"answer": "a", "ids": ["0", "1"], "scores": [0.5, 0.4]}
    _compare("pipeline", {**expected, "scores": [0.5, 0.4005]}, expected)
    with pytest.raises(RuntimeError, match="answers otherwise by pipeline"):
        _compare("pipeline", {**expected, **changed}, expected)
