"""The widgets of the page."""

from typing import Any

import gradio as gr

from hf_vbp.ui import plots, views
from hf_vbp.ui.actions import BUNDLED, IMAGES
from hf_vbp.ui.settings import FLAVORS, MOST_PICTURES

KINDS = [
    ("Neurons to remove", "ratio"),
    ("Parameters to keep", "parameters"),
    ("MACs to keep", "macs"),
    ("Latency to keep", "latency"),
]
INTRODUCTION = """# Prune a vision model
Remove hidden neurons of the MLPs of a vision transformer in one shot, and see the predicted damage before anything is
pruned. Five steps: choose a model, give it some images, set the budget, prune, publish."""
_POLL = 0.5


class Layout:
    """The widgets, in reading order. Made inside of ``gr.Blocks``.

    Args:
        login: Whether visitors can log in to the Hub.
    """

    def __init__(self, *, login: bool) -> None:
        gr.Markdown(INTRODUCTION)
        if login:
            gr.LoginButton()
        self._model()
        self._images()
        self._budget()
        self._publish()
        self._jobs()
        # Stays at the lower edge of the window, next to whatever step the visitor looks at.
        with gr.Group(elem_id="status"):
            self.message = gr.HTML(elem_id="message")
            self.progress = gr.HTML(views.progress(None, 0), elem_id="progress")
            self.cancel = gr.Button("Cancel the running work", size="sm", interactive=False, elem_id="cancel")
        self.timer = gr.Timer(_POLL, active=False)

    @property
    def choice(self) -> list[Any]:
        """The widgets of :class:`hf_vbp.ui.actions.Choice`, in its order."""
        return [self.kind, self.share, self.tokens, self.same_width]

    @property
    def chosen_images(self) -> list[Any]:
        """The widgets of :class:`hf_vbp.ui.actions.Images`, in its order."""
        return [self.kind_of_images, self.uploads, self.data, self.split, self.limit]

    @property
    def job(self) -> list[Any]:
        """The widgets that decide about a Job: repository, hardware, budget and images."""
        return [self.job_repo, self.flavor, *self.choice, *self.chosen_images]

    @property
    def state(self) -> list[Any]:
        """The widgets that show the state of long work."""
        return [self.progress, self.timer, self.cancel]

    @property
    def shown(self) -> list[Any]:
        """The widgets that show what a session holds."""
        plots_and_figures = [self.budget_step, self.figures, self.widths, self.curve, self.sweep]
        checkpoint = [self.publish_step, self.receipt, self.download, self.repo, self.pushed]
        return [self.model, self.images_step, *plots_and_figures, *checkpoint]

    def _model(self) -> None:
        gr.Markdown("## 1. Model")
        self.name = gr.Textbox(
            label="Model", info="Id on the Hub, words to search for, or sample.", elem_id="model", max_lines=1
        )
        with gr.Row():
            self.inspect = gr.Button("Inspect", variant="primary", elem_id="inspect")
            self.search = gr.Button("Search the Hub", elem_id="search")
        self.found = gr.Radio([], label="Found on the Hub", visible=False, elem_id="found")
        self.model = gr.HTML(elem_id="inspected")

    def _images(self) -> None:
        with gr.Column(visible=False, elem_id="step-images") as self.images_step:
            gr.Markdown("## 2. Calibration images\nImages like those that the model will see; labels are not needed.")
            self.kind_of_images = gr.Radio(list(IMAGES), value=BUNDLED, label="Images", elem_id="kind-of-images")
            self.uploads = gr.File(
                label=f"Pictures, 2 to {MOST_PICTURES}",
                file_count="multiple",
                file_types=["image"],
                visible=False,
                elem_id="uploads",
            )
            with gr.Row(visible=False) as self.data_row:
                self.data = gr.Textbox(label="Data set", info="owner/name or owner/name:config", elem_id="data")
                self.split = gr.Textbox(label="Split", info="Empty: the one that fits.", elem_id="split")
            self.limit = gr.Slider(16, 512, 128, step=16, label="Images at most", elem_id="limit")
            self.gather = gr.Button("Gather statistics", variant="primary", elem_id="gather")

    def _budget(self) -> None:
        with gr.Column(visible=False, elem_id="step-budget") as self.budget_step:
            gr.Markdown("## 3. Budget\nRead from the statistics at once; nothing is pruned yet.")
            self.kind = gr.Radio(KINDS, value="ratio", label="Budget", elem_id="kind")
            self.share = gr.Slider(1, 98, 30, step=1, label="Percent", elem_id="share")
            with gr.Row():
                self.tokens = gr.Checkbox(
                    label="Merge tokens too", info="For MACs and latency.", interactive=False, elem_id="tokens"
                )
                self.same_width = gr.Checkbox(
                    label="Same width in every layer", info="Loads with plain transformers.", elem_id="same-width"
                )
            self.figures = gr.HTML(elem_id="figures")
            self.widths = gr.BarPlot(
                x="layer",
                y="neurons",
                color="state",
                color_map=plots.COLORS,
                title="Hidden neurons per layer",
                height=260,
                sort=None,
                elem_id="widths",
            )
            with gr.Row():
                self.measure = gr.Button(views.MEASURE, elem_id="measure")
                self.sweep = gr.Button("Measure the curve", elem_id="sweep")
            self.curve = gr.LinePlot(
                x="removed",
                y="share",
                x_title="neurons removed, percent",
                y_title="percent",
                color="measure",
                title="Agreement and error, percent",
                height=260,
                visible=False,
                elem_id="curve",
            )
            gr.Markdown("## 4. Prune")
            self.prune = gr.Button("Prune and verify", variant="primary", elem_id="prune")

    def _publish(self) -> None:
        with gr.Column(visible=False, elem_id="step-publish") as self.publish_step:
            self.receipt = gr.HTML(elem_id="receipt")
            self.download = gr.DownloadButton("Download as a zip", elem_id="download")
            gr.Markdown("## 5. Publish\nOne commit with a model card, to your own namespace.")
            with gr.Row():
                self.repo = gr.Textbox(label="Repository", info="name or owner/name", elem_id="repo", max_lines=1)
                self.private = gr.Checkbox(label="Private", value=True, elem_id="private")
            with gr.Row():
                self.preview_card = gr.Button("Preview the card", elem_id="preview-card")
                self.push = gr.Button("Push to the Hub", variant="primary", elem_id="push")
            self.card = gr.Textbox(
                label="Model card and files", visible=False, lines=12, max_lines=24, interactive=False, elem_id="card"
            )
            self.pushed = gr.HTML(elem_id="pushed")

    def _jobs(self) -> None:
        with gr.Accordion("Run it as a Job of your own account", open=False, elem_id="jobs"):
            gr.Markdown(
                "For models that are too large for this machine. Jobs are billed by the minute to your account; this "
                "page may be closed, and the id finds the Job again."
            )
            with gr.Row():
                self.flavor = gr.Dropdown(list(FLAVORS), value="cpu-upgrade", label="Hardware", elem_id="flavor")
                self.job_repo = gr.Textbox(label="Repository for the result", elem_id="job-repo", max_lines=1)
            self.start_job = gr.Button("Start the Job", elem_id="start-job")
            self.job_line = gr.Textbox(label="The same on the command line", interactive=False, elem_id="job-line")
            with gr.Row():
                self.job_id = gr.Textbox(label="Job id", elem_id="job-id", max_lines=1)
                self.read_job = gr.Button("Show its state", elem_id="read-job")
                self.end_job = gr.Button("Cancel the Job", elem_id="end-job")
            self.job_state = gr.HTML(elem_id="job-state")
