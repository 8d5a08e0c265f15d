"""``training.push_to_hub`` of a recipe: one push of the finished checkpoint, checked before any work."""

from dataclasses import dataclass
from pathlib import Path

from hf_vbp.distillation.arguments import DistillationArguments
from hf_vbp.errors import HubError
from hf_vbp.hub.push import check_push_target, push_to_hub
from hf_vbp.workflow.finetune.recipe import Recipe
from hf_vbp.workflow.requests import Reporter


@dataclass(frozen=True)
class Publication:
    """The target of a push.

    Attributes:
        directory: The folder of the finished checkpoint.
        repo_id: The repository.
        private: Whether a new repository is private.
        revision: The branch.
    """

    directory: Path
    repo_id: str
    private: bool | None
    revision: str | None

    def check(self) -> None:
        """Refuse a repository that cannot or must not be pushed to.

        Raises:
            HubError: The name is not valid, the repository has content, or the Hub cannot be reached.
        """
        check_push_target(self.repo_id, private=self.private, revision=self.revision)

    def push(self, reporter: Reporter) -> None:
        """Push the checkpoint, which was verified when it was saved.

        Raises:
            HubError: It could not be pushed; the message shows how to push it later.
        """
        try:
            pushed = push_to_hub(
                self.directory, self.repo_id, private=self.private, revision=self.revision, check_load=False
            )
        except HubError as error:
            raise HubError(
                f"{error} The model is saved in {self.directory}: push it with "
                f"`hf-vbp push {self.directory} {self.repo_id}`."
            ) from error
        for remark in pushed.plan.remarks:
            reporter.say(f"Note: {remark}")
        reporter.say(pushed.sentence)


def take_over_push(recipe: Recipe, args: DistillationArguments) -> Publication | None:
    """Return the push that a recipe asks for, and take it out of the settings of the run.

    ``Trainer`` would push its own folder at every save: pickled arguments and weights under other names, without plan,
    results and card.
    """
    if not args.push_to_hub:
        return None
    args.push_to_hub = False
    directory = Path(recipe.output).expanduser()
    return Publication(
        directory, str(args.hub_model_id or directory.resolve().name), args.hub_private_repo, args.hub_revision
    )
