"""Report the progress of a run through a reporter, in place of the output of Trainer."""

from contextlib import ExitStack
from typing import Any

from transformers import TrainerCallback

from hf_vbp._progress import Progress
from hf_vbp.workflow.requests import Reporter

_LOSSES = ("loss", "hard_loss", "soft_loss")
_SHOWN = ("eval_top1", "eval_top5", "eval_loss")


class ReportProgress(TrainerCallback):  # type: ignore[misc]
    """Shows a bar of the steps, and one line for each evaluation."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._stack = ExitStack()
        self._update: Progress | None = None
        self._last: dict[str, float] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Open the bar."""
        self._update = self._stack.enter_context(self._reporter.stage("Fine-tuning", state.max_steps))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Advance the bar."""
        if self._update is not None:
            self._update(state.global_step, state.max_steps)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """Keep the loss, and report the figures of an evaluation."""
        logs = logs or {}
        if "loss" in logs:
            self._last = logs
        if "eval_loss" in logs:
            parts = [f"{name.removeprefix('eval_')} {logs[name]:.4f}" for name in _SHOWN if name in logs]
            losses = [f"{name} {self._last[name]:.4f}" for name in _LOSSES if name in self._last]
            trained = f" (training: {', '.join(losses)})" if losses else ""
            self._reporter.say(f"Epoch {logs.get('epoch', 0):.2f}: {', '.join(parts)}{trained}")

    def close(self) -> None:
        """Close the bar."""
        self._stack.close()
