"""Checkpoints of apple/ml-clara's format with random weights, and an oracle of what they say.

The oracle shares no code with what it checks: plain transformers, LoRA as hooks, strings for prompts.
"""

import json
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from conftest import CHATML, DOCUMENTS, QUESTIONS, make_tokenizer, text_config
from jinja2 import TemplateError
from safetensors.torch import save_file
from torch.nn import functional
from transformers import AddedToken, AutoModelForCausalLM, AutoTokenizer

SYSTEM = (
    "You are a helpful assistant. Your task is to extract relevant information from provided documents and "
    "to answer to questions as briefly as possible."
)
ANSWER_TOKENS = 10


@dataclass
class Made:
    """A checkpoint made for a test and the base it goes with."""

    base: str
    checkpoint: Path
    fields: dict


def first_word_tokenizer(template):
    """A tokenizer that puts a space before the first word of an input, but not behind a special token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    names = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=names, show_progress=False)
    tokenizer.train_from_iterator(DOCUMENTS * 3 + QUESTIONS + [SYSTEM, "\n"], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        chat_template=template,
    )


def make_base(folder, kind="mistral", tied=False, dtype=torch.float32, tokenizer=None, **overrides):
    """Writes a random causal LM whose outputs are far from uniform."""
    config = text_config(kind, tied)
    for name, value in overrides.items():
        setattr(config, name, value)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(5.0)
    model.save_pretrained(folder)
    (tokenizer or make_tokenizer()).save_pretrained(folder)
    return str(folder)


def special_tokens(fields):
    count = fields["doc_max_length"] // fields["compr_rate"]
    marks = [f"<MEM{i}>" for i in range(count)] if fields["different_mem_tokens"] else ["<MEM>"] * count
    return marks, list(dict.fromkeys(marks)) + ["<AE>", "<ENC>", "<SEP>"]


def official_tokenizer(base, fields):
    tokenizer = AutoTokenizer.from_pretrained(base, padding_side="left")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.bos_token
    marks, names = special_tokens(fields)
    added = [AddedToken(name, special=True, normalized=False) for name in names]
    tokenizer.add_tokens(added, special_tokens=True)
    return tokenizer, tokenizer.convert_tokens_to_ids(marks)


def random_adapter(model, rank, seed):
    """LoRA tensors of every linear layer but the head."""
    generator, tensors = torch.Generator().manual_seed(seed), {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and module is not model.get_output_embeddings():
            out, width = module.weight.shape
            tensors[f"{name}.lora_A.weight"] = torch.randn(rank, width, generator=generator) * 0.2
            tensors[f"{name}.lora_B.weight"] = torch.randn(out, rank, generator=generator) * 0.1
    return tensors


def make_official(
    folder, kind="mistral", tied=False, template=CHATML, tokenizer=None, dtype=torch.float32, copies=True,
    reasoner=True, lora_dtype=torch.float32, base_fields=None, **fields,
):  # fmt: skip
    """Writes base/ and checkpoint/ under a folder."""
    fields = {
        "model_type": "CLaRa", "compr_rate": 16, "doc_max_length": 64, "lora_r": 4, "sep": True,
        "different_mem_tokens": True, "generation_top_k": 2, "max_new_tokens": 32, "quantization": "no",
        "decoder_model_name": "somebody/else", "compr_model_name": None, **fields,
    }  # fmt: skip
    tokenizer = tokenizer or make_tokenizer(template)
    base = make_base(folder / "base", kind, tied, dtype, tokenizer, **(base_fields or {}))
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    extended, _ = official_tokenizer(base, fields)
    torch.manual_seed(11)
    model.resize_token_embeddings(len(extended), mean_resizing=False)
    with torch.no_grad():
        model.get_input_embeddings().weight.normal_()
        model.get_output_embeddings().weight.mul_(1.01)
    tables = {
        name: tensor.detach().to(lora_dtype).clone()
        for name, tensor in model.named_parameters()
        if "embed_tokens" in name or "lm_head" in name
    }
    names = ["encoder_adapter", "decoder_adapter"] + (["query_reasoner_adapter"] if reasoner else [])
    adapters = {name: random_adapter(model, fields["lora_r"], seed) for seed, name in enumerate(names)}
    beside = {**tables, "lm_head.weight": tables.get("lm_head.weight", next(iter(tables.values())))}
    checkpoint = folder / "checkpoint"
    checkpoint.mkdir()
    stored = {
        name: {**{key: t.to(lora_dtype) for key, t in value.items()}, **(beside if copies else {})}
        for name, value in adapters.items()
    }
    (checkpoint / "config.json").write_text(json.dumps(fields))
    torch.save(stored, checkpoint / "adapters.pth")
    torch.save(tables, checkpoint / "decoder_first_last_layers.pth")
    return Made(base, checkpoint, fields)


class Oracle:
    """What the released implementation computes, in float32 from weights loaded in bfloat16."""

    def __init__(self, made):
        self.fields = made.fields
        self.tokenizer, self.mem_ids = official_tokenizer(made.base, made.fields)
        self.model = AutoModelForCausalLM.from_pretrained(made.base, dtype=torch.bfloat16)
        tables = torch.load(made.checkpoint / "decoder_first_last_layers.pth", weights_only=True)
        self.model.resize_token_embeddings(len(self.tokenizer), mean_resizing=False)
        assert not self.model.load_state_dict(tables, strict=False).unexpected_keys
        self.model.float().eval()
        self.adapters = torch.load(made.checkpoint / "adapters.pth", weights_only=True)

    @contextmanager
    def wearing(self, adapter):
        tensors = {k: t.bfloat16().float() for k, t in self.adapters[adapter].items() if ".lora_" in k}
        handles = []
        for name, module in self.model.named_modules():
            if f"{name}.lora_A.weight" in tensors:
                down, up = (tensors[f"{name}.lora_{part}.weight"] for part in "AB")

                def add(_, args, out, down=down, up=up):
                    return out + functional.linear(functional.linear(args[0], down), up) * 2.0

                handles.append(module.register_forward_hook(add))
        yield
        for handle in handles:
            handle.remove()

    def encode(self, texts):
        bos, eos = self.tokenizer.bos_token, self.tokenizer.eos_token
        batch = self.tokenizer(
            [f"<ENC>{bos}{text}{eos}" for text in texts], add_special_tokens=False, return_tensors="pt",
            padding="max_length", truncation=True, max_length=self.fields["doc_max_length"] + 3,
        )  # fmt: skip
        mem = torch.tensor(self.mem_ids).expand(len(texts), -1)
        mask = torch.cat([batch["attention_mask"], torch.ones_like(mem)], dim=1)
        return torch.cat([batch["input_ids"], mem], dim=1), mask

    def memory(self, texts, adapter):
        """Memories (N, M, H), and the alignment loss."""
        ids, mask = self.encode(texts)
        with self.wearing(adapter):
            states = self.model.model(input_ids=ids, attention_mask=mask).last_hidden_state
        size = len(self.mem_ids)
        weights = mask[:, :-size, None].float()
        document = (states[:, :-size] * weights).sum(1) / weights.sum(1)
        return states[:, -size:], functional.mse_loss(states[:, -size:].mean(1), document)

    def prompt(self, question, k):
        place = "".join(special_tokens(self.fields)[0]) + "<SEP>"
        user = f"Background:\n{place * k}\n\nQuestion:{question}"
        messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": user}]
        try:
            return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except TemplateError:
            joined = [{"role": "user", "content": SYSTEM + "\n" + user}]
            return self.tokenizer.apply_chat_template(joined, tokenize=False, add_generation_prompt=True)

    def answer(self, prompt_ids, memory):
        """Greedy answer from memories (K, M, H); with `sep` off they are written without a gap."""
        ids = torch.tensor([prompt_ids])
        embeds = self.model.get_input_embeddings()(ids).clone()
        start = prompt_ids.index(self.mem_ids[0])
        step = len(self.mem_ids) + bool(self.fields["sep"])
        for row, one in enumerate(memory):
            embeds[0, start + row * step : start + row * step + len(one)] = one
        found = []
        with self.wearing("decoder_adapter"):
            while len(found) < ANSWER_TOKENS and self.model.config.eos_token_id not in found:
                found.append(int(self.model(inputs_embeds=embeds).logits[0, -1].argmax()))
                step_in = self.model.get_input_embeddings()(torch.tensor([[found[-1]]]))
                embeds = torch.cat([embeds, step_in], dim=1)
        return self.tokenizer.decode(found, skip_special_tokens=True)


@torch.no_grad()
def record(made, folder, pools=None, questions=QUESTIONS):
    """Writes expected.json and expected.safetensors; returns the oracle."""
    oracle = Oracle(made)
    pools = pools or [[f"{text} {DOCUMENTS[i]} " * i + text for text in DOCUMENTS[i:][:4]] for i in range(3)]
    reasons, k = "query_reasoner_adapter" in oracle.adapters, made.fields["generation_top_k"]
    ids, mask = oracle.encode([text for pool in pools for text in pool])
    memory, mse = oracle.memory([text for pool in pools for text in pool], "encoder_adapter")
    tensors = {"enc_input_ids": ids, "enc_attention_mask": mask, "memory": memory, "mse": mse.reshape(1)}
    if reasons:
        query = oracle.memory(questions, "query_reasoner_adapter")[0].flatten(1)
        stacked = memory.reshape(len(pools), -1, query.shape[1])
        scores = functional.cosine_similarity(query.unsqueeze(1), stacked, dim=-1)
        tensors |= {"query": query, "scores": scores, "topk_idx": scores.topk(k, dim=-1).indices}
    else:
        k = len(pools[0])
    by_pool = memory.reshape(len(pools), -1, *memory.shape[1:])
    chosen = tensors["topk_idx"].tolist() if reasons else [list(range(k))] * len(pools)
    prompts = [oracle.prompt(question, k) for question in questions]
    prompt_ids = oracle.tokenizer(prompts, add_special_tokens=False)["input_ids"]
    answers = [oracle.answer(prompt_ids[row], by_pool[row][chosen[row]]) for row in range(len(pools))]
    texts = {
        "docs": pools, "questions": list(questions), "prompt_ids": prompt_ids, "answers": answers,
        "mem_token_ids": oracle.mem_ids,
    }  # fmt: skip
    Path(folder).mkdir(exist_ok=True)
    Path(folder, "expected.json").write_text(json.dumps(texts))
    save_file({name: t.contiguous() for name, t in tensors.items()}, Path(folder, "expected.safetensors"))
    return oracle
