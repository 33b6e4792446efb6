"""Export for vLLM: the merged model and the client's embeddings give the answers of `model.generate`.

The scripted server checks requests against the fields of vLLM 0.33.0's own CompletionRequest, and reads
embeddings as its renderer does: base64, `torch.load(weights_only=True)`, two dimensions, the model's width.
"""

import base64
import io
import json
from pathlib import Path
from typing import Annotated

import pytest
import torch
from clara.adapters_clara import wearing
from clara.commands.main import main
from clara.convert.text_generation import merged_generator
from clara.modeling_clara import ClaraForRetrievalGeneration
from clara.serving.vllm_client import ClaraVllmClient, encode_embeds
from clara.serving.vllm_export import export_vllm
from conftest import DOCUMENTS, QUESTIONS
from fastapi import Body, FastAPI, HTTPException
from serving_helpers import serving
from transformers import AutoModelForCausalLM, AutoTokenizer

jsonschema = pytest.importorskip("jsonschema")
SCHEMA = json.loads((Path(__file__).parent / "vllm_0_33_0_completions.json").read_text())


@pytest.fixture(scope="module")
def exported(shared_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "vllm"
    export_vllm(shared_model, folder)
    return folder


def read_embeds(text, width):
    tensor = torch.load(io.BytesIO(base64.b64decode(text, validate=True)), weights_only=True)
    assert tensor.dim() == 2 and tensor.shape[1] == width and tensor.is_floating_point()
    return tensor


def fake_vllm(folder, requests):
    """A server of the exported folder by transformers alone."""
    app = FastAPI()
    plain, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)

    def complete(text, tokens):
        embeds = read_embeds(text, plain.config.hidden_size).unsqueeze(0)
        mask = torch.ones(embeds.shape[:2], dtype=torch.long)
        ids = plain.generate(inputs_embeds=embeds, attention_mask=mask, max_new_tokens=tokens)
        return tokenizer.decode(ids[0], skip_special_tokens=True)

    @app.get("/v1/models")
    def models():
        return {
            "object": "list",
            "data": [{"id": "merged", "object": "model", "created": 0, "owned_by": "x"}],
        }

    @app.post("/v1/completions")
    def completions(body: Annotated[dict, Body()]):
        try:
            jsonschema.validate(body, SCHEMA)
        except jsonschema.ValidationError as error:
            raise HTTPException(400, error.message) from error
        unknown = set(body) - set(SCHEMA["properties"])
        if unknown or not (body.get("prompt") or body.get("prompt_embeds")):
            raise HTTPException(400, f"unknown {sorted(unknown)}, or neither prompt nor embeddings")
        requests.append(body)
        choices = [
            {
                "index": i,
                "text": complete(text, body["max_tokens"]),
                "finish_reason": "stop",
                "logprobs": None,
            }
            for i, text in enumerate(body["prompt_embeds"])
        ]
        return {
            "id": "1",
            "object": "text_completion",
            "created": 0,
            "model": "merged",
            "choices": choices[::-1],
        }

    return app


def test_merging_equals_wearing_and_leaves_the_model(shared_model):
    before = {name: tensor.clone() for name, tensor in shared_model.state_dict().items()}
    plain = merged_generator(shared_model)
    _, embeds, mask = shared_model.embed_prompts(QUESTIONS, DOCUMENTS)
    with torch.no_grad():
        with wearing(shared_model.decoder, "generator"):
            wanted = shared_model.decoder(inputs_embeds=embeds, attention_mask=mask).logits
        got = plain(inputs_embeds=embeds, attention_mask=mask).logits
        base = shared_model.decoder(inputs_embeds=embeds, attention_mask=mask).logits
    kept = mask.bool()
    torch.testing.assert_close(got[kept][-5:], wanted[kept][-5:], rtol=1e-3, atol=1e-3)
    assert (got - base).abs().max() > 0.1
    assert all(torch.equal(before[name], tensor) for name, tensor in shared_model.state_dict().items())


def test_the_folder_is_a_plain_causal_lm(exported):
    fields = json.loads((exported / "config.json").read_text())
    assert fields["architectures"] == ["LlamaForCausalLM"] and "auto_map" not in fields
    plain, info = AutoModelForCausalLM.from_pretrained(exported, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert AutoTokenizer.from_pretrained(exported).chat_template
    assert not list(exported.rglob("*.bin")) and not list(exported.rglob("*.pt"))
    names = {path.name for path in (exported / "clara").iterdir()}
    assert {"compressor", "query_reasoner", "config.json", "model.safetensors"} <= names


def test_the_client_answers_as_generate_does(exported, shared_model):
    client_model = ClaraForRetrievalGeneration.from_pretrained(str(exported / "clara"))
    memory = shared_model.build_memory(DOCUMENTS, show_progress=False)
    requests = []
    with serving(fake_vllm(exported, requests)) as url:
        client = ClaraVllmClient(client_model, f"{url}/v1", max_retries=0)
        assert client.served_model == "merged"
        wanted = shared_model.generate(QUESTIONS, memory, retrieval_top_k=2, max_new_tokens=12)
        assert client.generate(QUESTIONS, memory, 2, 12) == wanted
        one = client.generate(QUESTIONS[0], memory, seed=1)
        assert one == shared_model.generate(QUESTIONS[0], memory)
    assert len(requests) == 2 and len(requests[0]["prompt_embeds"]) == 3
    assert requests[0]["temperature"] == 0 and requests[0]["max_tokens"] == 12


def test_the_scripted_server_does_refuse(exported):
    import httpx

    with serving(fake_vllm(exported, [])) as url:
        for body in ({"prompt_embeds": 3}, {"prompt_embeds": ["x"], "oops": 1}, {"prompt": ""}):
            assert httpx.post(f"{url}/v1/completions", json=body).status_code == 400


def test_embeddings_travel_exactly_and_alone():
    whole = torch.randn(1000, 8, dtype=torch.bfloat16)
    text = encode_embeds(whole[3:5])
    assert torch.equal(read_embeds(text, 8), whole[3:5])
    assert len(text) < 4000  # not the storage of all 1000 rows


def test_the_command_writes_and_refuses_a_full_folder(checkpoint, tmp_path, capsys):
    folder = tmp_path / "out"
    assert main(["export", "vllm", checkpoint, "--output", str(folder)]) == 0
    assert "vllm serve" in capsys.readouterr().out
    assert (folder / "model.safetensors").exists()
    assert main(["export", "vllm", checkpoint, "--output", str(folder)]) == 2
    assert "is there already" in capsys.readouterr().err


def test_a_quantised_base_is_refused(shared_model, monkeypatch):
    monkeypatch.setattr(type(shared_model), "is_quantized", True, raising=False)
    with pytest.raises(ValueError, match="quantised"):
        merged_generator(shared_model)
