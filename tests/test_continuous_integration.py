"""The files of other tools name what is there: targets of make, versions of constraints.txt."""

import re
from pathlib import Path

import mutations
import yaml
from mutants import MUTANTS

ROOT = Path(__file__).resolve().parents[1]
CI = ROOT / ".github" / "workflows" / "ci.yml"


def test_the_workflow_calls_targets_and_variables_that_make_has():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    jobs = yaml.safe_load(CI.read_text(encoding="utf-8"))["jobs"]
    assert {"lint", "test", "browser", "build"} <= set(jobs)
    calls = [step["run"] for job in jobs.values() for step in job["steps"] if "make " in step.get("run", "")]
    assert calls
    for call in calls:
        _, target, *settings = call.split()
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), call
        for setting in settings:
            assert re.search(rf"^{setting.partition('=')[0]} [?]=", makefile, re.MULTILINE), call
    tests = [word.partition("=")[2] for call in calls for word in call.split() if word.startswith("TESTS=")]
    assert all((ROOT / file).exists() for file in tests)


def test_the_hooks_have_the_pinned_ruff():
    (pinned,) = re.findall(
        r"^ruff==\S+", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE
    )
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0][
        "hooks"
    ]
    assert [hook["additional_dependencies"] for hook in hooks] == [[pinned]] * 2


def test_the_image_installs_extras_that_there_are():
    (extras,) = re.findall(r"'\.\[(.+?)\]'", (ROOT / "Dockerfile").read_text(encoding="utf-8"))
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    assert all(f'"{extra}": ' in setup for extra in extras.split(","))


def test_every_change_of_make_mutations_has_its_place_and_its_tests():
    for mutant in MUTANTS:
        name = str(mutations.find(mutant.place, mutant.old).relative_to(ROOT))
        assert mutant.new != mutant.old
        assert mutations.COVER[name] and all(
            (ROOT / "tests" / f"{file}.py").exists() for file in mutations.COVER[name]
        )
