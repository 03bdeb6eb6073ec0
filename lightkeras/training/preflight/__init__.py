"""What is checked before the first epoch, so that a mistake costs seconds and nothing is lost.

Always, because nothing can be compiled without it:
    check_feed          sizes of the splits, labels against the loss
    trace_train         the step minimizes something that the task holds, and its loss reaches the models
    trace_evaluate      the evaluation takes its batches, and learns nothing
    epoch_names         every value has a name of its own
    check_monitor       what is monitored is logged

Unless it is switched off, `run`:
    check_finite        numbers of the splits in memory are finite
    warn_of_...         the splits do not share examples, and hold numbers of one kind
    check_saved         every variable comes back from a checkpoint as it was
    warn_of_missing_config  the model can be written to model.keras at the end
    try_steps           both steps run on a first and a smaller last batch: losses and gradients are
                        finite, variables move, names stay, the set of variables stays

Everything that was run is put back: not a bit differs afterwards. Nothing is written.
"""

from lightkeras.engine.base import Engine, Trace
from lightkeras.task import Task
from lightkeras.training.preflight.saved import check_saved, warn_of_missing_config
from lightkeras.training.preflight.splits import check_finite, warn_of_other_inputs, warn_of_shared_examples
from lightkeras.training.preflight.trial import try_steps
from lightkeras.training.stepper import Stepper


def run(task: Task, engine: Engine, trace: Trace, train_stepper: Stepper, validation_stepper: Stepper | None) -> None:
    """Does the checks that can be switched off, the cheap ones first.

    Args:
        task: The task; its steps were traced, its optimizers are built.
        engine: Its engine.
        trace: What `trace_train` gave.
        train_stepper: The train step over the train split.
        validation_stepper: The evaluation step over the validation split; `None` if there is none.

    Raises:
        TaskError: The task cannot be run as it is.
        ValueError: A split cannot be learned from.
    """
    check_finite(train_stepper.feed, "train")
    if validation_stepper is not None:
        check_finite(validation_stepper.feed, "validation")
        warn_of_other_inputs(train_stepper.feed, validation_stepper.feed)
        warn_of_shared_examples(train_stepper.feed, validation_stepper.feed)
    check_saved(task)
    warn_of_missing_config(task)
    try_steps(task, engine, trace, train_stepper, validation_stepper)
