"""Two processes under torchrun, run by test_distributed: sharded passes and steps against one process's.

Each process prints what it finds as one line of JSON; the test compares.
"""

import json
import sys

import torch.distributed as dist
from clara.data.collation import Item, PretrainingCollator
from clara.modeling_clara import ClaraForRetrievalGeneration
from clara.train.checkpoints import load_trained, trained_state
from clara.train.controls import control_rows, memory_controls
from clara.train.optimizer import MasterAdamW
from clara.train.stages import adapter_gradient_norms, prepare_stage
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from training_helpers import PRETRAINING

STEPS = 2
# The rows of each process; "uneven" gives one process one group of similar lengths and the other three.
SPLITS = {"even": [[0, 2, 4, 6], [1, 3, 5, 7]], "uneven": [[3, 5], [0, 1]]}


def load(folder, checkpointing):
    model = ClaraForRetrievalGeneration.from_pretrained(folder)
    prepare_stage(model, "pretraining")
    if checkpointing:
        model.activation_checkpointing_enable()
    return model.train()


def shard(model):
    """As accelerate does: every layer, the embedding, norm and head together, then the rest."""
    decoder = model.decoder
    for layer in decoder.base_model.layers:
        fully_shard(layer)
    fully_shard(decoder.get_input_embeddings())
    fully_shard([decoder.base_model.norm, decoder.get_output_embeddings()], reshard_after_forward=False)
    fully_shard(model)


def batch_of(model, split, rank):
    """A process's rows (rank None: those of all), and the number of labels of all."""
    collator = PretrainingCollator(model.processor)
    items = [Item(i, 0, PRETRAINING[i]) for i in sorted(i for rows in SPLITS[split] for i in rows)]
    whole = collator(items)
    own = whole if rank is None else collator([item for item in items if item.index in SPLITS[split][rank]])
    return own, int((whole["labels"][:, 1:] != -100).sum())


def train(model, split, rank=None):
    """Loss, gradients and norms of the first step, and the adapters after the last."""
    optimizer = MasterAdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    batch, labels = batch_of(model, split, rank)
    world = 1 if rank is None else dist.get_world_size()
    found = {}
    for _ in range(STEPS):
        output = model(**batch, num_items_in_batch=labels)
        loss = world * output.loss + 0.1 * output.alignment_loss
        loss.backward()
        if not found:
            gradients = {n: full(p.grad) for n, p in model.named_parameters() if p.grad is not None}
            found = {"loss": mean(loss.detach(), world), "gradients": gradients}
            found["norms"] = adapter_gradient_norms(model)
        optimizer.step()
        optimizer.zero_grad()
    return {**found, "state": trained_state(model)}


def full(tensor):
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor.clone()


def mean(loss, world):
    if world > 1:
        dist.all_reduce(loss)
    return loss.item() / world


def difference(found, expected):
    if found.keys() != expected.keys():
        return float("inf")
    return max(float((found[name].cpu() - expected[name].cpu()).abs().max()) for name in found)


def main(folder, checkpointing, split):
    dist.init_process_group("gloo")
    alone, model = load(folder, checkpointing), load(folder, checkpointing)
    shard(model)
    sizes = [(p.to_local().numel(), p.numel()) for p in model.parameters()]
    expected, found = train(alone, split), train(model, split, dist.get_rank())
    rows = control_rows(PRETRAINING)
    controls = [memory_controls(m.eval(), rows) for m in (model, alone)]
    load_trained(model, folder)
    original = trained_state(load(folder, False))
    result = {
        "world": dist.get_world_size(),
        "halves": all(2 * local == whole for local, whole in sizes),
        "losses": [found["loss"], expected["loss"]],
        "norms": [found["norms"], expected["norms"]],
        "gradients": difference(found["gradients"], expected["gradients"]),
        "largest": max(float(g.abs().max()) for g in expected["gradients"].values()),
        "state": difference(found["state"], expected["state"]),
        "moved": difference(expected["state"], original),
        "controls": controls,
        "restored": difference(trained_state(model), original),
    }
    sys.stdout.write(json.dumps(result) + "\n")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] == "checkpointing", sys.argv[3])
