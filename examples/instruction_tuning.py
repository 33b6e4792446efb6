"""Stage 2: answers from several memories. Rows with `question`, `answers`, `documents`, `positives`."""

import os

from clara import ClaraTrainer, ClaraTrainingConfig
from datasets import Dataset

RUNS = os.environ.get("CLARA_RUNS", "outputs")
STEPS = int(os.environ.get("CLARA_MAX_STEPS", "30"))
DOCUMENTS = [
    "The Forth Bridge is a railway bridge in Scotland. It was opened in 1890.",
    "Titan is the largest moon of Saturn. Christiaan Huygens found it in 1655.",
    "Clara Schumann was a pianist and composer. She was born in Leipzig in 1819.",
    "Basalt is a dark volcanic rock. It cools quickly from lava rich in iron.",
]
QUESTIONS = {"When was the Forth Bridge opened?": "1890", "Who found Titan?": "Christiaan Huygens"}


def main() -> str:
    """Trains; returns the folder of the trained model."""
    rows = Dataset.from_list(
        [
            {"question": question, "answers": [answer], "documents": DOCUMENTS, "positives": [place]}
            for place, (question, answer) in enumerate(QUESTIONS.items())
        ]
    )
    args = ClaraTrainingConfig(
        output_dir=f"{RUNS}/example-instruction-tuning",
        stage="instruction_tuning",
        documents_per_question=3,
        per_device_train_batch_size=2,
        max_steps=STEPS,
        learning_rate=5e-4,
        logging_steps=5,
        save_strategy="no",
    )
    trainer = ClaraTrainer(f"{RUNS}/example-pretraining/final", args, train_dataset=rows)
    trainer.train()
    final = f"{args.output_dir}/final"
    trainer.save_final(final)
    return final


if __name__ == "__main__":
    main()
