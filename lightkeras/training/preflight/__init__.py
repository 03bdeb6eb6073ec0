"""Preflight: checks before the first epoch, so that a mistake costs seconds.

Always, because nothing can be compiled without them:
    check_feed          sizes of the splits, labels against the loss
    trace_train         the step minimizes variables of the task, and its loss depends on the models
    trace_evaluate      the evaluation step takes its batches, and minimizes nothing
    epoch_names         the names of the logged values are unique
    check_monitor       the monitored value is logged

With `Runner(preflight=True)`, the default, also `run` (0.7 s for a dense MNIST network on two cores):
    check_finite        numbers of the splits in memory are finite, unless the step takes those that are not
    warn_of_...         the splits share no examples, and have the same kinds of numbers
    check_saved         a checkpoint restores every variable to the bit
    warn_of_missing_config  the model can be written to model.keras at the end
    try_steps           both steps run on the first and on a smaller last batch: losses and gradients are
                        finite, variables change, names and the set of variables stay the same

An error is raised for what nobody intends, a warning for what may be intended. All state is restored to the bit, and
nothing is written.
"""

import warnings

from lightkeras.system.value_names import within
from lightkeras.training.freezing import TracedSteps
from lightkeras.training.preflight.saved import check_saved, warn_of_missing_config
from lightkeras.training.preflight.splits import (
    NotFiniteDataError,
    check_finite,
    warn_of_other_inputs,
    warn_of_shared_examples,
)
from lightkeras.training.preflight.trial import takes_example, try_steps
from lightkeras.training.stepper import Stepper


def run(traced: TracedSteps, skips_broken: bool = False, has_callbacks: bool = False, overfits: bool = False) -> None:
    """Runs the checks that can be switched off, cheap ones first; the flags are those of `try_steps`.

    With `overfits`, validation is meant to be on train batches.

    Raises:
        TaskError: A step of the task does not work.
        ValueError: The data of a split cannot be used.
    """
    train = traced.train_stepper
    _check_finite(traced, train, "train")
    for name, validation in traced.validation_steppers.items():
        split = within("validation", name)
        _check_finite(traced, validation, split)
        warn_of_other_inputs(train.feed, validation.feed, split)
        if not overfits:
            warn_of_shared_examples(train.feed, validation.feed, split)
    check_saved(traced.task)
    warn_of_missing_config(traced.task)
    try_steps(traced, skips_broken, has_callbacks)


def _check_finite(traced: TracedSteps, stepper: Stepper, split: str) -> None:
    """Checks that the numbers of a split are finite, or that the step takes others, such as a label that is missing."""
    encoder = traced.task.frozen()
    try:
        check_finite(stepper.feed, split, fills_missing=encoder is not None and encoder.fills_missing)
    except NotFiniteDataError as error:
        if not takes_example(traced, stepper, error.example):
            raise
        warnings.warn(
            f"{error} {type(traced.task).__name__} computes finite values from that example, so it is used.",
            UserWarning,
            stacklevel=2,
        )
