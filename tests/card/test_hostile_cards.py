"""Cards of others are read or refused within limits of time and memory, which are set on a child process."""

import resource
import subprocess
import sys

import pytest

SECONDS, MEMORY = 10, 1 << 30
SCRIPT = """
import sys
from hf_vbp.card.base_card import BaseCard
from hf_vbp.card.render import make_facts, render_card
from hf_vbp.errors import ConfigurationError
from tests.hub.helpers import make_results

existing = eval(sys.argv[1])
facts = make_facts(make_results(), repo_id="me/x", base=BaseCard(license="mit"))
try:
    card = render_card(facts, existing)
except ConfigurationError as error:
    print("refused", error)
else:
    print("read", render_card(facts, card) == card)
"""
ALIASES = (
    "'---\\na0: &a0 [x, x]\\n' + "
    "''.join(f'a{i}: &a{i} [' + f'*a{i - 1}, ' * 9 + ']\\n' for i in range(1, 60)) + '---\\n'"
)
MARK = "<!-- hf_vbp:begin {} -->\n"


def limit() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


@pytest.mark.parametrize(
    ("existing", "answer"),
    [
        (ALIASES, "refused"),
        ("'---\\na: ' + '[' * 100_000 + '\\n---\\n'", "refused"),
        ("'---\\n' + ''.join(' ' * i + 'a:\\n' for i in range(600)) + '---\\n'", "refused"),
        ("'---\\na: ' + '1:' * 40_000 + '1\\n---\\n'", "refused"),
        ("'---\\n' + 'a' * 5_000_000", "refused"),
        (f"{MARK.format('a')!r} * 40_000", "read"),
        ("''.join(f'<!-- hf_vbp:begin a{chr(97 + i % 26)} -->\\n' for i in range(40_000))", "read"),
        ("'<!-- hf_vbp:end a -->\\n' * 40_000", "read"),
        ("'<!-- hf_vbp:begin ' * 100_000", "read"),
        ("'<!-- This model card has been generated automatically' * 70_000", "read"),
        ("'---\\n' * 500_000", "read"),
    ],
)
def test_hostile_cards_end_quickly(existing: str, answer: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, existing],
        capture_output=True,
        text=True,
        preexec_fn=limit,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith(answer), done.stdout[:2000]
    assert len(done.stdout) < 1000
