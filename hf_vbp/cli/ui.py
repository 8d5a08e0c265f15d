"""``hf-vbp ui``: the page in the browser."""

import sys
from typing import Annotated

from hf_vbp.cli.console import print_lines
from hf_vbp.cli.groups import PAGE, option


def ui(
    host: Annotated[
        str, option(PAGE, "--host", help="Address to listen on. Only on 127.0.0.1 the page reads your folders.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None, option(PAGE, "--port", min=1, max=65535, help="Port; by default the first free one from 7860.")
    ] = None,
    memory: Annotated[
        float | None, option(PAGE, "--memory", min=0.0, help="GB that a model may take; by default what is free.")
    ] = None,
    open_browser: Annotated[bool, option(PAGE, "--open/--no-open", help="Open the page in a browser.")] = False,
) -> None:
    """Open a page that inspects, prunes, verifies and publishes models in the browser."""
    from hf_vbp.ui.launch import launch

    limit = None if memory is None else int(memory * 1e9)
    launch(host, port, memory=limit, open_browser=open_browser, ready=_show_address)


def _show_address(address: str) -> None:
    print_lines([f"The page is at {address} (Ctrl-C ends it)."])
    sys.stdout.flush()
