"""Nothing private is left in text that can be published."""

import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_vbp.results.redaction import name_of_path, redacted, redacted_command, without_home, without_paths

TOKEN = "hf_" + "aB3" * 12


@pytest.mark.parametrize(
    ("command", "published"),
    [
        ("hf-vbp prune sample --ratio 0.5", "hf-vbp prune sample --ratio 0.5"),
        ("hf-vbp prune me/vit --data photos", "hf-vbp prune me/vit --data photos"),
        ("hf-vbp prune /home/me/vit --data=/data/photos/", "hf-vbp prune vit --data=photos"),
        ("x '/data/my photos/a b'", "x 'a b'"),
        ("x ~/vit ~me/vit C:/vit 'C:\\\\a\\\\vit' //host/share/vit", "x vit vit vit vit vit"),
        ("x file:///home/me/vit https://example.com/a/b", "x vit https://example.com/a/b"),
        ("x data.train.source=/data/photos output=out", "x data.train.source=photos output=out"),
        ("x 'data={source: /data/photos, split: train}'", "x 'data={source: photos, split: train}'"),
        (f"x training.hub_token={TOKEN} training.seed=1", "x training.hub_token=REDACTED training.seed=1"),
        (
            "x --token=abc --api-key abc --hub-token abc y",
            "x --token=REDACTED --api-key REDACTED --hub-token REDACTED y",
        ),
        (f"x {TOKEN} a/{TOKEN}", "x hf_... a/hf_..."),
        ("x --token-weights yes token_weights=gradient", "x --token-weights yes token_weights=gradient"),
        ("x 'not closed /home/me/vit", "x 'not closed vit"),
    ],
)
def test_commands(command: str, published: str) -> None:
    assert redacted_command(command) == published
    assert redacted_command(published) == published


@pytest.mark.parametrize(
    ("text", "published"),
    [
        ("/home/me/photos/a.jpg: broken", "a.jpg: broken"),
        ("zip://a.jpg::/data/photos.zip", "zip://a.jpg::photos.zip"),
        ("train/a.jpg", "train/a.jpg"),
        ("5 / 10 and/or n/a", "5 / 10 and/or n/a"),
        ("https://example.com/a.jpg", "https://example.com/a.jpg"),
    ],
)
def test_names_of_images(text: str, published: str) -> None:
    assert without_paths(text) == published


PARTS = st.lists(st.from_regex(r"[a-c]+[_.-]?[a-c ]*[a-c]", fullmatch=True), min_size=1, max_size=4)


@given(PARTS)
def test_no_absolute_path_is_left(parts: list[str]) -> None:
    path = "/" + "/".join(parts)
    assert name_of_path(path) == parts[-1]
    assert redacted_command(f"x --data '{path}'") == shlex.join(["x", "--data", parts[-1]])
    assert "/" not in without_paths(f"a /{'/'.join(part.replace(' ', '') for part in parts)} b")


def test_settings() -> None:
    tree = {
        "output": "/home/me/out",
        "data": {"train": {"source": "/data/photos", "limit": 3}, "shards": ["/a/b.tar", "me/c"]},
        "training": {"hub_token": TOKEN, "hub_model_id": "me/vit", "run_name": f"with {TOKEN}", "token_weights": 1},
    }
    assert redacted(tree) == {
        "output": "out",
        "data": {"train": {"source": "photos", "limit": 3}, "shards": ["b.tar", "me/c"]},
        "training": {"hub_model_id": "me/vit", "run_name": "with hf_...", "token_weights": 1},
    }


def test_messages_have_no_home_and_no_tokens() -> None:
    home = Path.home()
    assert without_home(f"run {home}/models/vit {home}") == "run ~/models/vit ~"
    assert without_home(f"{home}-other") == f"{home}-other"
    assert TOKEN not in without_home(f"token {TOKEN}")
