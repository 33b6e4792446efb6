"""Stage 1: documents become memories that the generator reads. Columns: `document`, `question`, `answers`."""

import os

from clara import ClaraTrainer, ClaraTrainingConfig
from datasets import Dataset
from peft import LoraConfig

BASE = os.environ.get("CLARA_BASE", "smollm2-135m")
RUNS = os.environ.get("CLARA_RUNS", "outputs")
STEPS = int(os.environ.get("CLARA_MAX_STEPS", "30"))
ROWS = [
    {"document": "The Forth Bridge is a railway bridge in Scotland. It was opened in 1890.",
     "question": "When was the Forth Bridge opened?", "answers": ["1890", "in 1890"]},
    {"document": "Titan is the largest moon of Saturn. Christiaan Huygens found it in 1655.",
     "question": "Who found Titan?", "answers": ["Christiaan Huygens"]},
    {"document": "Clara Schumann was a pianist and composer. She was born in Leipzig in 1819.",
     "question": "Where was Clara Schumann born?", "answers": ["Leipzig"]},
    {"document": "Basalt is a dark volcanic rock. It cools quickly from lava rich in iron.",
     "question": "What is basalt?", "answers": ["a dark volcanic rock"]},
]  # fmt: skip


def main() -> str:
    """Trains; returns the folder of the trained model."""
    args = ClaraTrainingConfig(
        output_dir=f"{RUNS}/example-pretraining",
        stage="pretraining",
        model_init_kwargs={"compression_rate": 4, "doc_max_length": 64},
        per_device_train_batch_size=4,
        max_steps=STEPS,
        learning_rate=1e-3,
        logging_steps=5,
        save_strategy="no",
    )
    lora = LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0)
    trainer = ClaraTrainer(BASE, args, train_dataset=Dataset.from_list(ROWS), peft_config=lora)
    trainer.train()
    final = f"{args.output_dir}/final"
    trainer.save_final(final)
    return final


if __name__ == "__main__":
    main()
