"""Names of repositories, and the upload over a Hub on the loopback (tests/test_publish.py has the rest)."""

import pytest
from clara.hub.upload import check_repo_id, upload_model
from hub_server import serve_hub


@pytest.mark.parametrize("name", ["org/name", "Org-1/clara_smollm2-135m.16x", "a/b"])
def test_names_of_repositories(name):
    check_repo_id(name)


@pytest.mark.parametrize(
    "name", ["name", "a/b/c", "/b", "a/", "a/..", "a/.b/", "a b/c", "a/b\n", "a/" + "b" * 95]
)
def test_other_names_are_refused(name):
    with pytest.raises(ValueError, match="must be ORG/NAME"):
        check_repo_id(name)


def test_one_commit_with_its_message(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    with serve_hub(monkeypatch, "hf_x") as hub:
        address = upload_model(tmp_path, "org/name", message="first")
        repository = hub.repositories["models", "org/name"]
        assert address == f"{hub.url}/org/name/commit/{repository.sha}"
        assert set(repository.files) == {"config.json", "README.md"} and not repository.private
        assert [commit[0] for commit in repository.commits] == ["first"]
