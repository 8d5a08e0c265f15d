"""What a page allows, by who can reach it."""

from pathlib import Path

import pytest

from hf_vbp.errors import ConfigurationError, DataError
from hf_vbp.ui.settings import Settings

LOCAL, OPEN = Settings.of("127.0.0.1", environ={}), Settings.of("0.0.0.0", environ={})
SPACE = Settings.of("0.0.0.0", environ={"SYSTEM": "spaces", "HF_VBP_SOURCE": "https://example.org/a.whl"})
BEHIND_A_PROXY = Settings.of("127.0.0.1", environ={"SYSTEM": "spaces"})


def test_only_the_owner_of_the_machine_uses_its_token_and_folders() -> None:
    assert [one.local for one in (LOCAL, OPEN, SPACE)] == [True, False, False]
    assert not BEHIND_A_PROXY.local
    assert [one.token(None) for one in (LOCAL, OPEN, SPACE)] == [None, False, False]
    assert SPACE.token("hf_of_the_visitor") == "hf_of_the_visitor"
    assert SPACE.source == "https://example.org/a.whl"


@pytest.mark.parametrize(
    "name", ["/etc", "../secret", "~", ".", "a/b/c", "C:\\x", "file:///etc", "hf://a/b", "a/..", "", "a b", "-x"]
)
def test_others_name_no_files_of_the_server(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError):
        SPACE.check_model(name)
    with pytest.raises(DataError):
        SPACE.check_data(name)


@pytest.mark.parametrize("name", ["x" * 300, "é" * 150, "owner/" * 1000 + "name"])
@pytest.mark.parametrize("settings", [LOCAL, OPEN])
def test_names_that_no_file_system_takes_are_refused(settings: Settings, name: str) -> None:
    with pytest.raises(ConfigurationError, match="too long for the id of a model"):
        settings.check_model(name)
    with pytest.raises(DataError, match="too long for the id of a data set"):
        settings.check_data(name)


def test_a_folder_that_is_named_like_an_id_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert OPEN.check_model(" owner/name ") == "owner/name"
    assert OPEN.check_data("owner/name:config") == "owner/name:config"
    (tmp_path / "owner" / "name").mkdir(parents=True)
    with pytest.raises(ConfigurationError):
        OPEN.check_model("owner/name")
    with pytest.raises(DataError):
        OPEN.check_data("owner/name")
    with pytest.raises(DataError):
        OPEN.check_data("shards.tar")
    assert LOCAL.check_model("./owner") == "./owner"
