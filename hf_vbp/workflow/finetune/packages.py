"""Check before any work that the packages which a run would use are installed."""

from typing import TYPE_CHECKING, Any

from hf_vbp._packages import is_missing_package, missing_package

if TYPE_CHECKING:
    from hf_vbp.distillation.arguments import DistillationArguments


def check_packages(args: "DistillationArguments") -> None:
    """Refuse settings whose packages are not installed, which Trainer does only after pruning and loading.

    Args:
        args: The settings of the run.

    Raises:
        MissingPackageError: The optimizer or ``use_liger_kernel`` needs a package that is not installed.
        ValueError: An unknown reporter.
        RuntimeError: A reporter that is not installed.
    """
    _check_reporters(args.report_to)
    _check_optimizer(args)
    if args.use_liger_kernel:
        from transformers.utils import is_liger_kernel_available

        if not is_liger_kernel_available():
            raise missing_package(ImportError("liger-kernel (pip install liger-kernel)"), "training.use_liger_kernel")


def _check_reporters(names: Any) -> None:
    from transformers.integrations import get_reporting_integration_callbacks

    for callback in get_reporting_integration_callbacks(names):
        callback()


def _check_optimizer(args: "DistillationArguments") -> None:
    from transformers import Trainer

    try:
        Trainer.get_optimizer_cls_and_kwargs(args)
    except (ImportError, ValueError) as error:
        # Some optimizers are made for a model, which is not loaded yet; Trainer checks their settings.
        if is_missing_package(error):
            raise missing_package(error, f"training.optim={getattr(args.optim, 'value', args.optim)}") from error
