"""The task of `many_values.py` that workers of a search import: two moons, which measure their process."""

import os
import time

from lightkeras.system import memory
from lightkeras.testing import TwoMoons


class Measured(TwoMoons):
    """Appends the private memory of its process in MB, and the time, to the file that `MEASURED` names."""

    def build_model(self):
        with open(os.environ["MEASURED"], "a") as file:
            file.write(f"{memory.private_bytes(os.getpid()) / 1e6} {time.monotonic()}\n")
        return super().build_model()
