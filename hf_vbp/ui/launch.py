"""Start the page."""

import importlib
import os
import tempfile
import threading
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hf_vbp.errors import ConfigurationError, MissingPackageError
from hf_vbp.ui.settings import PICTURE_SIZE, Settings

CSS = """
.vbp-table { overflow-x: auto; }
.gradio-container { max-width: 64rem !important; margin: 0 auto; box-sizing: border-box; width: 100% !important; }
.vbp-table table, .vbp-table thead, .vbp-table tr, .vbp-table th, .vbp-table td { border: 0; }
.vbp-table table { border-collapse: collapse; width: 100%; margin: 0.5rem 0; font-size: 1rem; }
.vbp-table caption { text-align: left; font-weight: 600; padding: 0.25rem 0; }
.vbp-table th, .vbp-table td { padding: 0.3rem 0.6rem; border-bottom: 1px solid var(--border-color-primary); }
.vbp-table th { text-align: left; font-weight: 500; }
.vbp-table thead th:not(:first-child) { text-align: right; }
.vbp-table td { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.vbp-error { border-left: 4px solid #dc2626; padding: 0.5rem 0.75rem; overflow-wrap: anywhere;
  background: var(--background-fill-secondary); color: var(--body-text-color); }
.vbp-note, .vbp-status { padding: 0.25rem 0.75rem; overflow-wrap: anywhere; color: var(--body-text-color); }
.vbp-status progress { display: block; width: 100%; height: 0.6rem; margin-top: 0.25rem; }
.vbp-status a { color: var(--link-text-color); text-decoration: underline; }
#status { position: sticky; bottom: 0; z-index: 5; border: 1px solid var(--border-color-primary); }
"""


def build(settings: Settings) -> Any:
    """Return the page, a :class:`hf_vbp.ui.page.Page`.

    Args:
        settings: The limits.

    Raises:
        MissingPackageError: Gradio is not installed.
    """
    if find_spec("gradio") is None:
        raise MissingPackageError(
            "The page needs gradio, which is not installed. Install it: pip install 'hf-vbp[ui]'."
        )
    # Uploads and downloads are kept in a folder of this process, not in the one that all pages of a machine share.
    root = Path(tempfile.mkdtemp(prefix="hf-vbp-ui-"))
    os.environ["GRADIO_TEMP_DIR"] = str(root / "cache")
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    from hf_vbp.ui.actions import Actions

    actions = Actions(settings, root)
    # Before gradio is imported: the first visitor may inspect a model as soon as the page is served.
    actions.inspector.start()
    from hf_vbp.ui.page import Page

    return Page(actions)


def launch(
    host: str = "127.0.0.1",
    port: int | None = None,
    *,
    memory: int | None = None,
    open_browser: bool = False,
    ready: Callable[[str], None] = lambda address: None,
) -> None:
    """Serve the page until it is interrupted.

    Args:
        host: The address to listen on. With another one than that of this machine alone, folders and the stored token
            are not used, since others can reach the page.
        port: The port; by default the first free one from 7860 on.
        memory: Bytes that a model with its statistics may take; by default what is free.
        open_browser: Whether to open the page in a browser.
        ready: Receives the address when the page is served.

    Raises:
        MissingPackageError: Gradio is not installed.
        ConfigurationError: The address or the port cannot be used.
    """
    settings = Settings.of(host, memory)
    if not settings.local:
        forget_tokens()
    page = build(settings)
    try:
        blocks = page.blocks.queue(default_concurrency_limit=4, max_size=64)
        served: dict[str, Any] = {"server_name": host, "server_port": port, "inbrowser": open_browser}
        _, address, _ = blocks.launch(**options(), **served, quiet=True, prevent_thread_lock=True)
        ready(address)
        # Only now, since what it imports would delay the page.
        threading.Thread(target=_import_workflow, daemon=True).start()
        blocks.block_thread()
    except OSError as error:
        where = host if port is None else f"{host}:{port}"
        raise ConfigurationError(f"The page cannot be served at {where}: {error} Choose another --port.") from error
    finally:
        page.actions.close()


def forget_tokens() -> None:
    """Let no request of this process use a token of the machine: others can reach the page.

    Must run before huggingface_hub is imported.
    """
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        os.environ.pop(name, None)
    os.environ["HF_HUB_DISABLE_IMPLICIT_TOKEN"] = "1"


def options() -> dict[str, Any]:
    """Return how the page is served: its look, the size of uploads, and nothing that others host."""
    import gradio as gr

    fonts = ["system-ui", "sans-serif"]
    theme = gr.themes.Default(primary_hue="blue", font=fonts, font_mono=["ui-monospace", "monospace"]).set(
        # The default of the explanations is too pale to read.
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_dark="*primary_700",
    )
    return {
        "theme": theme,
        "css": CSS,
        "max_file_size": PICTURE_SIZE,
        "share": False,
        "ssr_mode": False,
        "footer_links": [],
        "pwa": False,
        "mcp_server": False,
        "enable_monitoring": False,
    }


def _import_workflow() -> None:
    # The first job would import them otherwise.
    importlib.import_module("hf_vbp.ui.study")
