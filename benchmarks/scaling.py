"""How far data parallel training scales, calculated: prints the tables of docs/scaling.md.

    python benchmarks/scaling.py

The times of a step on one device were measured (RESULTS.md, `gpu.py`); what an all-reduce of the gradients adds is
calculated from its bytes and from the links below, without any overlap with the arithmetic.
"""

from __future__ import annotations

import dataclasses
import math

HOST = 8
"""Devices of one host."""
INSIDE, BETWEEN = 360e9, 40e9
"""Bytes a second of one device inside a host and between hosts: 80 % of NVLink's 450 GB/s, and of 400 Gbit/s."""
START_INSIDE, START_BETWEEN = 20e-6, 15e-6
"""Seconds that an all-reduce of few bytes takes inside a host, and that each doubling of the hosts adds."""
DEVICES = (1, 2, 8, 16, 64, 256, 1024)


@dataclasses.dataclass(frozen=True)
class Network:
    name: str
    parameters: int  # with float32 gradients
    batch: int  # examples of a device, where their number is fixed
    start: float  # seconds of a step without examples, on one H200, on JAX
    example: float  # seconds that an example adds
    least: int = 0  # examples of the smallest batch that was measured: smaller ones are taken to be as slow

    def step(self, batch: float) -> float:
        return self.start + self.example * max(batch, self.least)


NETWORKS = (
    # From 46.8 us at batch 32 and 99.9 us at 512.
    Network("dense network", 101_770, 512, 43.3e-6, 0.1106e-6),
    # From 1740 us at batch 64 alone.
    Network("transformer", 5_256_714, 64, 0.0, 27.2e-6, least=64),
)
LARGE_BATCH = 4096


def all_reduce(size: float, devices: int) -> float:
    """Seconds to sum `size` bytes over devices: inside each host, then each part between hosts, then back."""
    if devices == 1:
        return 0.0
    inside, hosts = min(devices, HOST), math.ceil(devices / HOST)
    seconds = START_INSIDE + 2 * (inside - 1) / inside * size / INSIDE
    if hosts > 1:
        seconds += START_BETWEEN * math.log2(hosts) + 2 * (hosts - 1) / hosts * size / inside / BETWEEN
    return seconds


def rows(network: Network, batch: int | None) -> list[tuple[int, float, float, float]]:
    """Devices, seconds of arithmetic and of the all-reduce, and examples a second over those of one device.

    `batch` is the global batch; `None` gives each device `network.batch` examples.
    """
    found = []
    for devices in DEVICES:
        share = network.batch if batch is None else batch / devices
        compute, reduce = network.step(share), all_reduce(4 * network.parameters, devices)
        alone = network.step(share * devices) if batch is not None else network.step(share) * devices
        found.append((devices, compute, reduce, alone / (compute + reduce)))
    return found


def main() -> None:
    for network in NETWORKS:
        for batch in (None, LARGE_BATCH):
            examples = f"{network.batch} examples a device" if batch is None else f"{batch} examples in all"
            print(f"\n{network.name}, {network.parameters:,} parameters, {examples}\n")
            print("| devices | arithmetic | all-reduce | speed over one device | efficiency |\n|---|---|---|---|---|")
            for devices, compute, reduce, speed in rows(network, batch):
                times = f"{compute * 1e6:,.0f} us | {reduce * 1e6:,.0f} us"
                print(f"| {devices} | {times} | {speed:,.1f} | {speed / devices:.0%} |")


if __name__ == "__main__":
    main()
