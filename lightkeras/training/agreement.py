"""What the processes of a run agree on between two calls of the compiled step, so that all take the same way.

What depends on a clock is decided by the process that writes; a signal, or a callback that asks to stop, counts for
all of them. In a run of one process nothing is exchanged, and every value is that of the moment.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, final

import keras

from lightkeras.engine.world import World, checksums
from lightkeras.system.signals import StopSignals
from lightkeras.training.callbacks.bridge import CallbackBridge
from lightkeras.training.divergence.recovery import Recovery
from lightkeras.training.saver import Saver
from lightkeras.training.stepper import CallTimes


@final
class Agreement:
    """The agreements of one fit.

    Args:
        world: The processes.
        signals: Signals that this process received.
        bridge: The callbacks.
        saver: The checkpoints.
        recovery: Checks and snapshots.
        clock: Returns the seconds since the fit began.
        calls: The times of the calls of the train step.
    """

    def __init__(
        self,
        world: World,
        signals: StopSignals,
        bridge: CallbackBridge,
        saver: Saver,
        recovery: Recovery,
        clock: Callable[[], float],
        calls: CallTimes,
    ) -> None:
        self._world, self._signals, self._bridge, self._clock, self._calls = world, signals, bridge, clock, calls
        self._saver, self._recovery = saver, recovery
        self._alone = world.processes == 1
        self._signal: str | None = None
        self._stop: str | None = None
        self._elapsed = 0.0

    @property
    def signal(self) -> str | None:
        """The signal that asked the run to stop; `None` if none did."""
        return self._signals.received if self._alone else self._signal

    @property
    def asked_to_stop(self) -> str | None:
        """See `CallbackBridge.asked_to_stop`; of any process."""
        return self._bridge.asked_to_stop if self._alone else self._stop

    @property
    def elapsed(self) -> float:
        """Seconds since the fit began."""
        return self._clock() if self._alone else self._elapsed

    def update(self) -> None:
        """Exchanges what was decided, if there are other processes; all of them call it at the same place."""
        if self._alone:
            return
        mine = {
            "signal": self._signals.received,
            "stop": self._bridge.asked_to_stop,
            **({"elapsed": self._clock(), **self._timing()} if self._world.is_writer else {}),
        }
        found = self._world.agree("between two calls", mine)
        self._signal = _first_of(found, "signal")
        self._stop = _first_of(found, "stop")
        self._elapsed = found[0]["elapsed"]
        self._saver.agreed, self._recovery.agreed = tuple(found[0]["saver"]), tuple(found[0]["watchdog"])
        self._calls.seconds_per_step = found[0]["step"]

    def stops(self) -> bool:
        """Updates, and returns whether a signal asked the run to stop."""
        self.update()
        return self.signal is not None

    def ends_call(self, ends: bool) -> bool:
        """Whether a call with the hooks of every batch ends here, by this process or by another one."""
        return ends if self._alone else self._world.any("a batch", ends or self._signals.received is not None)

    def check_replicas(self, variables: Mapping[str, keras.Variable], epoch: int) -> None:
        """Checks that all processes have the same weights after an epoch.

        Raises:
            ValueError: They differ; the message names the ranks and the variables.
        """
        if self._alone:
            return
        sums = checksums(variables)
        expected, *others = self._world.agree("weights", sum(sums.values()))
        if any(other != expected for other in others):
            named = {variable.path: sums[key] for key, variable in variables.items()}
            self._world.check_same(
                f"variables after epoch {epoch}",
                named,
                "Something changes them that is not the same in every process: a callback, a random number, or a state "
                "outside of the step.",
            )

    def _timing(self) -> dict[str, Any]:
        return {
            "saver": self._saver.timing(),
            "watchdog": self._recovery.timing(),
            "step": self._calls.seconds_per_step,  # the steps of the next call depend on it
        }


def _first_of(found: list[dict[str, Any]], name: str) -> str | None:
    return next((values[name] for values in found if values[name] is not None), None)
