"""Which widget calls which action, and how its outcome is shown. No logic."""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import gradio as gr

from hf_vbp._progress import one_line
from hf_vbp.errors import ConfigurationError, HfVbpError
from hf_vbp.results.redaction import without_paths
from hf_vbp.ui import plots, views
from hf_vbp.ui.actions import HUB, MERGING, UPLOADED, Actions, Choice, Images, study_of
from hf_vbp.ui.layout import Layout
from hf_vbp.ui.session import Session
from hf_vbp.ui.worker import unexpected

_LONGEST_MESSAGE = 2000
_log = logging.getLogger(__name__)
# Budget to lowest and highest percentage, default, and label of the slider.
_RANGES = {
    "ratio": (1, 99, 30, "Percent of the hidden neurons to remove"),
    "parameters": (1, 99, 80, "Percent of the parameters to keep"),
    "macs": (1, 99, 80, "Percent of the MACs to keep"),
    "latency": (1, 99, 80, "Percent of the latency to keep"),
}
_PREDICTED_AT = range(5, 100, 5)


class Page:
    """The page of one server.

    Args:
        actions: What its buttons do.
    """

    def __init__(self, actions: Actions) -> None:
        self.actions = actions
        # Nothing is reported to third parties; old files of the page are deleted every hour.
        with gr.Blocks(title="hf-vbp", analytics_enabled=False, delete_cache=(3600, 7200)) as self.blocks:
            # None is copied for every visitor; the session itself is made by the first event.
            self.session = gr.State(None, delete_callback=self._close)
            self.layout = Layout(login=actions.settings.space)
            self._connect()

    def _connect(self) -> None:
        at = self.layout
        for listener in (at.inspect.click, at.name.submit):
            form = [at.share, at.tokens, at.kind, at.same_width, at.job_repo]
            self._on(listener, self._inspect, [at.name], [*at.shown, *form], token=True)
        self._on(at.search.click, self._search, [at.name], [at.found], token=True)
        self._on(at.found.input, lambda session, name: name, [at.found], [at.name], queue=False)
        self._on(
            at.kind_of_images.change, _kind_of_images, [at.kind_of_images], [at.uploads, at.data_row], queue=False
        )
        # Long work shows its own progress.
        own: dict[str, Any] = {"show_progress": "hidden"}
        self._on(at.gather.click, self._gather, at.chosen_images, at.state, token=True, **own)
        self._on(at.cancel.click, self._cancel, [], at.state, queue=False, **own)
        # The page asks for the state again and again, so that no connection has to last as long as the work.
        self._on(at.timer.tick, self._tick, at.choice, [*at.state, *at.shown], queue=False, quiet=True)
        self._on(at.kind.change, self._kind, [at.kind], [at.share, at.tokens], queue=False)
        moved: dict[str, Any] = {"queue": False, "trigger_mode": "always_last", "quiet": True}
        for listener in (at.share.change, at.tokens.change, at.same_width.change, at.kind.change):
            self._on(listener, self._move, at.choice, [at.figures, at.widths], **moved)
        for button, action in (
            (at.measure, self.actions.measure),
            (at.sweep, self.actions.curve),
            (at.prune, self.actions.prune),
        ):
            self._on(button.click, self._long(action), at.choice, at.state, **own)
        self._connect_hub()

    def _connect_hub(self) -> None:
        at = self.layout
        self._on(at.preview_card.click, self._card, [at.repo, at.private], [at.card], token=True)
        self._on(at.push.click, self._push, [at.repo, at.private], at.state, token=True, show_progress="hidden")
        self._on(at.start_job.click, self._start_job, at.job, [at.job_state, at.job_id], token=True)
        changed = partial(gr.on, [one.change for one in (at.model, *at.job)])
        always: dict[str, Any] = {"queue": False, "trigger_mode": "always_last", "quiet": True}
        self._on(changed, self._job_line, at.job, [at.job_line], **always)
        for button, action in ((at.read_job, self.actions.job_state), (at.end_job, self.actions.end_job)):
            self._on(button.click, self._hub_job(action), [at.job_id], [at.job_state], token=True)

    def _on(
        self,
        listener: Callable[..., Any],
        function: Callable[..., Any],
        inputs: Sequence[Any],
        outputs: Sequence[Any],
        *,
        token: bool = False,
        quiet: bool = False,
        **options: Any,
    ) -> None:
        """Call a function with the session, the token where it is needed, and the inputs; show errors as sentences.

        Args:
            listener: The event.
            function: Returns a value for each output.
            inputs: Widgets.
            outputs: Widgets.
            token: Whether the token of the visitor is passed.
            quiet: Whether an earlier message remains.
            **options: Of the event.
        """

        def call(session: Session | None, *values: Any) -> Any:
            session = session or self.actions.open()
            try:
                found = function(session, *values)
            except HfVbpError as error:
                return [session, views.error(self._sentence(error)), *(gr.skip() for _ in outputs)]
            except Exception as error:  # The last resort: gradio would show the word Error alone.
                _log.exception("%s failed", getattr(function, "__name__", "An event"))
                text = unexpected(error)
                text = text if self.actions.settings.local else without_paths(text)
                return [session, views.error(text), *(gr.skip() for _ in outputs)]
            found = found if isinstance(found, list | tuple) else [found]
            return [session, gr.skip() if quiet else "", *found]

        def without_login(session: Session | None, *values: Any) -> Any:
            return call(session, *((None,) if token else ()), *values)

        def with_login(access: gr.OAuthToken | None, session: Session | None, *values: Any) -> Any:
            return call(session, None if access is None else access.token, *values)

        logs_in = token and self.actions.settings.space
        options = {"show_progress": "hidden" if quiet else "minimal", **options}
        listener(
            with_login if logs_in else without_login,
            [self.session, *inputs],
            [self.session, self.layout.message, *outputs],
            api_visibility="private",
            **options,
        )

    def _sentence(self, error: HfVbpError) -> str:
        text = one_line(error, _LONGEST_MESSAGE)
        return text if self.actions.settings.local else without_paths(text)

    def _close(self, session: Session | None) -> None:
        if session is not None:
            session.close(self.actions.worker)

    def _inspect(self, session: Session, token: str | None, name: str) -> list[Any]:
        self.actions.inspect(session, name, token)
        # The form begins again with the budget whose range the slider shows.
        first = Choice()
        share, tokens = self._kind(session, first.kind)
        form = [share, {**tokens, "value": first.tokens}, first.kind, first.same_width]
        return [*self._render(session, first), *form, _result_name(session)]

    def _search(self, session: Session, token: str | None, words: str) -> Any:
        found = self.actions.search(words, token)
        if not found:
            raise ConfigurationError(f"No model on the Hub matches {words.strip()!r}.")
        return gr.update(choices=found, value=None, visible=True)

    def _gather(self, session: Session, token: str | None, *images: Any) -> list[Any]:
        self.actions.gather(session, _images(*images), token)
        return self._state(session)

    def _cancel(self, session: Session) -> list[Any]:
        self.actions.cancel(session)
        return self._state(session)

    def _tick(self, session: Session, *choice: Any) -> list[Any]:
        if session.job is None or not session.job.ended or session.seen:
            return [*self._state(session), *(gr.skip() for _ in self.layout.shown)]
        session.seen = True
        return [*self._state(session), *self._render(session, Choice(*choice))]

    def _kind(self, session: Session, kind: str) -> list[Any]:
        low, high, value, label = _RANGES[kind]
        merges = kind in MERGING
        if session.inspected is not None:
            reach = session.inspected["reachable"]
            high = max(int(100 * reach["ratio"]), 2) if kind == "ratio" else high
            low = min(int(100 * reach[kind]) + 1, 98) if kind == "parameters" else low
            merges = merges and session.inspected["merging"] is None
        slider = gr.update(minimum=low, maximum=high, value=min(max(value, low), high), label=label)
        return [slider, gr.update(interactive=merges)]

    def _move(self, session: Session, *choice: Any) -> list[Any]:
        if session.study is None:
            return [gr.skip(), gr.skip()]
        return self._figures(session, Choice(*choice))

    def _long(self, action: Callable[[Session, Choice], None]) -> Callable[..., list[Any]]:
        def begin(session: Session, *choice: Any) -> list[Any]:
            action(session, Choice(*choice))
            return self._state(session)

        return begin

    def _card(self, session: Session, token: str | None, name: str, private: bool) -> Any:
        return gr.update(value=self.actions.card(session, name, private, token), visible=True)

    def _push(self, session: Session, token: str | None, name: str, private: bool) -> list[Any]:
        self.actions.push(session, name, private, token)
        return self._state(session)

    def _start_job(self, session: Session, token: str | None, name: str, flavor: str, *rest: Any) -> list[Any]:
        choice, images = _job_choices(*rest)
        job = self.actions.send_job(session, images, choice, name, flavor, token)
        return [views.hub_job(job), job.id]

    def _job_line(self, session: Session, name: str, flavor: str, *rest: Any) -> str:
        if session.inspected is None:
            return ""
        choice, images = _job_choices(*rest)
        return self.actions.job_line(session, images, choice, name, flavor)

    def _hub_job(self, action: Callable[[str, str | None], Any]) -> Callable[..., str]:
        return lambda session, token, job_id: views.hub_job(action(job_id, token))

    def _state(self, session: Session) -> list[Any]:
        job = session.job
        ahead = self.actions.worker.ahead_of(job) if job is not None else 0
        # The timer stops with the tick that shows the end.
        waits = session.busy or not session.seen
        return [views.progress(job, ahead), gr.Timer(active=waits), gr.Button(interactive=session.busy)]

    def _figures(self, session: Session, choice: Choice) -> list[Any]:
        try:
            found = self.actions.preview(session, choice)
        except HfVbpError as error:
            # No bars: those of another budget or model would contradict the sentence.
            return [views.error(self._sentence(error)), None]
        study = study_of(session)
        source = f"from {study.statistics.images} images"
        figures = views.preview(
            found, asked=choice.asked, statistics=source, measured=study.knows_tokens(choice.config())
        )
        return [
            figures + (views.note(f"The curve cannot be measured: {study.no_curve}") if study.no_curve else ""),
            plots.widths(found, study.prepared.widths),
        ]

    def _render(self, session: Session, choice: Choice) -> list[Any]:
        """Return the updates of all widgets that show what the session holds."""
        inspected, study, pruned = session.inspected, session.study, session.pruned
        figures = ["", None] if study is None else self._figures(session, choice)
        predicted = [] if study is None or not session.curve else self._predicted(session, choice)
        return [
            "" if inspected is None else views.inspected(inspected),
            gr.update(visible=inspected is not None),
            gr.update(visible=study is not None),
            *figures,
            gr.update(value=plots.curve(session.curve, predicted), visible=bool(session.curve)),
            gr.update(interactive=study is not None and not study.no_curve),
            gr.update(visible=pruned is not None),
            "" if pruned is None else views.receipt(pruned.results, pruned.folder.name),
            gr.update(value=None if pruned is None else str(pruned.archive)),
            gr.skip() if pruned is None or session.pushed is not None else _result_name(session),
            "" if session.pushed is None else views.status(session.pushed.sentence),
        ]

    def _predicted(self, session: Session, choice: Choice) -> list[tuple[float, float]]:
        found = []
        for percent in _PREDICTED_AT:
            try:
                one = self.actions.preview(session, Choice("ratio", percent, same_width=choice.same_width))
            except HfVbpError:
                # More than can be removed.
                break
            if one.predicted is not None:
                found.append((percent / 100, one.predicted))
        return found


def _kind_of_images(session: Session, kind: str) -> list[Any]:
    return [gr.update(visible=kind == UPLOADED), gr.update(visible=kind == HUB)]


def _result_name(session: Session) -> str:
    model = "" if session.inspected is None else session.inspected["model"].rstrip("/").rpartition("/")[2]
    return f"{model}-pruned" if model else ""


def _job_choices(*values: Any) -> tuple[Choice, Images]:
    return Choice(*values[:4]), _images(*values[4:])


def _images(kind: str, uploads: list[str] | None, name: str, split: str, limit: float) -> Images:
    return Images(kind, tuple(uploads or ()), name, split, int(limit))
