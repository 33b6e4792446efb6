import argparse
import json

from clara.evaluation.experiments import memory_controls
from conftest import DOCUMENTS, QUESTIONS
from pictures import assert_shows


def test_losses_differences_page_and_picture(shared_model, tmp_path):
    rows = [
        {"question": q, "golden_answers": ["1890"], "docs": [d], "pos_index": [0]}
        for q, d in zip(QUESTIONS, DOCUMENTS, strict=False)
    ]
    file = tmp_path / "three.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows))
    arguments = argparse.Namespace(files=[str(file)], limit=3, seed=0)
    result = memory_controls.measure(arguments, shared_model)
    found = result["files"]["three"]
    means = {kind: found["loss"][kind]["mean"] for kind in memory_controls.KINDS}
    assert found["questions"] == 3
    assert len(set(means.values())) == 3
    assert abs(found["shuffled_minus_own"]["difference"] - (means["shuffled"] - means["own"])) < 1e-6
    page = memory_controls.render(result)
    assert f"{means['own']:.2f}" in page
    assert_shows(memory_controls.plot, result, tmp_path / "picture.png", means.values())
