"""The command line of an experiment: `lk.cli(MyTask)`.

    python experiment.py [flags]                 fit, then test the best weights
    python experiment.py fit [flags]             fit alone
    python experiment.py --resume --run_dir DIR  go on with a run
    python experiment.py test --run_dir DIR      test the weights of a run
    python experiment.py predict --run_dir DIR "a text" ...
    python experiment.py replay --run_dir DIR    run the step that broke a run again
    python experiment.py tune [flags]            search the declared ranges
    python experiment.py find_learning_rate [flags]
    python experiment.py find_batch_size [flags] suggest where to begin

The flags are the hyperparameters (`--hp.`), the settings of the runner (`--runner.`), of the tuner
(`--tuner.`) and of the finders (`--find.`), where data is looked for, and the run directory;
jsonargparse makes them from the declarations, and reads any of them from `--config file.yaml`.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

import jsonargparse
from rich.console import Console
from rich.table import Table

from lightkeras import files, hparams, resuming
from lightkeras._messages import did_you_mean, raised_by_us
from lightkeras.data.lookup import Lookup
from lightkeras.results import BatchSizes, EvalResult, FitResult, SearchResult, Trial
from lightkeras.run_directory import RunDirectory, path_of, snake_case
from lightkeras.runner import Interrupted, Runner
from lightkeras.saving import Checkpoints
from lightkeras.settings import LimitBatches
from lightkeras.task import Task

COMMANDS = {
    "fit": "train, and keep the best weights",
    "test": "test the weights of a run",
    "predict": "predict for texts on the command line, or one per line on standard input (-)",
    "replay": "run the step that broke a run again, and compare it bit for bit",
    "tune": "search the declared ranges of the hyperparameters",
    "find_learning_rate": "suggest a learning rate, by a range test, and draw its curve",
    "find_batch_size": "suggest the largest batch, of powers of two, that fits into the memory",
}
USAGES = {
    None: "[COMMAND] [flags]",
    "fit": "[flags]",
    "test": "--run_dir RUN_DIR [flags]",
    "predict": "--run_dir RUN_DIR [flags] TEXT ...",
    "replay": "--run_dir RUN_DIR [flags]",
    "tune": "[flags]",
    "find_learning_rate": "[flags]",
    "find_batch_size": "[flags]",
}
SourceName = Literal["auto", "real", "sample"]


def cli(task_class: type[Task], args: Sequence[str] | None = None, **runner_defaults: Any) -> None:
    """Runs an experiment from the command line.

    Args:
        task_class: The task.
        args: The arguments; `None` takes those of the process.
        **runner_defaults: Settings of `Runner` that differ from its own defaults in this experiment.

    Raises:
        SystemExit: With status 2 for a mistake in what was asked for, 1 for a run that diverged, a
            search without a success or a finder without a suggestion.
    """
    Runner(**runner_defaults)  # a wrong default is the experiment's mistake, not the user's
    words = list(sys.argv[1:] if args is None else args)
    command = words.pop(0) if words and words[0] in COMMANDS else None
    parser = _parser(task_class, command, runner_defaults)
    settings = parser.parse_args(words)

    def given() -> jsonargparse.Namespace:
        return parser.parse_args(words, defaults=False)

    actions: dict[str | None, Callable[[], int]] = {
        None: lambda: _fit(task_class, settings, runner_defaults, given(), then_test=True),
        "fit": lambda: _fit(task_class, settings, runner_defaults, given(), then_test=False),
        "test": lambda: _test(task_class, settings),
        "predict": lambda: _predict(task_class, settings),
        "replay": lambda: _replay(task_class, settings),
        "tune": lambda: _tune(task_class, settings, runner_defaults, given()),
        "find_learning_rate": lambda: _find_learning_rate(task_class, settings, runner_defaults),
        "find_batch_size": lambda: _find_batch_size(task_class, settings, runner_defaults),
    }
    try:
        status = actions[command]()
    except (ValueError, TypeError, OSError, NotImplementedError) as error:
        if not raised_by_us(error):
            raise
        _say_error(error)
        status = 2
    if status:
        raise SystemExit(status)


# ---------------------------------------------------------------------- commands


def _fit(
    task_class: type[Task],
    settings: jsonargparse.Namespace,
    runner_defaults: dict[str, Any],
    given: jsonargparse.Namespace,
    then_test: bool,
) -> int:
    path = path_of(settings.run_dir, snake_case(task_class.__name__))
    resume: bool | Path = settings.resume
    runner, hp = {**runner_defaults, **_settings_of(settings.runner)}, vars(settings.hp)
    lookup = _lookup(settings)
    if resume:
        if settings.run_dir is None:
            raise ValueError("--resume, but of which run? Give its --run_dir.")
        directory, wanted = resuming.place_of(path)
        path, resume = directory.path, wanted or True
        runner, hp, lookup = _as_before(directory, runner, hp, lookup, given)
    made = Runner(**{**runner, "run_dir": path})
    task = task_class(hparams.from_dict(task_class.HParams, hp), lookup)
    if settings.dry_run:
        return _dry_run(made, task, resume, settings.accept_changes)
    try:
        fitted = made.fit(task, resume=resume, accept_changes=settings.accept_changes)
    except Interrupted as stop:
        _report_fit(stop.result, None)
        raise
    if fitted.epochs:
        _draw_curves(fitted)
    tested = made.evaluate(task, weights="best") if then_test and fitted.best is not None and _has_test(task) else None
    _report_fit(fitted, tested)
    return 1 if fitted.diverged else 0


def _as_before(
    directory: RunDirectory,
    runner: dict[str, Any],
    hp: dict[str, Any],
    lookup: Lookup,
    given: jsonargparse.Namespace,
) -> tuple[dict[str, Any], dict[str, Any], Lookup]:
    """Settings of the run in a directory, and over them what was given on the command line."""
    if not directory.config_file.exists():
        return runner, hp, lookup
    config = resuming.read_run(directory)
    recorded = {name: value for name, value in config["runner"].items() if name in runner and name != "callbacks"}
    places = {"source": lookup.source, "data_dir": lookup.data_dir}
    before = {name: config.get("lookup", {}).get(name, value) for name, value in places.items()}
    over = {name: value for name, value in places.items() if name in given}
    return (
        {**runner, **_settings_of(recorded), **_settings_of(given.get("runner", {}), recorded)},
        {**config.get("hparams", {}), **(vars(given.hp) if "hp" in given else {})},
        Lookup(**{**before, **over}),
    )


def _settings_of(given: Any, before: dict[str, Any] | None = None) -> dict[str, Any]:
    """Settings of a runner from the command line or from JSON; groups of settings as what they are.

    Args:
        given: The settings.
        before: Settings of which a group given in part takes the rest.
    """
    settings = dict(given if isinstance(given, dict) else vars(given))
    for name, kind in {"limit_batches": LimitBatches, "checkpoints": Checkpoints}.items():
        if name in settings and not isinstance(settings[name], kind):
            group = settings[name] if isinstance(settings[name], dict) else vars(settings[name])
            settings[name] = kind(**{**(before or {}).get(name, {}), **group})
    return settings


def _dry_run(runner: Runner, task: Task, resume: bool | Path, accept_changes: bool) -> int:
    names = runner.check(task, resume=resume, accept_changes=accept_changes)
    Console().print(f"It can be run. Each epoch will log {', '.join(names)}.", highlight=False, soft_wrap=True)
    return 0


def _test(task_class: type[Task], settings: jsonargparse.Namespace) -> int:
    task, runner = _of_run(task_class, settings)
    result = runner.evaluate(task, weights=settings.weights)
    console = Console()
    console.print(_table({"test": result.metrics}))
    console.print(f"{settings.weights} weights, {result.examples:,} examples, {result.wall_s:.1f} s", highlight=False)
    return 0


def _predict(task_class: type[Task], settings: jsonargparse.Namespace) -> int:
    inputs: list[str] = settings.inputs
    if inputs == ["-"]:
        inputs = [line.rstrip("\n") for line in sys.stdin]
    task, runner = _of_run(task_class, settings)
    task.set_up(runner.seed)
    if task.data is None:
        raise ValueError(f"{task_class.__name__} has no data module that could read inputs.")
    outputs = runner.predict(task, task.data.predict(inputs), weights=settings.weights)
    columns = outputs if isinstance(outputs, dict) else {"prediction": outputs}
    for number, given in enumerate(inputs):
        row = {name: column[number].tolist() for name, column in columns.items()}
        print(json.dumps({"input": given, **row}, ensure_ascii=False))
    return 0


def _replay(task_class: type[Task], settings: jsonargparse.Namespace) -> int:
    from lightkeras import replaying

    return replaying.run(task_class, Path(settings.run_dir), settings.data_dir, settings.source)


def _tune(
    task_class: type[Task],
    settings: jsonargparse.Namespace,
    runner_defaults: dict[str, Any],
    given: jsonargparse.Namespace,
) -> int:
    from lightkeras.tuner import Tuner

    console = Console()

    def say(trial: Trial) -> None:
        value = "failed" if trial.objective is None else f"{trial.objective:.4f}"
        values = "  ".join(f"{name} {_short(trial.hparams[name])}" for name in searched)
        console.print(f"trial {trial.name}  {value}  {values}", highlight=False)

    fixed = vars(given.hp) if "hp" in given else {}
    searched = [name for name in hparams.search_space(task_class.HParams) if name not in fixed]
    path = path_of(settings.run_dir, f"{snake_case(task_class.__name__)}_search")
    tuner = Tuner(
        task_class,
        **vars(settings.tuner),
        run_dir=path,
        runner=Runner(**{**runner_defaults, **_settings_of(settings.runner)}),
        lookup=_lookup(settings),
        fixed=fixed,
        on_trial=say,
    )
    result = tuner.search()
    _report_search(result)
    return 0 if result.best is not None else 1


def _find_learning_rate(
    task_class: type[Task], settings: jsonargparse.Namespace, runner_defaults: dict[str, Any]
) -> int:
    path = path_of(settings.run_dir, f"{snake_case(task_class.__name__)}_learning_rate")
    runner = Runner(**{**runner_defaults, **_settings_of(settings.runner), "run_dir": path})
    task = task_class(hparams.from_dict(task_class.HParams, vars(settings.hp)), _lookup(settings))
    found = runner.find_learning_rate(task, **vars(settings.find))
    lines = {"found": "no suggestion" if found.suggestion is None else f"{found.suggestion:.2g}"}
    lines |= {"why": found.reason, "took": f"{found.wall_s:.1f} s", "figure": str(found.figure)}
    _print_lines(Console(), lines)
    return 1 if found.suggestion is None else 0


def _find_batch_size(task_class: type[Task], settings: jsonargparse.Namespace, runner_defaults: dict[str, Any]) -> int:
    runner = Runner(**{**runner_defaults, **_settings_of(settings.runner)})
    task = task_class(hparams.from_dict(task_class.HParams, vars(settings.hp)), _lookup(settings))
    found = runner.find_batch_size(task, **vars(settings.find))
    console = Console()
    console.print(_table_of_sizes(found))
    lines = {"found": "no suggestion" if found.suggestion is None else str(found.suggestion)}
    _print_lines(console, lines | {"why": found.reason, "took": f"{found.wall_s:.1f} s"})
    return 1 if found.suggestion is None else 0


def _of_run(task_class: type[Task], settings: jsonargparse.Namespace) -> tuple[Task, Runner]:
    """The task of a run as it was, and a runner on its directory."""
    config = RunDirectory(Path(settings.run_dir)).read_config()
    if "search" in config:
        raise ValueError(f"{settings.run_dir} holds a search: give one of its runs, such as {_best_trial(settings)}.")
    if config.get("task") != task_class.__name__:
        raise ValueError(
            f"{settings.run_dir} holds a run of {config.get('task')}, not of {task_class.__name__}. "
            "Use the experiment it was made with."
        )
    recorded = config.get("lookup", {})
    source = "sample" if config.get("source") == "sample" else recorded.get("source", "auto")
    lookup = Lookup(settings.source or source, settings.data_dir or recorded.get("data_dir"))
    task = task_class(hparams.from_dict(task_class.HParams, config.get("hparams", {})), lookup)
    return task, Runner(run_dir=settings.run_dir, seed=config.get("seed", 0))


def _best_trial(settings: jsonargparse.Namespace) -> str:
    """The directory of the best trial of a search, as far as it is known."""
    result = RunDirectory(Path(settings.run_dir)).result_file
    best = (files.read_json(result) if result.exists() else {}).get("search", {}).get("best")
    return str(best["run_dir"]) if best else f"{settings.run_dir}/trials/0000"


def _has_test(task: Task) -> bool:
    return task.data is not None and task.data.test() is not None


def _lookup(settings: jsonargparse.Namespace) -> Lookup:
    lookup = Lookup(settings.source, settings.data_dir)
    lookup.record()  # a folder that is not there is refused before anything is made
    return lookup


# ---------------------------------------------------------------------- flags


class _Parser(jsonargparse.ArgumentParser):
    """A parser whose errors speak of flags, and list those there are, the nearest first."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        Console(stderr=True, soft_wrap=True).print(
            f"{self.prog}: error: {self._in_our_words(message)}", markup=False, highlight=False
        )
        raise SystemExit(2)

    def _in_our_words(self, message: str) -> str:
        flags = [
            flag
            for action in self._actions
            if action.help is not jsonargparse.SUPPRESS
            for flag in action.option_strings
            if flag.startswith("--")
        ]
        message = re.sub(r'Parser key "([\w.]+)":\s+', r"--\1: ", message)
        message = re.sub(r"\ba <class '(\w+)'>", r"\1", message).replace("a typing.Literal", "one of ")
        if found := re.search(r"Does not validate against any of .*?\n.*?Given value: (.*)", message, re.DOTALL):
            kinds = " or ".join(re.findall(r"- Expected (\w+)", found[0])).replace("NoneType", "null")
            message = f"{message[: found.start()]}Expected {kinds}. Got value: {found[1]}"
        if message.startswith("the following arguments are required"):
            return re.sub(r"\b\w+\b(?=,|$)", lambda found: self._flag_of(found[0]), message)
        if found := re.fullmatch(r"Group '(\w+)' does not accept option '(\w+)'", message):
            group = f"--{found[1]}."
            names = [flag.removeprefix(group) for flag in flags if flag.startswith(group)]
            return f"{found[1]} has no {found[2]!r}. {did_you_mean(found[2], names)}"
        if not message.startswith("unrecognized arguments"):
            return message
        words = [word.split("=")[0] for word in message.split()[2:]]
        wrong = next((word for word in words if word.startswith("--")), words[0])
        if not wrong.startswith("--") and (Path(wrong) / "config.json").is_file():
            return f"{message}\n{wrong!r} is a run directory, which is given as --run_dir {wrong}."
        if wrong in COMMANDS:
            return f"{message}\n{wrong!r} is a command, of which there is one, in front of all flags."
        if wrong.startswith("--tuner."):
            return f"{message}\nThe flags --tuner. belong to the command tune."
        if wrong.startswith("--find."):
            return f"{message}\nThe flags --find. belong to the commands find_learning_rate and find_batch_size."
        return f"{message}\n{did_you_mean(wrong, flags if wrong.startswith('--') else COMMANDS)}"

    def _flag_of(self, name: str) -> str:
        return next((flag for action in self._actions if action.dest == name for flag in action.option_strings), name)


def _parser(task_class: type[Task], command: str | None, runner_defaults: dict[str, Any]) -> _Parser:
    program = Path(sys.argv[0]).name
    what = inspect.getdoc(task_class) or task_class.__name__
    if command is None:
        width = max(map(len, COMMANDS))
        commands = "\n".join(f"  {name:{width}} {text}" for name, text in COMMANDS.items())
        what = (
            f"{what.splitlines()[0]} Without a command: fit, then test the best weights.\n\n"
            f"commands ({program} COMMAND --help says more):\n{commands}"
        )
    else:
        what = f"{task_class.__name__}: {COMMANDS[command]}."
    parser = _Parser(
        prog=program if command is None else f"{program} {command}",
        usage=f"%(prog)s {USAGES[command]}",
        description=what,
        allow_abbrev=False,
        formatter_class=_Formatter,
    )
    if command in ("test", "predict", "replay"):
        _add_run_flags(parser, command)
        return parser
    parser.add_argument("--config", action="config", help="YAML file that may give any of the flags.")
    parser.add_class_arguments(task_class.HParams, "hp")
    parser.add_class_arguments(Runner, "runner", skip={"run_dir", "callbacks"})
    flags = {action.dest for action in parser._actions}
    defaults = {f"runner.{name}": value for name, value in runner_defaults.items()}
    parser.set_defaults({name: value for name, value in defaults.items() if name in flags})
    if command == "tune":
        from lightkeras.tuner import Tuner

        skipped = {"task", "run_dir", "runner", "lookup", "fixed", "on_trial"}
        parser.add_class_arguments(Tuner, "tuner", skip=skipped)
    if command in ("find_learning_rate", "find_batch_size"):
        parser.add_method_arguments(Runner, command, "find", skip={"task", "train", "batch_size"})
    if command != "find_batch_size":  # which writes nothing
        parser.add_argument("--run_dir", type=str | None, default=None, help="Run directory. Null: a new one in runs/.")
    if command in (None, "fit"):
        parser.add_argument("--resume", action="store_true", help=_RESUME)
        parser.add_argument("--accept_changes", action="store_true", help=_ACCEPT_CHANGES)
        parser.add_argument("--dry_run", action="store_true", help=_DRY_RUN)
    parser.add_argument("--data_dir", type=str | None, default=None, help=_DATA_DIR)
    parser.add_argument("--source", type=SourceName, default="auto", help=_SOURCE)
    _say_ranges(parser, task_class)
    _say_null(parser)
    _hide_groups(parser)
    return parser


_RESUME = (
    "Go on with the run in --run_dir, or from that checkpoint of one, with its settings where none are given; "
    "begin it if there is none."
)
_ACCEPT_CHANGES = "Go on though data or hyperparameters are not those that the run was started with."
_DRY_RUN = "Check everything that can be checked before the first epoch, also of a resume, and stop there."
_DATA_DIR = "Folder looked into first for data and modules. Null: $LIGHTKERAS_DATA_DIR."
_SOURCE = "real: never the built-in sample. sample: only that. auto: the sample where nothing else is found."


def _add_run_flags(parser: _Parser, command: str) -> None:
    parser.add_argument("--run_dir", type=str, required=True, help="Run directory of the fit.")
    if command != "replay":
        parser.add_argument("--weights", type=Literal["best", "last"], default="best", help="Which weights to use.")
    parser.add_argument("--data_dir", type=str | None, default=None, help=f"{_DATA_DIR} Default: that of the fit.")
    parser.add_argument("--source", type=SourceName | None, default=None, help=f"{_SOURCE} Default: that of the fit.")
    if command == "predict":
        parser.add_argument("inputs", nargs="+", type=str, help="Texts, or - for one per line on standard input.")


def _say_ranges(parser: _Parser, task_class: type[Task]) -> None:
    for name, found in hparams.search_space(task_class.HParams).items():
        for action in parser._actions:
            if action.dest == f"hp.{name}":
                action.help = f"{action.help or ''} Searched: {found}."


def _say_null(parser: _Parser) -> None:
    """Says `null`, as flags and YAML do, where docstrings say `None`; and leaves out their marks."""
    for action in parser._actions:
        if action.help is not None and action.help is not jsonargparse.SUPPRESS:
            action.help = action.help.replace("`None`", "null").replace("`", "")


def _hide_groups(parser: _Parser) -> None:
    """Leaves `--hp FILE` and its like out of the help: `--config` reads them all."""
    for action in parser._actions:
        if action.dest in ("hp", "runner", "tuner", "find", "runner.limit_batches", "runner.checkpoints"):
            action.help = jsonargparse.SUPPRESS


class _Formatter(jsonargparse.DefaultHelpFormatter):
    """Keeps the line breaks of the description."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(indent + line for line in text.splitlines())


# ---------------------------------------------------------------------- what a person sees


def _draw_curves(fitted: FitResult) -> None:
    from lightkeras import plots

    best = fitted.best.epoch if fitted.best is not None else None
    plots.curves(fitted.history, RunDirectory(fitted.run_dir).figures / "curves.png", best_epoch=best)


def _report_fit(fitted: FitResult, tested: EvalResult | None) -> None:
    console = Console()
    splits: dict[str, Any] = {}
    for name, value in (fitted.best.logs if fitted.best is not None else {}).items():
        split, plain = name.split("/", 1)
        splits.setdefault(split, {})[plain] = value
    if tested is not None:
        splits["test"] = tested.metrics
    if fitted.best is not None:
        console.print(_table(splits))
    best = fitted.best
    lines = (
        {} if best is None else {"best": f"epoch {best.epoch} of {max(fitted.epochs, best.epoch)}, by {fitted.monitor}"}
    )
    lines |= {
        "stopped": f"{fitted.stop_reason} ({fitted.epochs} epochs, {fitted.steps:,} steps, {fitted.wall_s:.1f} s)",
        "run": str(fitted.run_dir),
        "look": f"tensorboard --logdir {fitted.run_dir}",
    }
    _print_lines(console, lines)


def _report_search(result: SearchResult) -> None:
    console = Console()
    failed = sum(trial.objective is None for trial in result.trials)
    lines = {"trials": f"{len(result.trials)}, {failed} failed, {result.wall_s:.1f} s"}
    if result.best is None:
        lines["best"] = f"none: every trial failed, the last with: {result.trials[-1].reason}"
    else:
        values = ", ".join(f"{name}={_short(value)}" for name, value in result.best.hparams.items())
        lines["best"] = f"{result.objective} {result.best.objective:.4f} with {values}"
        lines["test it"] = f"python {sys.argv[0]} test --run_dir {result.best.run_dir}"
    lines |= {"search": str(result.run_dir), "look": f"tensorboard --logdir {result.run_dir}"}
    _print_lines(console, lines)


def _print_lines(console: Console, lines: dict[str, str]) -> None:
    for name, text in lines.items():
        console.print(f"{name:>8}  {text}", highlight=False, markup=False, soft_wrap=True)


def _table(splits: dict[str, Any]) -> Table:
    table = Table()
    table.add_column("")
    names = list(dict.fromkeys(name for values in splits.values() for name in values))
    for name in names:
        table.add_column(name, justify="right")
    for split, values in splits.items():
        table.add_row(split, *(f"{values[name]:.4f}" if name in values else "" for name in names))
    return table


def _table_of_sizes(found: BatchSizes) -> Table:
    table = Table()
    for name in ("batch size", "fits", "ms per step", "examples per s", "memory, MB"):
        table.add_column(name, justify="right")
    for tried in found.tried:
        time = "" if tried.seconds_per_step is None else f"{1000 * tried.seconds_per_step:,.2f}"
        speed = "" if tried.examples_per_second is None else f"{tried.examples_per_second:,.0f}"
        memory = "" if tried.memory_bytes is None else f"{tried.memory_bytes / 1e6:,.0f}"
        table.add_row(str(tried.size), "yes" if tried.fits else "no", time, speed, memory)
    return table


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _say_error(error: BaseException) -> None:
    console = Console(stderr=True, soft_wrap=True)
    console.print(f"error: {error}", markup=False, highlight=False)
    for note in getattr(error, "__notes__", ()):
        console.print(note, markup=False, highlight=False)
