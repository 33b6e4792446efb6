"""Stage 3: the query reasoner learns from answers which documents are needed; with metrics of its answers."""

import os

from clara import ClaraTrainer, ClaraTrainingConfig
from datasets import Dataset
from transformers import EvalPrediction

RUNS = os.environ.get("CLARA_RUNS", "outputs")
STEPS = int(os.environ.get("CLARA_MAX_STEPS", "30"))
DOCUMENTS = [
    "The Forth Bridge is a railway bridge in Scotland. It was opened in 1890.",
    "Titan is the largest moon of Saturn. Christiaan Huygens found it in 1655.",
    "Clara Schumann was a pianist and composer. She was born in Leipzig in 1819.",
    "Basalt is a dark volcanic rock. It cools quickly from lava rich in iron.",
]
QUESTIONS = {"When was the Forth Bridge opened?": "1890", "Who found Titan?": "Christiaan Huygens"}


def contained(found: EvalPrediction) -> dict[str, float]:
    """Share of answers that hold an accepted one."""
    hits = [
        any(gold in text for gold in accepted)
        for text, accepted in zip(found.predictions, found.label_ids, strict=True)
    ]
    return {"contained": sum(hits) / len(hits)}


def main() -> str:
    """Trains; returns the folder of the trained model."""
    rows = Dataset.from_list(
        [
            {"question": question, "answers": [answer], "documents": DOCUMENTS, "positives": [place]}
            for place, (question, answer) in enumerate(QUESTIONS.items())
        ]
    )
    args = ClaraTrainingConfig(
        output_dir=f"{RUNS}/example-end-to-end",
        stage="end_to_end",
        model_init_kwargs={"retrieval_top_k": 2},
        contrastive_weight=0.5,
        per_device_train_batch_size=2,
        max_steps=STEPS,
        learning_rate=5e-4,
        logging_steps=5,
        save_strategy="no",
    )
    start = f"{RUNS}/example-instruction-tuning/final"
    trainer = ClaraTrainer(start, args, train_dataset=rows, eval_dataset=rows, compute_metrics=contained)
    trainer.train()
    trainer.evaluate()
    final = f"{args.output_dir}/final"
    trainer.save_final(final)
    return final


if __name__ == "__main__":
    main()
