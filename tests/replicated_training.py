"""Two processes under torchrun, run by test_distributed: ClaraTrainer with a copy of the model on each.

The run is cut off in its second epoch and goes on; the main process prints what it logged and learnt.
"""

import json
import sys

import torch.distributed as dist
from clara.modeling_clara import ClaraForRetrievalGeneration
from clara.train.checkpoints import trained_state
from clara.train.trainer import ClaraTrainer
from safetensors.torch import save_file
from training_helpers import PRETRAINING, Cut, make_args

FIELDS = {
    "max_steps": 4,
    "save_strategy": "steps",
    "save_steps": 1,
    "alignment_weight": 0.1,
    "ddp_backend": "gloo",
    "controls": True,
    "samples": 1,
    "max_minutes": 60.0,
}


def make(source, folder, size, cut=None, **fields):
    model = ClaraForRetrievalGeneration.from_pretrained(source)
    args = make_args(folder, per_device_train_batch_size=size, **{**FIELDS, **fields})
    rows = [*PRETRAINING, *reversed(PRETRAINING)]
    callbacks = [Cut(cut)] if cut else []
    return ClaraTrainer(model, args, rows, eval_dataset=PRETRAINING, callbacks=callbacks)


def main(source, folder):
    try:
        make(source, folder, 4, cut=3).train()
    except KeyboardInterrupt:
        dist.barrier()
    trainer = make(source, folder, 4)
    trainer.train(resume_from_checkpoint=True)
    evaluated = trainer.evaluate()
    state = trained_state(trainer.model)
    if trainer.is_world_process_zero():
        save_file(state, f"{folder}/state.safetensors")
        result = {"world": trainer.args.world_size, "log": trainer.state.log_history, "evaluated": evaluated}
        sys.stdout.write(json.dumps(result) + "\n")
    trainer.end()


if __name__ == "__main__":
    main(*sys.argv[1:])
