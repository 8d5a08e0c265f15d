"""On a Space the token of the visitor is passed to the actions that need it, and no other token is used."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hf_vbp.ui.actions import Actions, Choice, Images
from hf_vbp.ui.settings import Settings
from hf_vbp.ui.study import Pruned

pytest.importorskip("gradio", reason="gradio is not installed")
ROOT = Path(__file__).parents[2]


CODE = """if True:
    import json, sys
    from pathlib import Path
    import gradio
    # The packages that serve the login belong to gradio[oauth], which a Space installs.
    gradio.routes.attach_oauth = lambda app: None
    from hf_vbp.ui.actions import Actions
    from hf_vbp.ui.page import Page
    from hf_vbp.ui.settings import Settings

    class Recorded(Actions):
        tokens = []

        def inspect(self, session, name, token):
            self.tokens.append(token)

        push = lambda self, session, name, private, token: self.tokens.append(token)

    def call(page, name, *values):
        button = getattr(page.layout, name)
        (found,) = (one for one in page.blocks.fns.values() if (button._id, "click") in one.targets)
        return found.fn(*values)

    page = Page(Recorded(Settings(local=False, space=True), Path(sys.argv[1])))
    login = gradio.OAuthToken(token="hf_of_the_visitor", scope="", expires_at=0)
    session = call(page, "inspect", login, None, "owner/name")[0]
    call(page, "push", login, session, "name", True)
    call(page, "push", None, session, "name", True)
    # On the own machine there is no login, and no argument for it.
    call(Page(Recorded(Settings(), Path(sys.argv[1]))), "inspect", None, "owner/name")
    print(json.dumps([Recorded.tokens, repr(vars(session))]))
"""


def test_the_token_of_the_visitor_is_used_on_a_space(tmp_path: Path) -> None:
    # In a process of its own, since Gradio leaves an event loop open.
    ran = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path)],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert ran.returncode == 0, ran.stderr
    tokens, session = json.loads(ran.stdout.splitlines()[-1])
    assert tokens == ["hf_of_the_visitor", "hf_of_the_visitor", None, None]
    assert "hf_of_the_visitor" not in session


def test_who_is_not_logged_in_publishes_nothing(tmp_path: Path) -> None:
    actions = Actions(Settings(local=False, space=True), tmp_path)
    session = actions.open()
    session.inspected, session.pruned = {"model": "owner/name"}, Pruned(tmp_path, tmp_path, {})
    for act in (
        lambda: actions.push(session, "name", True, None),
        lambda: actions.card(session, "name", True, None),
        lambda: actions.job_state("0123", None),
        lambda: actions.send_job(session, Images("Bundled images"), Choice(), "name", "cpu-basic", None),
    ):
        with pytest.raises(ValueError, match=r"need the account of a user. Log in"):
            act()


def test_a_page_that_others_reach_forgets_the_token_of_the_machine(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("hf_stored")
    code = """if True:
        from hf_vbp.ui.launch import forget_tokens
        forget_tokens()
        from huggingface_hub.utils import build_hf_headers
        assert "authorization" not in build_hf_headers()
        assert build_hf_headers(token="hf_visitor")["authorization"] == "Bearer hf_visitor"
    """
    environment = {**os.environ, "HF_TOKEN": "hf_owner", "HF_TOKEN_PATH": str(tmp_path / "token")}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env={**environment, "PYTHONPATH": str(ROOT)})
