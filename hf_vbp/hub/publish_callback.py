"""A callback with which ``Trainer`` saves and pushes the same files and the same card as ``hf-vbp push``."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from hf_vbp.card.render import make_facts, render_card
from hf_vbp.checkpoint.atomic_folder import check_output_directory
from hf_vbp.checkpoint.unverified import check_unverified, discard_unverified, keep_unverified, named_on_failure
from hf_vbp.errors import HubError
from hf_vbp.evaluation.measures import wilson_interval
from hf_vbp.files.atomic import atomic_write
from hf_vbp.files.layout import CARD, PLAN, PROCESSORS, RESULTS
from hf_vbp.hub.files import checked_path
from hf_vbp.hub.model_task import model_task
from hf_vbp.hub.push import check_push_target, push_to_hub
from hf_vbp.results.finetuning import describe_run, with_finetuning
from hf_vbp.results.record import load_results, to_json
from hf_vbp.results.redaction import name_of_path

logger = logging.getLogger(__name__)
_TOP1 = ("eval_top1", "eval_accuracy")


class PublishCallback(TrainerCallback):  # type: ignore[misc]
    """Save the fine-tuned model as a checkpoint of this package and, with ``push_to_hub=True``, push it once.

    ``Trainer`` alone pushes its whole output folder at every save: pickled arguments, no plan, no results, a card
    without figures. With this callback it pushes nothing itself; at the end of training, one checkpoint with plan,
    results, receipt and card is saved to ``directory`` and pushed in one commit. The settings of ``Trainer`` apply:
    ``hub_model_id``, ``hub_token``, ``hub_private_repo``, ``hub_revision``. The callback takes ``hub_token`` out of
    the arguments, which ``Trainer`` pickles into every checkpoint. The settings of the run, and those of the
    loss of a :class:`hf_vbp.DistillationTrainer`, are recorded in the results and shown in the card.

    Args:
        pruned: The folder of the pruned checkpoint that is fine-tuned; its plan and its results are kept.
        directory: The folder of the fine-tuned checkpoint; by default ``final`` in the output folder.
        base_model: Hub id of the base model, where it was loaded from a folder.
        teacher: Hub id of the teacher, for the results.
        data: Description of the training images, for the section ``data`` of the results.
        overwrite: Push to a repository that already has content.
        verify: Load the checkpoint in a fresh process in each applicable way, and compare.

    Raises:
        CheckpointError: ``pruned`` is not a pruned checkpoint.

    Example:
        >>> from hf_vbp.hub.publish_callback import PublishCallback
        >>> Trainer(model, args, callbacks=[PublishCallback("pruned-vit")]).train()  # doctest: +SKIP
    """

    def __init__(
        self,
        pruned: str | Path,
        directory: str | Path | None = None,
        *,
        base_model: str | None = None,
        teacher: str | None = None,
        data: Mapping[str, Any] | None = None,
        overwrite: bool = False,
        verify: bool = True,
    ) -> None:
        self.pruned = Path(pruned)
        self.directory = Path(directory) if directory is not None else None
        self.base_model, self.data = base_model, data
        self.teacher = None if teacher is None else {"teacher": name_of_path(teacher)}
        self.overwrite, self.verify = overwrite, verify
        self.pushes = False
        self._token: str | None = None
        self.result: Any = None
        self._results = load_results(self.pruned)
        self._plan = checked_path(self.pruned, PLAN).read_bytes()

    def on_init_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Replace the pushes of ``Trainer``."""
        self._take_over(args, state)

    def on_train_begin(self, args: Any, state: Any, control: Any, *, model: Any = None, **_: Any) -> None:
        """Replace the pushes where the callback was added later, and check the folder before the training.

        Raises:
            CheckpointError: The folder cannot or must not be written.
        """
        self._take_over(args, state)
        if state.is_world_process_zero:
            inputs = {"the pruned checkpoint": self.pruned, "the model": getattr(model, "name_or_path", None)}
            check_output_directory(self._directory(args), overwrite=True, inputs=inputs)
            check_unverified(self._directory(args))

    def on_train_end(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        """Save the checkpoint, write its card, push it.

        Raises:
            CheckpointError: The evaluation or the verification failed. The trained model is kept next to the
                directory, with the suffix ``.unverified``; the message names it.
            HubError: It was saved but could not be pushed; the message shows how to push it later.
        """
        if not state.is_world_process_zero:
            return
        directory = self._save(args, state, **parts)
        if self.pushes:
            try:
                self.result = push_to_hub(
                    directory,
                    _repo_id(args),
                    token=self._token,
                    private=args.hub_private_repo,
                    revision=args.hub_revision,
                    overwrite=self.overwrite,
                    base_model=self.base_model,
                    check_load=False,
                )
            except HubError as error:
                later = f"The model is saved in {directory}: push it with `hf-vbp push {directory} {_repo_id(args)}`."
                raise HubError(f"{error} {later}") from error

    def _take_over(self, args: Any, state: Any) -> None:
        if args.hub_token is not None:
            # Trainer pickles its arguments into every checkpoint, and never reads the token after its construction
            # unless it pushes.
            args.hub_token, self._token = None, args.hub_token
        if not args.push_to_hub:
            return
        # Trainer reads its arguments at every save and at the end.
        args.push_to_hub, self.pushes = False, True
        if state.is_world_process_zero:
            check_push_target(
                _repo_id(args),
                token=self._token,
                private=args.hub_private_repo,
                revision=args.hub_revision,
                overwrite=self.overwrite,
            )

    def _save(
        self, args: Any, state: Any, *, model: Any, processing_class: Any = None, eval_dataloader: Any = None, **_: Any
    ) -> Path:
        from hf_vbp.checkpoint.saving import save_checkpoint

        images: Any = getattr(eval_dataloader, "dataset", None)
        count = len(images) if hasattr(images, "__len__") else None
        again = _in_mixed_precision(args) and final_evaluation(args, state, count) is not None
        results = self._results_after(args, state, None if again else count)
        directory = self._directory(args)
        written: dict[str, Any] = {}

        def with_receipt(receipt: Any) -> str:
            rows = {"receipt": receipt.to_list()} if receipt.entries else {}
            written.update(results, **rows)
            return to_json(written)

        files: dict[str, Any] = {PLAN: self._plan}
        if processing_class is None:
            present = [name for name in PROCESSORS if (self.pruned / name).is_file()]
            files |= {name: checked_path(self.pruned, name).read_bytes() for name in present}
        options = {"processor": processing_class}
        kept = keep_unverified(model, directory, files={**files, RESULTS: to_json(results)}, **options)
        with named_on_failure(kept, "Load it with hf_vbp.from_pretrained and save it with hf_vbp.save_checkpoint."):
            if again:
                results["evaluation"] = {**results.get("evaluation", {}), **_measure(args, model, eval_dataloader)}
            files[RESULTS] = with_receipt
            save_checkpoint(model, directory, files=files, verify=self.verify, overwrite=True, **options)
        discard_unverified(directory)
        has_processor = any((directory / name).is_file() for name in PROCESSORS)
        facts = make_facts(
            written,
            repo_id=args.hub_model_id,
            base_model=self.base_model,
            has_processor=has_processor,
            task=model_task(written),
        )
        card = directory / CARD
        # An earlier card was carried over; text of the user in it is kept.
        existing = card.read_text(encoding="utf-8") if card.is_file() else None
        atomic_write(card, render_card(facts, existing))
        return directory

    def _directory(self, args: Any) -> Path:
        return self.directory or Path(args.output_dir) / "final"

    def _results_after(self, args: Any, state: Any, images: int | None) -> dict[str, Any]:
        finetuned = final_evaluation(args, state, images)
        earlier: Mapping[str, Any] = self._results.get("evaluation", {})
        return with_finetuning(
            self._results,
            describe_run(args, state, teacher=self.teacher),
            evaluation=None if finetuned is None else {**earlier, "finetuned": finetuned},
            same_images=False,
            data=None if self.data is None else {"finetuning": dict(self.data)},
        )


def final_evaluation(args: Any, state: Any, images: int | None) -> dict[str, Any] | None:
    """Return the accuracy of the final weights from the log of ``Trainer``; None where it was not measured.

    Args:
        args: The ``TrainingArguments``.
        state: The ``TrainerState`` at the end. Where the best weights were restored, the evaluation of their step
            counts, and otherwise that of the last step.
        images: Number of evaluation images; None where it is not known.
    """
    restored = args.load_best_model_at_end and state.best_global_step
    step = int(restored or state.global_step)
    for entry in reversed(state.log_history):
        name = next((name for name in _TOP1 if name in entry), None)
        if name is None or entry.get("step") != step or not images:
            continue
        top1, top5 = entry[name], entry.get("eval_top5")
        if not 0 <= top1 <= 1 or not (top5 is None or 0 <= top5 <= 1):
            logger.warning("%s is %s, not a share between 0 and 1: it is left out of the results.", name, top1)
            return None
        interval = wilson_interval(round(top1 * images), images)
        found = {"images": images, "top1": float(top1), "top1_interval": list(interval)}
        return found if top5 is None else {**found, "top5": float(top5)}
    return None


def _in_mixed_precision(args: Any) -> bool:
    """Return whether ``Trainer`` evaluates in another precision than that of the weights."""
    return bool(args.mixed_precision != "no" or args.bf16_full_eval or args.fp16_full_eval)


def _measure(args: Any, model: Any, loader: Any) -> dict[str, Any]:
    """Evaluate in the dtype of the weights, as the pruned model was evaluated; empty where there are no labels."""
    from torch.utils.data import DataLoader

    from hf_vbp.evaluation import evaluate_models

    # The loader of Trainer shares the images among the processes, of which this one runs alone here.
    images = DataLoader(
        loader.dataset, args.eval_batch_size, collate_fn=loader.collate_fn, num_workers=args.dataloader_num_workers
    )
    figures = evaluate_models({"finetuned": model}, images, reference=None)["finetuned"].to_dict()
    return {"finetuned": figures} if "top1" in figures else {}


def _repo_id(args: Any) -> str:
    return str(args.hub_model_id or Path(args.output_dir).absolute().name)
