"""What write_model writes: requirements from imports, no path of this machine, the model left as it was."""

import json
import sys

import pytest
from clara.train.publishing.folder import check_no_local_paths, requirements, write_model
from conftest import ROOT


def test_requirements_are_what_the_files_import(tmp_path):
    (tmp_path / "a.py").write_text(
        "import os, torch.nn\nfrom huggingface_hub.errors import X\nfrom .b import c\n"
    )
    (tmp_path / "b.py").write_text("def f():\n    import tqdm.auto\n")
    assert requirements(tmp_path.glob("*.py")) == ["huggingface_hub<3,>=2", "torch>=2.8", "tqdm>=4.66"]


def test_requirements_cover_every_import_of_what_is_published(shared_model, tmp_path):
    write_model(shared_model, tmp_path)
    named = {line.split("<")[0].split(">")[0] for line in (tmp_path / "requirements.txt").read_text().split()}
    assert {"torch", "transformers", "peft", "safetensors", "huggingface_hub", "numpy", "pyarrow"} <= named
    assert not named & set(sys.stdlib_module_names)
    for name in ("handler.py", "requests_clara.py", "LICENSE"):
        assert (tmp_path / name).read_bytes() == (ROOT / name).read_bytes()


def test_a_base_of_this_machine_loses_its_name_there_and_keeps_it_here(model, base, tmp_path):
    write_model(model, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["base_model_name_or_path"] is None
    assert model.config.base_model_name_or_path == base
    check_no_local_paths(tmp_path, [base])


@pytest.mark.parametrize("name", ["smollm2-135m", "org/base"])
def test_a_base_of_the_hub_keeps_its_name(model, tmp_path, name):
    model.config.base_model_name_or_path = name
    write_model(model, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["base_model_name_or_path"] == name


def adapters_base(folder):
    files = list(folder.glob("*/adapter_config.json"))
    assert len(files) == 3
    (found,) = {json.loads(file.read_text())["base_model_name_or_path"] for file in files}
    return found


def test_adapters_name_a_base_that_the_hub_has(model, tmp_path):
    write_model(model, tmp_path / "local", base="org/base")
    assert adapters_base(tmp_path / "local") == "org/base"
    model.config.base_model_name_or_path = "smollm2-135m"
    write_model(model, tmp_path / "embedded")
    assert adapters_base(tmp_path / "embedded") == "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_a_path_of_this_machine_is_found_wherever_it_stands(tmp_path):
    folder, secret = tmp_path / "out", tmp_path / "secret"
    (folder / "compressor").mkdir(parents=True)
    (folder / "README.md").write_text("See https://huggingface.co/docs and a/b.")
    check_no_local_paths(folder, [secret])
    (folder / "compressor" / "adapter_config.json").write_text(json.dumps({"base": f"{secret}/base"}))
    with pytest.raises(ValueError, match="compressor/adapter_config.json names a place of this machine"):
        check_no_local_paths(folder, [secret])
