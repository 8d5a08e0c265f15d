"""The result of pruning, which saves and publishes itself."""

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_vbp.adapters.prepared import prepare
from hf_vbp.adapters.registry import find_sites
from hf_vbp.checkpoint.receipt import Receipt
from hf_vbp.checkpoint.saving import Content, save_checkpoint
from hf_vbp.errors import PlanError
from hf_vbp.files.layout import PLAN, RESULTS
from hf_vbp.pruning.plan import PruningPlan
from hf_vbp.pruning.plan_agreement import check_plan_of_model
from hf_vbp.results.record import to_json
from hf_vbp.statistics.activation_statistics import ActivationStatistics
from hf_vbp.workflow.describe import describe_dense, describe_pruning, with_merging

if TYPE_CHECKING:
    from hf_vbp.hub.push_plan import PushResult


@dataclass(frozen=True, eq=False)
class PruningResult:
    """Result of :func:`hf_vbp.prune`.

    Attributes:
        model: The pruned model.
        plan: The kept neurons of every site, and the reason.
        statistics: The statistics of the dense model.
        results: The figures measured so far, in the form of ``vbp_results.json`` (docs/results.md).
        dense: The dense model, for :func:`hf_vbp.evaluate`; None where it was pruned in place. It stays in memory as
            long as the result refers to it.
        inputs: A batch of one image, on which a saved checkpoint is compared with the model in memory.
    """

    model: Any
    plan: PruningPlan
    statistics: ActivationStatistics
    results: dict[str, Any] = field(default_factory=dict)
    dense: Any = None
    inputs: Mapping[str, Any] | None = field(default=None, repr=False)

    @classmethod
    def from_parts(
        cls, dense: Any, pruned: Any, plan: PruningPlan, statistics: ActivationStatistics
    ) -> "PruningResult":
        """Return the result for a model that was pruned step by step, to save and push it with its results.

        Args:
            dense: The dense model, or the result of :func:`hf_vbp.adapters.prepare`.
            pruned: Result of :func:`hf_vbp.apply_plan`, not in place.
            plan: The plan.
            statistics: The statistics of the dense model.

        Raises:
            PlanError: The plan belongs to another model.
            StatisticsError: The statistics belong to another model.

        Example:
            >>> pruned = hf_vbp.apply_plan(model, plan, statistics)  # doctest: +SKIP
            >>> result = hf_vbp.PruningResult.from_parts(model, pruned, plan, statistics)  # doctest: +SKIP
            >>> result.save_pretrained("pruned")  # doctest: +SKIP
        """
        prepared = prepare(dense)
        check_plan_of_model(plan, prepared)
        statistics.check_model(prepared)
        widths = [site.intermediate_size for site in find_sites(pruned)]
        if widths != plan.widths:
            raise PlanError(
                f"The pruned model has MLPs of widths {widths}, but the plan has {plan.widths}. Pass the result of "
                "apply_plan for this plan."
            )
        described = describe_pruning(describe_dense(prepared), pruned, plan, statistics, prepared.inputs)
        return cls(pruned, plan, statistics, described, prepared.model, prepared.inputs)

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        *,
        processor: Any = None,
        verify: bool = True,
        overwrite: bool = False,
        push_to_hub: bool = False,
        repo_id: str | None = None,
        **push_options: Any,
    ) -> Receipt:
        """Save the model with its plan and results, and verify that the checkpoint reloads with the same outputs.

        Where tokens were merged after the figures of the model were measured, these figures are left out.

        Args:
            save_directory: A new or an empty folder.
            processor: The image processor, saved next to the model.
            verify: Whether to reopen the checkpoint in a fresh process by each way of loading that applies.
            overwrite: Whether a checkpoint in ``save_directory`` may be replaced.
            push_to_hub: Whether to push the checkpoint afterwards. It is not loaded again if ``verify`` did so.
            repo_id: Name of the repository; by default the name of the folder.
            **push_options: Options of :func:`hf_vbp.push_to_hub`.

        Returns:
            The receipt of :func:`hf_vbp.save_checkpoint`.

        Raises:
            CheckpointError: The folder is taken, the disk is full, or the checkpoint does not reload as the model.
            HubError: The push failed; the checkpoint is saved.
        """
        results = with_merging(self.results, self.model, self.inputs)
        files: dict[str, Content] = {
            PLAN: self.plan.to_json(),
            RESULTS: lambda receipt: to_json(with_receipt(results, receipt)),
        }
        receipt = save_checkpoint(
            self.model,
            save_directory,
            processor=processor,
            files=files,
            verify=verify,
            overwrite=overwrite,
            inputs=self.inputs,
        )
        if push_to_hub:
            from hf_vbp.hub.push import push_to_hub as push

            # The verification has just loaded the checkpoint.
            push_options.setdefault("check_load", not verify)
            push(os.fspath(save_directory), repo_id or Path(save_directory).resolve().name, **push_options)
        return receipt

    def push_to_hub(
        self, repo_id: str, *, processor: Any = None, verify: bool = True, **push_options: Any
    ) -> "PushResult":
        """Save the model to a temporary folder and push it to the Hub in one commit, with its card.

        Args:
            repo_id: ``OWNER/NAME``, or the name in the namespace of the user.
            processor: The image processor, pushed with the model.
            verify: Whether to reopen the checkpoint in a fresh process first.
            **push_options: Options of :func:`hf_vbp.push_to_hub`.

        Returns:
            The result of :func:`hf_vbp.push_to_hub`.

        Raises:
            CheckpointError: The checkpoint does not reload as the model.
            HubError: The push failed.
        """
        from hf_vbp.hub.push import push_to_hub as push

        with tempfile.TemporaryDirectory(prefix="hf-vbp-push-") as temporary:
            folder = Path(temporary) / repo_id.rpartition("/")[2]
            self.save_pretrained(folder, processor=processor, verify=verify)
            push_options.setdefault("check_load", not verify)
            return push(folder, repo_id, **push_options)


def with_receipt(results: dict[str, Any], receipt: Receipt) -> dict[str, Any]:
    """Return the results with the receipt of the checkpoint; without the key where nothing was verified."""
    return {**results, "receipt": receipt.to_list()} if receipt.entries else dict(results)
