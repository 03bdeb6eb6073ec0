"""The console command `lightkeras`, for what belongs to no experiment.

lightkeras report DIR                             # writes report.html of a run, or of several, anew
lightkeras replay DIR                             # says which class is needed, and runs nothing
lightkeras replay DIR --task experiment.py:Class  # runs the broken step again

Code runs only where it is named on the command line: a run directory may come from somebody else.
"""

from __future__ import annotations

import importlib.util
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonargparse
from rich.console import Console

from lightkeras.runs import report
from lightkeras.runs.directory import find_broken
from lightkeras.system import files
from lightkeras.system.messages import did_you_mean, raised_by_us

if TYPE_CHECKING:
    from lightkeras.task import Task


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        args: The arguments; `None` takes those of the process.

    Returns:
        The exit status: 0 if a report was written or a step was reproduced to the bit, 1 if it was not, 2 for a
        mistake in what was asked for.
    """
    settings = _parser().parse_args(list(sys.argv[1:] if args is None else args))
    try:
        if settings.subcommand == "report":
            print(report.write(settings.report.dir))
            return 0
        given = settings.replay
        folder = find_broken(Path(given.dir))
        if given.task is None:
            return _say_which(folder)
        task_class = load_task(given.task)
        from lightkeras.command_line import replay  # loads TensorFlow, which --help does not need

        return replay.run(task_class, folder, given.data_dir)
    except (ValueError, TypeError, OSError) as error:
        if not raised_by_us(error):
            raise
        Console(stderr=True, soft_wrap=True).print(f"error: {error}", markup=False, highlight=False)
        return 2


def load_task(named: str) -> type[Task]:
    """Imports a file, and gives a class of it. What stands below `if __name__ == "__main__"` does not run.

    Args:
        named: `FILE.py:ClassName`.

    Raises:
        ValueError: It is not written like that, or the file has no such class.
        FileNotFoundError: There is no such file.
    """
    file, colon, name = named.rpartition(":")
    if not colon or not file or not name.isidentifier():
        raise ValueError(f"--task {named!r}: expected FILE.py:ClassName.")
    path = Path(file).resolve()
    if not path.is_file():
        raise FileNotFoundError(f"--task {named!r}: there is no file {path}.")
    from lightkeras.task import Task  # before the file is run: it brings Keras

    module_name = f"task_of_{path.stem}"  # which is no other module's
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"--task {named!r}: {path.name} is no Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # where dataclasses look up the types of their fields
    sys.path.insert(0, str(path.parent))  # as for a file that is run
    spec.loader.exec_module(module)
    classes: dict[str, Any] = {
        key: value for key, value in vars(module).items() if isinstance(value, type) and issubclass(value, Task)
    }
    if name not in classes:
        raise ValueError(f"--task {named!r}: {path.name} has no task of that name. {did_you_mean(name, classes)}")
    task_class: type[Task] = classes[name]
    return task_class


def _say_which(folder: Path) -> int:
    """Says which class a bundle needs, and how to give it; nothing is run without the user's word."""
    state = files.read_json(folder / "state.json")
    console = Console(stderr=True, soft_wrap=True, markup=False, highlight=False)
    console.print(state["what_happened"])
    if state["file"] is None:
        console.print(
            f"The run was of the class {state['task']}, which no file of the user's defines. Give one that does: "
            f"--task FILE.py:{state['task']}, or call lk.replay(folder, task) from Python."
        )
        return 2
    command = shlex.join(["lightkeras", "replay", str(folder), "--task", f"{state['file']}:{state['task']}"])
    console.print(
        f"The run was of the class {state['task']} in {state['file']}. Repeating the step runs that file: if you "
        f"trust it, type\n\n  {command}"
    )
    return 2


def _parser() -> jsonargparse.ArgumentParser:
    replay = jsonargparse.ArgumentParser(
        description="Runs the step that broke a run again, and compares it with the run, bit for bit."
    )
    replay.add_argument("dir", type=str, help="The run directory, or a folder of its 'broken'.")
    replay.add_argument(
        "--task", type=str | None, default=None, help="FILE.py:ClassName, the file that is run for the task's class."
    )
    replay.add_argument("--data_dir", type=str | None, default=None, help="Folder looked into first for modules.")
    parser = jsonargparse.ArgumentParser(prog="lightkeras", description="lightkeras: what belongs to no experiment.")
    page = jsonargparse.ArgumentParser(
        description="Writes report.html from the files of a run, or of several runs side by side."
    )
    page.add_argument("dir", type=str, help="The run directory, or one that holds the runs of an experiment or search.")
    commands = parser.add_subcommands()
    commands.add_subcommand("report", page, help="write report.html anew")
    commands.add_subcommand("replay", replay, help="repeat the step that broke a run")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
