"""What write_model writes: the code of the model, no path of this machine, the model left as it was."""

import json
import runpy

import clara
import pytest
from clara.hub.endpoint import EndpointHandler
from clara.hub.folder import check_no_local_paths, write_endpoint, write_model
from conftest import ROOT


def test_the_folder_holds_the_code_that_the_loader_needs_and_the_licence(shared_model, tmp_path):
    write_model(shared_model, tmp_path)
    code = {path.name for path in tmp_path.glob("*.py")}
    assert {"modeling_clara.py", "pipeline_clara.py", "processing_clara.py"} <= code
    assert code <= {path.name for path in ROOT.glob("*_clara.py")}
    assert (tmp_path / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


def test_an_endpoint_gets_its_handler_from_this_version_of_the_package(tmp_path):
    write_endpoint(tmp_path)
    assert (tmp_path / "requirements.txt").read_text() == f"clara-rag=={clara.__version__}\n"
    found = runpy.run_path(str(tmp_path / "handler.py"))
    assert found["EndpointHandler"] is EndpointHandler


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
