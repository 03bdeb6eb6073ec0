"""Exports of a run's model to other runtimes, each loaded and compared before it is kept.

export.py      `lk.export`: resolves the run, starts the two processes below, moves the folder to its place
writer.py      a process with the backend that the format needs: loads `model.keras`, writes, computes the reference
reader.py      a process with the format's own runtime and NumPy alone: computes the same examples
proof.py       compares them, and measures latencies
formats/       one class for each format
evaluation.py  the metrics of an artifact on a split of the task
"""
