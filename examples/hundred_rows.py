"""Stage 3 of the shipped model on a hundred questions: minutes on a CPU."""

import os

from clara import ClaraTrainer, ClaraTrainingConfig
from datasets import Dataset

MODEL = os.environ.get("CLARA_MODEL", "checkpoints/clara-smollm2-135m")
RUNS = os.environ.get("CLARA_RUNS", "outputs")
STEPS = int(os.environ.get("CLARA_MAX_STEPS", "-1"))
WORKS = {"tower": 1700, "bridge": 1800, "mill": 1600, "school": 1900, "station": 1850}


def main() -> str:
    """Trains; returns the folder of the trained model."""
    facts = [(f"{work} of Port {n}", first + 3 * n) for work, first in WORKS.items() for n in range(1, 21)]
    texts = [f"The {name} stands by the river. It was built in {year}." for name, year in facts]
    rows = [
        {"question": f"When was the {name} built?", "answers": [str(year)], "positives": [0],
         "documents": [texts[i], *(texts[(i + step) % 100] for step in (1, 20, 40, 60))]}
        for i, (name, year) in enumerate(facts)
    ]  # fmt: skip
    args = ClaraTrainingConfig(
        output_dir=f"{RUNS}/example-hundred-rows",
        stage="end_to_end",
        contrastive_weight=0.5,
        per_device_train_batch_size=4,
        num_train_epochs=1,
        max_steps=STEPS,
        save_strategy="no",
    )
    trainer = ClaraTrainer(MODEL, args, train_dataset=Dataset.from_list(rows))
    trainer.train()
    trainer.save_final(f"{args.output_dir}/final")
    return f"{args.output_dir}/final"


if __name__ == "__main__":
    main()
