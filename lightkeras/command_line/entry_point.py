"""The console command `lightkeras`, for run directories of any experiment, and for several processes.

lightkeras                                        # shows the commands; --version shows the version
lightkeras list runs/                             # runs below a folder; --by val/loss sorts them, --page writes a page
lightkeras compare RUN RUN                        # runs side by side: results, hyperparameters, code
lightkeras report DIR                             # rewrites report.html of a run, an experiment or a search
lightkeras launch --processes 2 FILE.py ...       # runs an experiment in several processes, which train together
lightkeras export RUN --format onnx              # writes RUN/export/onnx, loads and compares it
lightkeras replay DIR                             # prints the command to type; runs no code of the user
lightkeras replay DIR --task experiment.py:Class  # reruns the broken step

A file of the user runs only if it is named on the command line: a run directory may come from somebody else.
"""

from __future__ import annotations

import importlib.metadata
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import jsonargparse

from lightkeras.command_line import export, launch, list_runs
from lightkeras.runs import formats, report
from lightkeras.runs.directory import find_broken
from lightkeras.system import files
from lightkeras.system.console import Console, closed_output_ignored
from lightkeras.system.messages import raised_by_us
from lightkeras.training.task_file import load_task


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command with `args`, by default `sys.argv[1:]`, and returns its exit status.

    It is 0 if a table was printed, a report was written or a step was reproduced to the bit, 1 if a step was not
    reproduced, 2 for a wrong argument or a missing `--task`; of `launch`, that of the program.
    """
    words = list(sys.argv[1:] if args is None else args)
    parser = _parser()
    if not words:
        parser.print_help()
        return 0
    settings = parser.parse_args(words)
    try:
        if settings.subcommand == "report":
            with closed_output_ignored():
                print(report.write(settings.report.dir))
            return 0
        if settings.subcommand in ("list", "compare"):
            given = settings[settings.subcommand]
            page = None if given.page is None else Path(given.page)
            with closed_output_ignored():
                if settings.subcommand == "list":
                    list_runs.list_runs(Path(given.dir), given.by, page)
                else:
                    list_runs.compare([Path(path) for path in given.dirs], given.by, page)
            return 0
        if settings.subcommand == "launch":
            given = settings.launch
            return launch.launch([given.file, *given.args], given.processes, given.hosts, given.host, given.address)
        if settings.subcommand == "export":
            return export.run(settings.export)
        given = settings.replay
        folder = find_broken(Path(given.dir))
        if given.task is None:
            return _print_command(folder)
        task_class = load_task(given.task)
        from lightkeras.command_line import replay  # loads TensorFlow, which --help does not need

        return replay.run(task_class, folder, given.data_dir, trust_run=given.trust_run)
    except (ValueError, TypeError, OSError) as error:
        if not raised_by_us(error):
            raise
        Console(stderr=True, soft_wrap=True).print(f"error: {error}", markup=False, highlight=False)
        return 2


def _print_command(folder: Path) -> int:
    """Prints which class a broken step needs and the command that reruns it. Runs nothing."""
    state = files.read_json(folder / "state.json", formats.BrokenState, files.decode_float)
    console = Console(stderr=True, soft_wrap=True, markup=False, highlight=False)
    console.print(state["what_happened"])
    if state["file"] is None:
        console.print(
            f"The task's class is {state['task']}; the file that defines it is not recorded. Give it as "
            f"--task FILE.py:{state['task']}, or call lk.replay(folder, task) from Python."
        )
        return 2
    command = shlex.join(["lightkeras", "replay", str(folder), "--task", f"{state['file']}:{state['task']}"])
    console.print(
        f"The task's class is {state['task']} in {state['file']}. Rerunning the step runs that file. If you trust it, "
        f"type\n\n  {command}"
    )
    return 2


def _parser() -> jsonargparse.ArgumentParser:
    replay = jsonargparse.ArgumentParser(
        description="Reruns the step that broke a run, and compares it with the run bit for bit."
    )
    replay.add_argument("dir", type=str, help="Run directory, or a folder below its 'broken'.")
    replay.add_argument(
        "--task", type=str | None, default=None, help="FILE.py:ClassName. The file is imported, which runs it."
    )
    replay.add_argument("--data_dir", type=str | None, default=None, help="Folder to look in first for TF Hub modules.")
    replay.add_argument(
        "--trust_run", action="store_true", help="Run and download modules that only the files in dir name."
    )
    parser = jsonargparse.ArgumentParser(
        prog="lightkeras",
        description="Commands on run directories of any experiment. Those of one experiment: python FILE.py --help.",
        version=importlib.metadata.version("lightkeras"),
    )
    page = jsonargparse.ArgumentParser(
        description="Writes report.html from the files of a run, an experiment or a search."
    )
    page.add_argument("dir", type=str, help="Directory of a run, an experiment or a search.")
    commands = parser.add_subcommands()
    listing = jsonargparse.ArgumentParser(description="Lists the runs below a folder, or the trials of a search.")
    listing.add_argument("dir", type=str, help="Folder of runs, such as runs/, or the directory of a search.")
    comparison = jsonargparse.ArgumentParser(
        description="Shows runs side by side: results, and what differs in hyperparameters, code, data and versions."
    )
    comparison.add_argument(
        "dirs",
        type=str,
        nargs="+",
        help="Run directories. A search stands for its best trial, an experiment for its runs.",
    )
    for command in (listing, comparison):
        command.add_argument(
            "--by", type=str | None, default=None, help="Value to sort by, the best first, such as test/accuracy."
        )
        command.add_argument("--page", type=str | None, default=None, help="HTML file to write, with the curves too.")
    launched = jsonargparse.ArgumentParser(
        description="Runs an experiment in several processes, each of which computes a part of every batch."
    )
    launched.add_argument("--processes", type=int, default=2, help="Processes on this machine.")
    launched.add_argument("--hosts", type=int, default=1, help="Machines on which this command is typed.")
    launched.add_argument("--host", type=int, default=0, help="Number of this machine, from 0.")
    launched.add_argument(
        "--address", type=str | None, default=None, help="HOST:PORT of machine 0, the same on all of several machines."
    )
    launched.add_argument("file", type=str, help="The experiment, FILE.py.")
    launched.add_argument("args", nargs="...", help="Its arguments.")
    commands.add_subcommand("list", listing, help="list runs")
    commands.add_subcommand("compare", comparison, help="show runs side by side")
    commands.add_subcommand("report", page, help="rewrite report.html")
    commands.add_subcommand("launch", launched, help="run an experiment in several processes")
    commands.add_subcommand("export", export.parser(), help="export a run's model to another format")
    commands.add_subcommand("replay", replay, help="rerun the step that broke a run")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
