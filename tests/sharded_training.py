"""Two processes under torchrun, run by test_distributed: sharded passes and steps against one process's.

Each process prints what it finds as one line of JSON; the test compares.
"""

import json
import os
import sys

import torch
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


def batches(model, rank, world):
    """This process's rows out of all eight, and the labels of all."""
    collator = PretrainingCollator(model.processor)
    items = [Item(i, 0, record) for i, record in enumerate(PRETRAINING)]
    labels = int((collator(items)["labels"][:, 1:] != -100).sum())
    return collator(items[rank::world]), labels


def train(model, rank, world):
    """Loss and gradients of the first step, and the adapters after the last."""
    optimizer = MasterAdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    batch, labels = batches(model, rank, world)
    found = {}
    for _ in range(STEPS):
        output = model(**batch, num_items_in_batch=labels)
        loss = world * output.loss + 0.1 * output.alignment_loss
        loss.backward()
        if not found:
            gradients = {n: full(p.grad) for n, p in model.named_parameters() if p.grad is not None}
            found = {"loss": everywhere(loss.detach()).item(), "gradients": gradients}
            found["norms"] = adapter_gradient_norms(model)
        optimizer.step()
        optimizer.zero_grad()
    return {**found, "state": trained_state(model)}


def full(tensor):
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor.clone()


def everywhere(loss):
    if dist.is_initialized():
        dist.all_reduce(loss, op=dist.ReduceOp.AVG if dist.get_backend() == "nccl" else dist.ReduceOp.SUM)
        loss = loss / dist.get_world_size()
    return loss


def difference(found, expected):
    if found.keys() != expected.keys():
        return float("inf")
    return max(float((found[name].cpu() - expected[name].cpu()).abs().max()) for name in found)


def main(folder, checkpointing):
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    alone = load(folder, checkpointing)
    model = load(folder, checkpointing)
    shard(model)
    sharded = {n: [list(p.to_local().shape), list(p.shape)] for n, p in model.named_parameters()}
    expected, found = train_alone(alone), train(model, rank, world)
    rows = control_rows(PRETRAINING)
    model.eval()
    alone.eval()
    controls = [memory_controls(m, rows) for m in (model, alone)]
    load_trained(model, folder)
    original = trained_state(load(folder, False))
    sys.stdout.write(
        json.dumps(
            {
                "world": world,
                "whole": sum(local == whole for local, whole in sharded.values()),
                "parameters": len(sharded),
                "elements": sum(torch.Size(local).numel() for local, _ in sharded.values()),
                "losses": [found["loss"], expected["loss"]],
                "norms": [found["norms"], expected["norms"]],
                "gradients": difference(found["gradients"], expected["gradients"]),
                "largest": max(float(g.abs().max()) for g in expected["gradients"].values()),
                "state": difference(found["state"], expected["state"]),
                "moved": difference(expected["state"], original),
                "controls": controls,
                "restored": difference(trained_state(model), original),
            }
        )
        + "\n"
    )
    dist.destroy_process_group()


def train_alone(model):
    """One process with all rows; its loss must not be averaged over processes."""
    optimizer = MasterAdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    batch, labels = batches(model, 0, 1)
    found = {}
    for _ in range(STEPS):
        output = model(**batch, num_items_in_batch=labels)
        loss = output.loss + 0.1 * output.alignment_loss
        loss.backward()
        if not found:
            gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
            found = {"loss": loss.item(), "gradients": gradients, "norms": adapter_gradient_norms(model)}
        optimizer.step()
        optimizer.zero_grad()
    return {**found, "state": trained_state(model)}


if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(__file__))
    main(sys.argv[1], sys.argv[2] == "checkpointing")
