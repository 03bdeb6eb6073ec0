"""Train steps of one call, and train steps one by one, with the batch hooks of callbacks around each.

With such hooks, logs, checks and checkpoints stay what they are without: made after about 0.3 s of steps, and at
events.
"""

from __future__ import annotations

import time

from lightkeras.engine.base import StepLogs
from lightkeras.engine.stream import Stream
from lightkeras.training import decisions
from lightkeras.training.divergence.watchdog import Alarm, first_not_finite
from lightkeras.training.fit import Fit


def count_steps(fit: Fit, logs: StepLogs, seconds: float) -> tuple[StepLogs, Alarm | None]:
    """Counts the train steps of one call of `seconds`, up to the first whose loss is not finite.

    Returns:
        The logs of these steps, and an alarm if that loss is the last of them.
    """
    alarm = first_not_finite(logs, fit.state.step)
    logs = logs if alarm is None else logs.first(alarm.step - fit.state.step)
    _count(fit, logs, seconds)
    return logs, alarm


def _count(fit: Fit, logs: StepLogs, seconds: float) -> None:
    fit.train_stepper.add(logs, seconds)
    fit.state.step += logs.steps
    fit.state.batches_done += logs.steps


def run_by_batch(fit: Fit, stream: Stream, count: int) -> tuple[StepLogs, Alarm | None]:
    """Runs and counts train steps, until a hook asks to stop, or the loop has something else to do.

    A loss is checked after the next step has started, so that the backend may compute while Python works. A step that
    started after a loss that is not finite does not count: the recovery restores an earlier state.

    Args:
        fit: The fit.
        stream: Source of the batches.
        count: Maximum number of steps.

    Returns:
        The logs of the steps, and an alarm if the last loss is not finite.
    """
    state, stepper, hooks, done = fit.state, fit.train_stepper, fit.bridge.train_batches, list[StepLogs]()
    until = fit.clock() + decisions.TARGET_SECONDS
    try:
        while True:
            hooks.begin(state.batches_done)
            began = time.perf_counter()
            logs = stepper.program.run(stream, 1, waits=False)
            alarm = first_not_finite(done[-1], state.step - 1) if done else None
            if alarm is not None or not logs.steps:
                return StepLogs.joined(done or [logs]), alarm
            _count(fit, logs, time.perf_counter() - began)
            done.append(logs)
            hooks.end(state.batches_done - 1, stepper.means, stepper.metrics)
            ends = len(done) == count or fit.clock() >= until
            if fit.agreement.ends_call(ends or bool(fit.bridge.asked_to_stop) or bool(fit.interrupted)):
                return StepLogs.joined(done), first_not_finite(logs, state.step - 1)
    except BaseException:
        if done:  # the steps before an error are logged
            fit.log_steps(StepLogs.joined(done), sum(logs.waited for logs in done))
        raise
