"""Making, loading and saving: untrained models equal their base, loading is strict, saving round trips."""

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from clara.adapters_clara import adapter_state, wearing, worn_adapters
from clara.configuration_clara import ADAPTERS, ClaraConfig
from clara.modeling_clara import ClaraForRetrievalGeneration
from conftest import DOCUMENTS, QUESTIONS, make_model, save_base, slots_of, text_config
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

Model = ClaraForRetrievalGeneration
ROOT = "model.safetensors"
ADAPTER = "adapter_model.safetensors"


@pytest.fixture
def copied(checkpoint, tmp_path):
    """A checkpoint that a test may damage."""
    return Path(shutil.copytree(checkpoint, tmp_path / "copied"))


@pytest.fixture(scope="session")
def baseless(shared_model, tmp_path_factory):
    """A checkpoint without its base's weights."""
    folder = tmp_path_factory.mktemp("baseless")
    shared_model.save_pretrained(folder, save_base=False)
    return str(folder)


def same(model, other):
    first, second = model.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def edit(file, change):
    """Rewrites a safetensors file; returns the name of the tensor that was changed."""
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


# from_base


def test_models_come_in_eval_mode(base, checkpoint, baseless):
    for model in (Model.from_base(base), Model.from_pretrained(checkpoint), Model.from_pretrained(baseless)):
        assert not [name for name, module in model.named_modules() if module.training]


def test_an_untrained_model_is_its_base(base):
    model = Model.from_base(base, doc_max_length=64)
    plain = AutoModelForCausalLM.from_pretrained(base)
    ids = model.processor.encode_documents(DOCUMENTS[:2])["input_ids"]
    with torch.no_grad():
        expected = plain(ids).logits
        assert torch.equal(model(ids).logits, expected)
        for name in ADAPTERS:
            with wearing(model.decoder, name):
                assert torch.equal(model.decoder(ids).logits, expected)
    assert not model.training and worn_adapters(model.decoder) == []


def test_the_query_reasoner_starts_as_the_compressor(base):
    model = Model.from_base(base)
    states = [adapter_state(model.decoder, name) for name in ADAPTERS]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert any(not torch.equal(states[0][key], states[2][key]) for key in states[0] if "lora_A" in key)
    assert all((tensor == 0).all() for state in states for key, tensor in state.items() if "lora_B" in key)


def test_memory_tokens_start_as_embeddings_of_tokens(base):
    model = Model.from_base(base)
    table = model.get_input_embeddings().weight
    assert model.memory_tokens.shape == (16, 32)
    assert all((table == row).all(dim=1).any() for row in model.memory_tokens)


def test_the_seed_decides_and_the_global_one_stays(base):
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    first, second, third = (Model.from_base(base, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert same(first, second) and not same(first, third)


def test_the_base_is_frozen_and_the_rest_trains(base):
    model = Model.from_base(base)
    training = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert training == {name for name, _ in model.named_parameters() if "lora_" in name} | {"memory_tokens"}


def test_fields_and_loading_arguments(base):
    model = Model.from_base(base, 32, doc_max_length=128, retrieval_top_k=2, dtype=torch.bfloat16, seed=4)
    assert (model.config.compression_rate, model.config.retrieval_top_k) == (32, 2)
    assert model.config.num_memory_tokens == model.processor.num_memory_tokens == 4
    assert model.processor.prompt_max_length == 1024
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.config.base_model_name_or_path == base


@pytest.mark.parametrize("unknown", [{"compress_rate": 8}, {"top_k": 5}, {"lora_rank": 4}])
def test_from_base_refuses_unknown_arguments(base, unknown):
    with pytest.raises(TypeError, match=next(iter(unknown))):
        Model.from_base(base, **unknown)


def test_from_base_checks_the_fields_before_it_loads(base):
    with pytest.raises(ValueError, match="`compression_rate` must divide"):
        Model.from_base(base, compression_rate=7)


def test_a_damaged_base_raises(base, tmp_path):
    folder = Path(shutil.copytree(base, tmp_path / "base"))
    (folder / ROOT).write_bytes((folder / ROOT).read_bytes()[:-100])
    with pytest.raises(ValueError, match="do not fit this model or are damaged"):
        Model.from_base(str(folder))


def test_generation_settings_are_greedy_with_the_bases_end(base):
    settings = Model.from_base(base).generation_config
    assert (settings.do_sample, settings.max_new_tokens, settings.eos_token_id) == (False, 64, 2)


# Round trips


def test_round_trip_is_exact(shared_model, checkpoint):
    model = Model.from_pretrained(checkpoint)
    assert same(model, shared_model)
    first, second = model.config.to_dict(), shared_model.config.to_dict()
    for fields in (first, second):
        fields["text_config"].pop("_name_or_path", None)
    differing = {key for key in first.keys() | second.keys() if first.get(key) != second.get(key)}
    assert differing <= {"_name_or_path", "architectures", "custom_pipelines"}
    assert model.generation_config.to_dict() == shared_model.generation_config.to_dict()
    assert not any(module.training for module in model.modules())
    assert worn_adapters(model.decoder) == []


def test_round_trip_without_the_base(shared_model, baseless, base):
    held = load_file(Path(baseless) / ROOT)
    assert held.keys() == {"memory_tokens"}
    model = Model.from_pretrained(baseless)
    assert same(model, shared_model)
    assert model.generation_config.to_dict() == shared_model.generation_config.to_dict()


def test_a_checkpoint_without_its_code_loads_silently(shared_model, baseless, tmp_path, caplog, monkeypatch):
    """As the one under checkpoints/: the code is the repository's."""
    shutil.copytree(baseless, tmp_path / "bare", ignore=shutil.ignore_patterns("*_clara.py"))
    assert not list((tmp_path / "bare").glob("*.py"))
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    with caplog.at_level("WARNING"):
        model = Model.from_pretrained(tmp_path / "bare")
    assert same(model, shared_model) and not caplog.records
    expected = shared_model.processor.tokenizer
    assert model.processor.tokenizer.get_vocab() == expected.get_vocab()
    assert model.processor.tokenizer.chat_template == expected.chat_template


def test_round_trip_in_shards(shared_model, tmp_path):
    shared_model.save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    assert same(Model.from_pretrained(tmp_path), shared_model)


def test_saving_over_another_save_leaves_nothing_stale(shared_model, base, tmp_path):
    """Whole files and shards by turns: a file or index left behind would be loaded in their place."""
    other = make_model(base, seed=9)
    other.decoder.model.norm.weight.data += 1
    turns = [
        (other, {"max_shard_size": "40KB"}),
        (shared_model, {}),
        (other, {"max_shard_size": "60KB"}),
        (shared_model, {"save_base": False}),
        (other, {}),
    ]
    for model, arguments in turns:
        model.save_pretrained(tmp_path, **arguments)
        assert same(Model.from_pretrained(tmp_path), model)


def test_every_file_is_safetensors_json_or_text(checkpoint, baseless):
    for folder in (checkpoint, baseless):
        suffixes = {file.suffix for file in Path(folder).rglob("*") if file.is_file()}
        assert suffixes <= {".safetensors", ".json", ".py", ".jinja"}
        assert not (Path(folder) / "adapter_config.json").exists()


def test_the_root_is_the_base_for_plain_transformers(checkpoint, base):
    held = load_file(Path(checkpoint) / ROOT)
    plain = AutoModelForCausalLM.from_pretrained(base)
    assert held.keys() - {"memory_tokens"} == plain.state_dict().keys()
    config = AutoConfig.from_pretrained(base)
    loaded = type(plain).from_pretrained(checkpoint, config=config)
    assert same(loaded, plain)


def test_adapter_files_may_be_smaller(shared_model, tmp_path):
    shared_model.save_pretrained(tmp_path, save_base=False, adapter_dtype=torch.bfloat16)
    for file in tmp_path.rglob("*.safetensors"):
        assert {tensor.dtype for tensor in load_file(file).values()} == {torch.bfloat16}
    model = Model.from_pretrained(tmp_path)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_the_saved_dtype_is_the_bases(base, tmp_path):
    model = make_model(base, dtype=torch.bfloat16)
    model.memory_tokens.data = model.memory_tokens.data.float()
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    assert Model.from_pretrained(tmp_path).dtype == torch.bfloat16
    assert Model.from_pretrained(tmp_path, dtype=torch.float32).dtype == torch.float32


def test_only_the_main_process_writes(shared_model, tmp_path):
    shared_model.save_pretrained(tmp_path / "rank1", is_main_process=False)
    assert not list(tmp_path.rglob("*.json")) and not list(tmp_path.rglob("*.safetensors"))


def test_a_gathered_state_is_what_is_written(shared_model, tmp_path):
    state = {key: torch.zeros_like(tensor) for key, tensor in shared_model.state_dict().items()}
    shared_model.save_pretrained(tmp_path, state_dict=state)
    assert all(
        (tensor == 0).all() for file in tmp_path.rglob("*.safetensors") for tensor in load_file(file).values()
    )


def test_saving_leaves_the_model_as_it_was(model, tmp_path):
    model.train()
    before = {name: (p.clone(), p.requires_grad) for name, p in model.named_parameters()}
    model.save_pretrained(tmp_path)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name][0]) and parameter.requires_grad == before[name][1]
    assert all(module.training for module in model.modules())
    assert [model.decoder.peft_config[name].inference_mode for name in ADAPTERS] == [False] * 3


def test_the_upload_gets_its_arguments(shared_model, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(
        "clara.checkpoint_clara.upload", lambda folder, **kwargs: calls.append((folder, kwargs))
    )
    shared_model.save_pretrained(tmp_path, push_to_hub=True, repo_id="org/x", private=True)
    assert calls == [(str(tmp_path), {"repo_id": "org/x", "private": True})]


def test_a_base_that_was_changed_is_saved_or_refused(base, tmp_path):
    model = make_model(base, base_is_changed=True)
    with pytest.raises(ValueError, match="changed"):
        model.save_pretrained(tmp_path, save_base=False)
    model.save_pretrained(tmp_path)
    assert same(Model.from_pretrained(tmp_path), model)


def test_saving_refuses_what_it_cannot_keep(base, model, tmp_path):
    with pytest.raises(TypeError, match="unknown arguments"):
        model.save_pretrained(tmp_path, safe_serialisation=True)
    model.config.base_model_name_or_path = None
    with pytest.raises(ValueError, match="`save_base=False` needs"):
        model.save_pretrained(tmp_path, save_base=False)
    assert not list(tmp_path.iterdir())


# What trains


def test_loaded_models_train_only_when_asked(checkpoint, baseless):
    for folder in (checkpoint, baseless):
        assert not any(parameter.requires_grad for parameter in Model.from_pretrained(folder).parameters())
        model = Model.from_pretrained(folder, is_trainable=True)
        training = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        assert training == {n for n, _ in model.named_parameters() if "lora_" in n} | {"memory_tokens"}


# Strict loading


def drop(name):
    return lambda tensors: tensors.pop(name)


def put(name, shape):
    return lambda tensors: tensors.update({name: torch.zeros(shape)})


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            drop("model.layers.1.mlp.up_proj.weight"),
            "1 missing .first: decoder.model.layers.1.mlp.up_proj.weight",
        ),
        (
            put("model.layers.7.mlp.up_proj.weight", (3, 3)),
            "1 extra .first: .*model.layers.7.mlp.up_proj.weight",
        ),
        (put("model.norm.weight", (7,)), "do not fit"),
        (drop("memory_tokens"), r"holds \[\] beside the base, expected \['memory_tokens'\]"),
        (put("memory_tokens", (9, 32)), "do not fit"),
        (put("memory_gain", (32,)), r"expected \['memory_tokens'\]"),
    ],
)
def test_root_tensors_must_fit(copied, change, told):
    edit(copied / ROOT, change)
    with pytest.raises(ValueError, match=told):
        Model.from_pretrained(copied)


@pytest.mark.parametrize("ignored", [False, True])
def test_misshapen_tensors_raise_even_if_asked_to_be_ignored(copied, ignored):
    edit(copied / ROOT, put("model.norm.weight", (7,)))
    with pytest.raises(ValueError, match="do not fit"):
        Model.from_pretrained(copied, ignore_mismatched_sizes=ignored)


@pytest.mark.parametrize("name", ADAPTERS)
@pytest.mark.parametrize("kind", ["missing", "extra", "misshapen"])
def test_the_tensors_of_each_adapter_must_fit(copied, name, kind):
    key = "base_model.model.model.layers.0.mlp.up_proj.lora_B.weight"
    changes = {"missing": drop(key), "extra": put(key + "s", (1,)), "misshapen": put(key, (2, 2))}
    edit(copied / name / ADAPTER, changes[kind])
    with pytest.raises(ValueError, match=f"Adapter '{name}' does not fit .*1 {kind}"):
        Model.from_pretrained(copied)


@pytest.mark.parametrize(
    "deleted",
    [
        ROOT,
        *ADAPTERS,
        f"compressor/{ADAPTER}",
        "generator/adapter_config.json",
        "config.json",
        "tokenizer.json",
    ],
)
def test_a_deleted_file_raises(copied, deleted):
    path = copied / deleted
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises((OSError, ValueError)):
        Model.from_pretrained(copied)


def test_deleting_all_weights_raises(copied):
    """The reference implementation loads such a checkpoint, with a warning."""
    for file in copied.rglob("*.safetensors"):
        file.unlink()
    with pytest.raises(FileNotFoundError, match="not a complete CLaRa checkpoint"):
        Model.from_pretrained(copied)


@pytest.mark.parametrize(
    ("file", "share"),
    [(ROOT, 0.0), (ROOT, 0.5), (ROOT, 0.999), *((f"{name}/{ADAPTER}", 0.5) for name in ADAPTERS)],
)
def test_a_file_cut_short_raises(copied, file, share):
    data = (copied / file).read_bytes()
    (copied / file).write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ValueError, match="damaged"):
        Model.from_pretrained(copied)


def test_a_missing_or_cut_shard_raises(shared_model, tmp_path):
    shared_model.save_pretrained(tmp_path, max_shard_size="40KB")
    shard = sorted(tmp_path.glob("model-*.safetensors"))[1]
    data = shard.read_bytes()
    shard.write_bytes(data[:-50])
    with pytest.raises(ValueError, match="damaged"):
        Model.from_pretrained(tmp_path)
    shard.unlink()
    with pytest.raises(OSError):
        Model.from_pretrained(tmp_path)


def test_a_checkpoint_without_base_is_as_strict(baseless, tmp_path):
    folder = Path(shutil.copytree(baseless, tmp_path / "copied"))
    edit(folder / ROOT, put("memory_tokens", (5, 32)))
    with pytest.raises(ValueError, match=r"`memory_tokens` in .* has shape \(5, 32\), expected \(4, 32\)"):
        Model.from_pretrained(folder)
    edit(folder / ROOT, lambda tensors: tensors.update(stray=torch.zeros(1)))
    with pytest.raises(ValueError, match="do not fit this model"):
        Model.from_pretrained(folder)


def test_a_checkpoint_whose_base_is_gone_or_another_raises(baseless, tmp_path):
    folder = Path(shutil.copytree(baseless, tmp_path / "copied"))
    config = json.loads((folder / "config.json").read_text())

    def name_base(name):
        (folder / "config.json").write_text(json.dumps({**config, "base_model_name_or_path": name}))

    name_base(None)
    with pytest.raises(ValueError, match="set `base_model_name_or_path`"):
        Model.from_pretrained(folder)
    name_base(str(tmp_path / "nowhere"))
    with pytest.raises((OSError, ValueError)):
        Model.from_pretrained(folder)
    name_base(save_base(tmp_path / "other", "qwen3"))
    with pytest.raises(ValueError, match="do not fit this model"):
        Model.from_pretrained(folder)


@pytest.mark.parametrize("unknown", [{"compress_rate": 8}, {"pure_inference": True}, {"top_k": 3}])
def test_unknown_arguments_raise(checkpoint, baseless, unknown):
    for folder in (checkpoint, baseless):
        with pytest.raises(TypeError, match=next(iter(unknown))):
            Model.from_pretrained(folder, **unknown)


def test_fields_may_be_overridden_unless_they_change_the_tensors(checkpoint, baseless):
    for folder in (checkpoint, baseless):
        model = Model.from_pretrained(folder, retrieval_top_k=2, question_max_length=9)
        assert model.config.retrieval_top_k == 2
        assert model.processor.question_max_length == 9
        with pytest.raises(ValueError):
            Model.from_pretrained(folder, compression_rate=8)
        with pytest.raises(ValueError, match="`retrieval_top_k` must be at least 1"):
            Model.from_pretrained(folder, retrieval_top_k=0)


def test_running_out_of_memory_is_not_a_damaged_file(checkpoint, monkeypatch):
    def fail(*_, **__):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", fail)
    with pytest.raises(torch.OutOfMemoryError):
        Model.from_pretrained(checkpoint)


def test_loading_info_is_given_when_asked(checkpoint):
    model, info = Model.from_pretrained(checkpoint, output_loading_info=True)
    assert model.processor is not None
    assert not any(info.values())


# Without weights


def test_from_config_has_fresh_adapters_and_no_processor():
    config = ClaraConfig(text_config=text_config("llama"), doc_max_length=64)
    model = Model._from_config(config)
    assert all((p == 0).all() for name, p in model.named_parameters() if "lora_B" in name)
    assert model.memory_tokens.abs().sum() > 0
    with pytest.raises(ValueError, match="has no processor for text"):
        model.build_memory(DOCUMENTS, show_progress=False)


def test_a_bare_model_says_that_it_lacks_adapters(base, tokenizer):
    model = Model(ClaraConfig(text_config=text_config("llama"), doc_max_length=64))
    model.processor = make_model(base).processor
    with pytest.raises(
        ValueError, match=r"lacks its adapters \['compressor', 'generator', 'query_reasoner'\]"
    ):
        model.build_memory(DOCUMENTS, show_progress=False)


def test_the_processor_is_the_checkpoints(checkpoint, shared_model):
    model = Model.from_pretrained(checkpoint)
    expected = shared_model.processor.encode_prompts(QUESTIONS, slots_of(QUESTIONS, 2))
    assert torch.equal(
        model.processor.encode_prompts(QUESTIONS, slots_of(QUESTIONS, 2))["input_ids"], expected["input_ids"]
    )
    assert AutoTokenizer.from_pretrained(checkpoint).get_vocab() == model.processor.tokenizer.get_vocab()


def test_files_name_the_base_as_the_configuration_does_and_no_folder(shared_model, tmp_path, monkeypatch):
    monkeypatch.setattr(shared_model.config, "base_model_name_or_path", "org/base")
    place = shared_model.name_or_path
    shared_model.save_pretrained(tmp_path)
    texts = {file: file.read_text(encoding="utf-8") for file in tmp_path.rglob("*config.json")}
    assert len(texts) >= 5 and place and not [file for file, text in texts.items() if place in text]
    for name in ADAPTERS:
        adapter = json.loads(texts[tmp_path / name / "adapter_config.json"])
        assert adapter["base_model_name_or_path"] == "org/base" and adapter["inference_mode"] is True
