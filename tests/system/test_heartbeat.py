"""Heartbeats reach all listeners."""

from __future__ import annotations

import lightkeras as lk
from lightkeras.system import heartbeat
from lightkeras.testing import TwoMoons


def test_every_compiled_call_is_a_sign(tmp_path, monkeypatch):
    monkeypatch.setattr(heartbeat, "_listeners", [])
    heartbeat.beat()  # nobody listens
    beats = []
    heartbeat.listen(lambda: beats.append(1))
    runner = lk.Runner(
        max_epochs=2, run_dir=tmp_path / "run", progress=False, preflight=False, pictures=False, steps_per_call=5
    )
    runner.fit(TwoMoons())
    # Two epochs of ten steps, five at a time, and of validation: three batches, and the smaller last one.
    assert len(beats) == 2 * (2 + 2)
