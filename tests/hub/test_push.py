"""Files, refusals and messages of a push. The real client, in a child process, against the loopback Hub."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from tests.hub.helpers import Client, make_checkpoint
from tests.loopback_hub import LoopbackHub, User
from tests.loopback_hub.repository import Entry

FILES = {
    "config.json",
    "model.safetensors",
    "modeling_hf_vbp.py",
    "preprocessor_config.json",
    "plan.json",
    "vbp_results.json",
    "README.md",
}
OWN = {".gitattributes"}


def error_of(answer: dict[str, Any]) -> str:
    assert "error" in answer, answer
    return f"{answer['error']}: {answer['message']}"


@pytest.fixture
def copy(checkpoint: Path, tmp_path: Path) -> Path:
    """A checkpoint that may be changed."""
    return Path(shutil.copytree(checkpoint, tmp_path / "copy"))


def test_one_commit_holds_everything(client: Client, hub: LoopbackHub, checkpoint: Path) -> None:
    answer = client.push(checkpoint, "alice/pruned-vit")
    repository = hub.repositories["alice/pruned-vit"]
    assert answer["status"] == "pushed"
    assert answer["commit"] == repository.head.sha
    assert len(repository.commits) == 2  # the Hub's own first one, and ours
    files = repository.files()
    assert set(files) == FILES | OWN
    assert all(files[name] == (checkpoint / name).read_bytes() for name in FILES - {"README.md"})
    assert b"license: apache-2.0" in files["README.md"]
    assert any("hf_vbp/" in entry.user_agent for entry in hub.log)


def test_a_model_without_class_names_is_reported(client: Client, xet_hub: LoopbackHub, copy: Path) -> None:
    def note() -> list[str]:
        answer = client.push(copy, "alice/pruned-vit", dry_run=True)
        return [line for line in answer["lines"] if "names no classes" in line]

    config = json.loads((copy / "config.json").read_text(encoding="utf-8"))
    for labels, noted in (({"0": "LABEL_0", "1": "LABEL_1"}, True), ({"0": "cat", "1": "LABEL_1"}, False)):
        (copy / "config.json").write_text(json.dumps({**config, "id2label": labels}), encoding="utf-8")
        assert bool(note()) is noted
    del config["id2label"]
    (copy / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert not note()


def test_a_dry_run_only_reads(client: Client, hub: LoopbackHub, checkpoint: Path) -> None:
    answer = client.push(checkpoint, "alice/pruned-vit", dry_run=True)
    assert answer["status"] == "dry_run"
    assert set(answer["changed"]) == FILES
    assert {entry.method for entry in hub.log} == {"GET"}
    assert "alice/pruned-vit" not in hub.repositories
    assert "Create alice/pruned-vit" in answer["lines"][0]


def test_other_files_of_the_folder_are_not_sent(client: Client, xet_hub: LoopbackHub, copy: Path) -> None:
    for name in (".env", "optimizer.pt", "training_args.bin", "trainer_state.json", "tokenizer.json", "model.bin"):
        (copy / name).write_text("secret")
    for folder in ("runs", "checkpoint-5", ".git"):
        (copy / folder).mkdir()
        (copy / folder / "model.safetensors").write_text("other")
    client.push(copy, "alice/pruned-vit")
    assert set(xet_hub.repositories["alice/pruned-vit"].files()) == FILES | OWN


def test_the_recipe_of_a_fine_tuned_checkpoint_is_sent_and_deleted_with_it(
    client: Client, hub: LoopbackHub, checkpoint: Path, copy: Path
) -> None:
    recipe = f"model: pruned\noutput: {copy.resolve()}\n"
    (copy / "recipe.yaml").write_text(recipe, encoding="utf-8")
    answer = client.push(copy, "alice/pruned-vit")
    assert hub.repositories["alice/pruned-vit"].files()["recipe.yaml"] == recipe.encode()
    assert any("recipe.yaml names a path of this machine" in line for line in answer["lines"])
    assert client.push(checkpoint, "alice/pruned-vit", overwrite=True)["deleted"] == ["recipe.yaml"]
    assert set(hub.repositories["alice/pruned-vit"].files()) == FILES | OWN


def test_an_unchanged_repository_is_reported(client: Client, hub: LoopbackHub, checkpoint: Path) -> None:
    client.push(checkpoint, "alice/pruned-vit")
    before = len(hub.log)
    answer = client.push(checkpoint, "alice/pruned-vit")
    assert answer["status"] == "unchanged"
    assert "Nothing changed" in answer["sentence"]
    assert len(hub.repositories["alice/pruned-vit"].commits) == 2
    assert all(entry.method in ("GET", "HEAD") for entry in hub.log[before:])


def test_a_repository_with_content_is_refused(
    client: Client, xet_hub: LoopbackHub, checkpoint: Path, other_checkpoint: Path
) -> None:
    client.push(checkpoint, "alice/pruned-vit")
    head = xet_hub.repositories["alice/pruned-vit"].head.sha
    message = error_of(client.push(other_checkpoint, "alice/pruned-vit"))
    assert message.startswith("HubError: alice/pruned-vit already holds README.md, config.json")
    assert "--overwrite" in message
    assert xet_hub.repositories["alice/pruned-vit"].head.sha == head


def test_overwriting_deletes_stale_weights(
    client: Client, hub: LoopbackHub, checkpoint: Path, other_checkpoint: Path
) -> None:
    repository = hub.create("alice/pruned-vit")
    files = {name: Entry(b"old") for name in ("pytorch_model.bin", "notes.md", "onnx/model.safetensors")}
    repository.commit("refs/heads/main", files, "old", "", "alice")
    assert client.push(other_checkpoint, "alice/pruned-vit", overwrite=True)["deleted"] == ["pytorch_model.bin"]
    shards = {name for name in repository.files() if name.startswith("model-0")}
    assert len(shards) > 1
    assert "model.safetensors.index.json" in repository.files()
    answer = client.push(checkpoint, "alice/pruned-vit", overwrite=True)
    assert set(answer["deleted"]) == {*shards, "model.safetensors.index.json"}
    assert set(repository.files()) == FILES | {"notes.md", "onnx/model.safetensors"}
    assert len(repository.history("main")) == 4


def test_a_pull_request(client: Client, hub: LoopbackHub, checkpoint: Path, other_checkpoint: Path) -> None:
    client.push(other_checkpoint, "alice/pruned-vit")
    repository = hub.repositories["alice/pruned-vit"]
    head = repository.head.sha
    answer = client.push(checkpoint, "alice/pruned-vit", create_pr=True)
    assert answer["status"] == "pull_request"
    assert answer["revision"] == "refs/pr/1"
    assert answer["url"].endswith("/discussions/1")
    assert repository.head.sha == head
    assert set(repository.files("refs/pr/1")) == FILES | OWN


def test_a_pull_request_on_a_foreign_repository(
    client: Client, xet_hub: LoopbackHub, checkpoint: Path, tmp_path: Path
) -> None:
    bob = xet_hub.add_user("bob")
    with Client(xet_hub, tmp_path / "bob", bob.token) as other:
        assert other.push(checkpoint, "bob/vit")["status"] == "pushed"
    assert "403" not in error_of(client.push(checkpoint, "bob/other"))
    (tmp_path / "changed").mkdir()
    changed = Path(shutil.copytree(checkpoint, tmp_path / "changed" / "vit"))
    (changed / "plan.json").write_text('{"version": 2}')
    assert "write permission" in error_of(client.push(changed, "bob/vit", overwrite=True))
    assert client.push(changed, "bob/vit", create_pr=True)["status"] == "pull_request"


def test_a_branch(client: Client, hub: LoopbackHub, checkpoint: Path, other_checkpoint: Path) -> None:
    client.push(other_checkpoint, "alice/pruned-vit")
    repository = hub.repositories["alice/pruned-vit"]
    head = repository.head.sha
    answer = client.push(checkpoint, "alice/pruned-vit", revision="half")
    assert (answer["status"], answer["revision"]) == ("pushed", "half")
    assert set(repository.files("half")) == FILES | OWN
    assert repository.head.sha == head
    assert client.push(checkpoint, "alice/pruned-vit", revision="half")["status"] == "unchanged"


def test_a_branch_of_a_new_repository(client: Client, xet_hub: LoopbackHub, checkpoint: Path) -> None:
    assert client.push(checkpoint, "alice/new", revision="half")["status"] == "pushed"
    assert set(xet_hub.repositories["alice/new"].files("half")) == FILES | OWN
    assert set(xet_hub.repositories["alice/new"].files()) == OWN


def test_namespaces(client: Client, xet_hub: LoopbackHub, checkpoint: Path) -> None:
    assert client.push(checkpoint, "short")["url"].endswith("/alice/short")
    assert client.push(checkpoint, "atelier/vit", private=True)["status"] == "pushed"
    assert xet_hub.repositories["atelier/vit"].private
    assert "write permission" in error_of(client.push(checkpoint, "elsewhere/vit"))
    assert error_of(client.push(checkpoint, "a/b/c")).startswith("HubError: Checking the name")
    assert "Choose another name" in error_of(client.push(checkpoint, "alice/commit"))


def test_another_visibility_is_refused(client: Client, xet_hub: LoopbackHub, checkpoint: Path) -> None:
    xet_hub.create("alice/open")
    assert "is public, but private was requested" in error_of(client.push(checkpoint, "alice/open", private=True))
    assert set(xet_hub.repositories["alice/open"].files()) == OWN


def test_private_and_gated(client: Client, hub: LoopbackHub, checkpoint: Path) -> None:
    hub.create("alice/gated", gated=True)
    assert client.push(checkpoint, "alice/gated")["status"] == "pushed"
    assert client.push(checkpoint, "alice/hidden", private=True)["status"] == "pushed"
    assert client.ask("audit", repo_id="alice/hidden", options={"check_load": False})["passed"]


def test_the_parent_is_pinned(client: Client, hub: LoopbackHub, checkpoint: Path) -> None:
    repository = hub.create("alice/vit")

    def meanwhile() -> None:
        repository.commit("refs/heads/main", {"theirs.txt": Entry(b"x")}, "theirs", "", "bob")

    hub.fail("meanwhile", method="POST", path="/commit/main", then=meanwhile)
    message = error_of(client.push(checkpoint, "alice/vit"))
    assert "another commit was made" in message
    assert set(repository.files()) == {"theirs.txt"}


def test_two_pushes_at_once_do_not_mix(
    client: Client, hub: LoopbackHub, alice: User, checkpoint: Path, other_checkpoint: Path, tmp_path: Path
) -> None:
    options = {"check_load": False}
    with Client(hub, tmp_path / "second", alice.token) as second:
        second.ask("call", code="import hf_vbp.hub")  # so that both are ready
        for one, folder in ((client, checkpoint), (second, other_checkpoint)):
            one.send("push", directory=str(folder), repo_id="alice/vit", options=options)
        answers = [client.receive(), second.receive()]
    won = [
        folder for folder, answer in zip((checkpoint, other_checkpoint), answers, strict=True) if "status" in answer
    ]
    assert len(won) == 1, answers
    assert [answer["error"] for answer in answers if "error" in answer] == ["HubError"]
    repository = hub.repositories["alice/vit"]
    assert len(repository.commits) == 2
    names = {path.name for path in won[0].iterdir()} - {"vbp_manifest.json"} | {"README.md"}
    assert set(repository.files()) == names | OWN


def test_a_gitignore_that_drops_weights_is_noticed(client: Client, xet_hub: LoopbackHub, checkpoint: Path) -> None:
    repository = xet_hub.create("alice/vit")
    repository.commit("refs/heads/main", {".gitignore": Entry(b"*.safetensors\n")}, "ignore", "", "alice")
    message = error_of(client.push(checkpoint, "alice/vit", overwrite=True))
    assert "differs from the files that were sent: model.safetensors" in message


def test_no_token(xet_hub: LoopbackHub, checkpoint: Path, tmp_path: Path) -> None:
    with Client(xet_hub, tmp_path, None) as nobody:
        assert "hf auth login" in error_of(nobody.push(checkpoint, "alice/vit"))
        assert "hf auth login" in error_of(nobody.push(checkpoint, "vit"))


@pytest.mark.parametrize("xet_off", ["0", "1"])
def test_a_token_is_in_no_output_of_a_failing_push(
    xet_hub: LoopbackHub, alice: User, checkpoint: Path, tmp_path: Path, xet_off: str
) -> None:
    xet_hub.fail("status", path="/commit/", status=500, times=9)
    options = {"HF_DEBUG": "1", "HF_HUB_VERBOSITY": "debug", "HF_HUB_DISABLE_XET": xet_off}
    with Client(xet_hub, tmp_path, alice.token, **options) as client:
        answer = client.push(checkpoint, "alice/vit")  # the client looks for the token in all it receives
        assert "the Hub failed" in error_of(answer)


def test_two_options_that_contradict_each_other(client: Client, checkpoint: Path) -> None:
    assert "create_pr" in error_of(client.push(checkpoint, "alice/vit", create_pr=True, overwrite=True))
    assert "cannot get a pull request" in error_of(client.push(checkpoint, "alice/vit", create_pr=True))


def break_weights(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-7])


def break_config(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["vbp"]["widths"][0] = 6
    (folder / "config.json").write_text(json.dumps(config))


def break_both(folder: Path) -> None:
    break_config(folder)
    results = json.loads((folder / "vbp_results.json").read_text())
    results["plan"]["widths"][0] = 6
    (folder / "vbp_results.json").write_text(json.dumps(results))


def link_out(folder: Path) -> None:
    shutil.move(folder / "plan.json", folder.parent / "elsewhere.json")
    (folder / "plan.json").symlink_to(folder.parent / "elsewhere.json")


def leave_hashes(folder: Path) -> None:
    results = json.loads((folder / "vbp_results.json").read_text())
    results["receipt"][0]["files"] = {"model.safetensors": "0" * 64}
    (folder / "vbp_results.json").write_text(json.dumps(results))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "vbp_results.json").unlink(), "vbp_results.json"),
        (lambda folder: (folder / "config.json").unlink(), "config.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), "only safetensors"),
        (lambda folder: (folder / "modeling_hf_vbp.py").unlink(), "modeling_hf_vbp.py is missing"),
        (lambda folder: (folder / "model.safetensors.index.json").write_text("{}"), "holds both"),
        (lambda folder: (folder / "plan.json").write_text(f'"hf_{"a" * 34}"'), "seems to hold a Hub token"),
        (lambda folder: (folder / "README.md").write_text("---\na: [\n---\n"), "not YAML"),
        (lambda folder: (folder / "README.md").write_text("---\nbase_model: /home/me/x\ntags: [a]\n---\n"), None),
        (break_weights, "is damaged or truncated"),
        (break_config, "not of one checkpoint"),
        (break_both, "does not belong to these weights"),
        (link_out, "outside of the folder"),
        (leave_hashes, "differ from the receipt"),
        (lambda folder: (folder / "README.md").symlink_to("/etc/hostname"), "outside of the folder"),
    ],
)
def test_a_damaged_checkpoint_is_refused_before_anything_is_sent(
    client: Client, xet_hub: LoopbackHub, copy: Path, damage: Any, message: str | None
) -> None:
    damage(copy)
    answer = client.push(copy, "alice/vit")
    if message is None:  # the base model is replaced
        assert answer["status"] == "pushed"
        return
    assert message in error_of(answer)
    assert {entry.method for entry in xet_hub.log} <= {"GET", "HEAD"}
    assert "alice/vit" not in xet_hub.repositories


def test_a_uniform_checkpoint_needs_no_code(client: Client, xet_hub: LoopbackHub, tmp_path: Path) -> None:
    uniform = make_checkpoint(tmp_path / "uniform", widths=[16, 16, 16])
    client.push(uniform, "alice/uniform")
    files = xet_hub.repositories["alice/uniform"].files()
    assert set(files) == (FILES | OWN) - {"modeling_hf_vbp.py"}
    assert b"trust_remote_code" not in files["README.md"]
    assert b"custom_code" not in files["README.md"]


def test_text_of_the_user_is_kept_by_a_second_push(client: Client, xet_hub: LoopbackHub, copy: Path) -> None:
    client.push(copy, "alice/vit")
    repository = xet_hub.repositories["alice/vit"]
    edited = repository.files()["README.md"] + b"\n## Written on the web page\n"
    repository.commit("refs/heads/main", {**repository.head.files, "README.md": Entry(edited)}, "web", "", "alice")
    assert client.push(copy, "alice/vit")["status"] == "unchanged"
    (copy / "plan.json").write_text('{"version": 2}')
    assert client.push(copy, "alice/vit", overwrite=True)["changed"] == ["plan.json"]
    assert b"Written on the web page" in repository.files()["README.md"]
    (copy / "README.md").write_text("# Written here\n")
    client.push(copy, "alice/vit", overwrite=True)
    assert repository.files()["README.md"].endswith(b"# Written here\n")


def token_with_escapes(folder: Path) -> None:
    (folder / "plan.json").write_text(f'"\\u0068f_{"a" * 17}\\u0061{"a" * 17}"')


def token_in_yaml(folder: Path) -> None:
    (folder / "recipe.yaml").write_text(f'training: {{run_name: "\\x68f_{"a" * 34}"}}')


def token_in_metadata(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt", "note": f"hf_{'a' * 34}"})


def escaped_token_in_metadata(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    head = json.loads(content[8 : 8 + length])
    head["__metadata__"] = {"note": f"hf_{'a' * 34}"}
    text = json.dumps(head).replace("hf_aaa", "\\u0068f_aaa").encode()
    text += b" " * (-len(text) % 8)
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])


@pytest.mark.parametrize("hide", [token_with_escapes, token_in_yaml, token_in_metadata, escaped_token_in_metadata])
def test_hidden_tokens_are_found(client: Client, xet_hub: LoopbackHub, copy: Path, hide: Any) -> None:
    hide(copy)
    message = error_of(client.push(copy, "alice/vit"))
    assert "seems to hold a Hub token" in message
    assert "aaaa" not in message
    assert xet_hub.log == []


def test_the_base_model_must_not_be_a_folder(client: Client, copy: Path) -> None:
    message = error_of(client.push(copy, "alice/vit", base_model=str(copy)))
    assert message.startswith("ConfigurationError: base_model is the folder")


def test_local_paths_are_pointed_out(client: Client, copy: Path) -> None:
    results = json.loads((copy / "vbp_results.json").read_text())
    results["command"] = f"hf-vbp prune {Path.home()}/models/vit --ratio 0.5"
    (copy / "vbp_results.json").write_text(json.dumps(results))
    answer = client.push(copy, "alice/vit", dry_run=True)
    assert "vbp_results.json names a path of this machine." in answer["remarks"]
    assert not [remark for remark in answer["remarks"] if remark.startswith("README.md")]


@pytest.mark.slow
def test_a_checkpoint_that_does_not_load_is_refused(client: Client, copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    config["hidden_size"] = 64
    (copy / "config.json").write_text(json.dumps(config))
    assert error_of(client.push(copy, "alice/vit", check_load=True)).startswith("CheckpointError")
