"""The flags of an experiment's commands, made from the declarations by jsonargparse."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NoReturn

import jsonargparse
from rich.console import Console

from lightkeras import hparams
from lightkeras.data.lookup import Lookup
from lightkeras.encoders.features import FeatureCache
from lightkeras.runner import Runner
from lightkeras.search.pruning import Chance, Pruning
from lightkeras.search.workers.pool import WorkerLimits
from lightkeras.system.messages import did_you_mean
from lightkeras.task import Task
from lightkeras.training.saver import Checkpoints
from lightkeras.training.settings import LimitBatches

COMMANDS = {
    "fit": "train, and keep the best weights",
    "test": "test the weights of a run",
    "predict": "predict for texts, files or rows on the command line, or one per line on standard input (-)",
    "replay": "run the step that broke a run again, and compare it bit for bit",
    "tune": "search the declared ranges of the hyperparameters",
    "find_learning_rate": "suggest a learning rate, by a range test, and draw its curve",
    "find_batch_size": "suggest the largest batch, of powers of two, that fits into the memory",
}
USAGES = {
    None: "[COMMAND] [flags]",
    "fit": "[flags]",
    "test": "--run_dir RUN_DIR [flags]",
    "predict": "--run_dir RUN_DIR [flags] INPUT ...",
    "replay": "--run_dir RUN_DIR [flags]",
    "tune": "[flags]",
    "find_learning_rate": "[flags]",
    "find_batch_size": "[flags]",
}
SourceName = Literal["auto", "real", "sample"]


class Parser(jsonargparse.ArgumentParser):
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


def make_parser(
    task_class: type[Task],
    command: str | None,
    runner_defaults: dict[str, Any],
    main: Callable[..., Any] | None = None,
) -> Parser:
    """The parser of a command.

    Args:
        task_class: The task.
        command: The command's name; `None` for the one without.
        runner_defaults: Settings of the runner that differ from its own defaults.
        main: What the command without a name does; `None` for fitting and testing.
    """
    program = Path(sys.argv[0]).name
    what = inspect.getdoc(task_class) or task_class.__name__
    if command is None:
        width = max(map(len, COMMANDS))
        commands = "\n".join(f"  {name:{width}} {text}" for name, text in COMMANDS.items())
        what = (
            f"{what.splitlines()[0]} Without a command: {_what_it_does(main)}\n\n"
            f"commands ({program} COMMAND --help says more):\n{commands}"
        )
    else:
        what = f"{task_class.__name__}: {COMMANDS[command]}."
    parser = Parser(
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
    parser.add_class_arguments(Runner, "runner", skip={"run_dir", "callbacks", "profile"})
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
    if command == "tune":
        parser.add_argument("--resume", action="store_true", help=_RESUME_SEARCH)
        parser.add_argument("--replay", type=str | None, default=None, help=_REPLAY)
    if command in (None, "fit"):
        parser.add_argument("--resume", action="store_true", help=_RESUME)
        if command == "fit" or main is None:  # main goes on with its runs by itself
            parser.add_argument("--accept_changes", action="store_true", help=_ACCEPT_CHANGES)
        parser.add_argument("--dry_run", action="store_true", help=_DRY_RUN)
        parser.add_argument("--profile", action="store_true", help=_PROFILE)
    parser.add_argument("--data_dir", type=str | None, default=None, help=_DATA_DIR)
    parser.add_argument("--source", type=SourceName, default="auto", help=_SOURCE)
    _say_ranges(parser, task_class)
    _say_null(parser)
    _hide_groups(parser)
    return parser


def _what_it_does(main: Callable[..., Any] | None) -> str:
    if main is None:
        return "fit, then test the best weights."
    text = inspect.getdoc(main)
    return f"{text.splitlines()[0]}" if text else "the runs of the experiment."


_RESUME = (
    "Go on with the run in --run_dir, or from that checkpoint of one, with its settings where none are given; "
    "begin it if there is none."
)
_RESUME_SEARCH = (
    "Go on with the search in --run_dir, with its settings where none are given; begin it if there is none."
)
_REPLAY = (
    "Do a trial of the search in --run_dir again, in a new process, and compare it bit for bit: its name, or best."
)
_ACCEPT_CHANGES = "Go on though data or hyperparameters are not those that the run was started with."
_DRY_RUN = "Check everything that can be checked before the first epoch, also of a resume, and stop there."
_PROFILE = "Say where the time went, in a table and in profile.json, and let the backend trace a call to profile/."
_INPUTS = "Texts, files or rows, as the data takes them; or - for one per line on standard input."
_DATA_DIR = "Folder looked into first for data and modules. Null: $LIGHTKERAS_DATA_DIR."
_SOURCE = "real: never the built-in sample. sample: only that. auto: the sample where nothing else is found."


def _add_run_flags(parser: Parser, command: str) -> None:
    parser.add_argument("--run_dir", type=str, required=True, help="Run directory of the fit.")
    if command != "replay":
        parser.add_argument("--weights", type=Literal["best", "last"], default="best", help="Which weights to use.")
    parser.add_argument("--data_dir", type=str | None, default=None, help=f"{_DATA_DIR} Default: that of the fit.")
    parser.add_argument("--source", type=SourceName | None, default=None, help=f"{_SOURCE} Default: that of the fit.")
    if command == "predict":
        parser.add_argument("inputs", nargs="+", type=str, help=_INPUTS)


def _say_ranges(parser: Parser, task_class: type[Task]) -> None:
    for name, found in hparams.search_space(task_class.HParams).items():
        for action in parser._actions:
            if action.dest == f"hp.{name}":
                action.help = f"{action.help or ''} Searched: {found}."


def _say_null(parser: Parser) -> None:
    """Says `null`, as flags and YAML do, where docstrings say `None`; and leaves out their marks."""
    for action in parser._actions:
        if action.help is not None and action.help is not jsonargparse.SUPPRESS:
            action.help = action.help.replace("`None`", "null").replace("`", "")


def _hide_groups(parser: Parser) -> None:
    """Leaves `--hp FILE` and its like out of the help: `--config` reads them all."""
    for action in parser._actions:
        if action.dest in _GROUPS:
            action.help = jsonargparse.SUPPRESS


_GROUPS = {"hp", "runner", "tuner", "find"} | {
    *("runner.limit_batches", "runner.checkpoints", "runner.features"),
    *("tuner.limits", "tuner.pruning", "tuner.chance"),
}


_KINDS = {
    "limit_batches": LimitBatches,
    "checkpoints": Checkpoints,
    "features": FeatureCache,
    "limits": WorkerLimits,
    "pruning": Pruning,
    "chance": Chance,
}


def settings_of(given: Any, before: dict[str, Any] | None = None) -> dict[str, Any]:
    """Settings of a runner or a tuner from the command line or from JSON; groups of settings as what they are.

    Args:
        given: The settings.
        before: Settings of which a group given in part takes the rest.
    """
    settings = dict(given if isinstance(given, dict) else vars(given))
    for name, kind in _KINDS.items():
        if name in settings and not isinstance(settings[name], kind):
            group = settings[name] if isinstance(settings[name], dict) else vars(settings[name])
            settings[name] = kind(**{**(before or {}).get(name, {}), **group})
    return settings


def lookup_of(settings: jsonargparse.Namespace) -> Lookup:
    """Where data and modules are looked for; a folder that is not there is refused before anything is made."""
    lookup = Lookup(settings.source, settings.data_dir)
    lookup.record()
    return lookup


class _Formatter(jsonargparse.DefaultHelpFormatter):
    """Keeps the line breaks of the description."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(indent + line for line in text.splitlines())
