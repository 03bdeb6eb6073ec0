"""The command line of an experiment: `lk.cli(MyTask)`.

    python experiment.py [flags]                 fit, then test the best weights; or run the experiment's `main`
    python experiment.py fit [flags]             fit only
    python experiment.py --resume --run_dir DIR  resume a run
    python experiment.py test --run_dir DIR      test the weights of a run
    python experiment.py predict --run_dir DIR "a text" ...
    python experiment.py replay --run_dir DIR    rerun the step that broke a run
    python experiment.py tune [flags]            search the declared ranges
    python experiment.py tune --run_dir DIR --resume | --replay best
                                                 resume a search; rerun one of its trials
    python experiment.py find_learning_rate [flags]
    python experiment.py find_batch_size [flags] suggest a learning rate, a batch size

Flags set the hyperparameters (`--hp.`), the runner (`--runner.`), the tuner (`--tuner.`), the finders (`--find.`),
where to look for data, and the run directory. jsonargparse generates them from the declarations, and reads any of them
from `--config file.yaml`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jsonargparse
import numpy as np

from lightkeras import hparams
from lightkeras.command_line import launch_ray, tune
from lightkeras.command_line.console import (
    print_artifact,
    print_error,
    print_lines,
    print_result,
    report_experiment,
    report_fit,
    report_profile,
)
from lightkeras.command_line.flags import (
    COMMANDS,
    LAUNCH,
    RayLaunch,
    check_hparams,
    check_loggers,
    hp_of,
    lookup_of,
    make_parser,
    settings_of,
    taken_launch,
)
from lightkeras.data.lookup import Lookup
from lightkeras.experiment import Experiment, Main
from lightkeras.runner import Interrupted, Runner
from lightkeras.runs import report
from lightkeras.runs.directory import RunDirectory, holds_several, run_path, runs_below, snake_case
from lightkeras.runs.results import FitResult
from lightkeras.runs.resume import read_run, run_and_checkpoint
from lightkeras.runs.untrusted import untrusted_in
from lightkeras.system import display, postponed_keras, trust
from lightkeras.system.console import Console, closed_output_ignored
from lightkeras.system.display import in_notebook
from lightkeras.system.messages import raised_by_us
from lightkeras.system.quick_exit import exit_quickly
from lightkeras.task import Task
from lightkeras.training import setup, several_processes


def cli(
    task_class: type[Task],
    main: Main | None = None,
    args: Sequence[str] | None = None,
    **runner_defaults: Any,
) -> None:
    """Runs an experiment from the command line.

    Args:
        task_class: The task.
        main: Runs in place of fitting and testing if no command is given, for an experiment of several runs.
            Called with the task built from the flags, not set up, and the runner, whose `run_dir` is a `Path`. Make
            further tasks with `type(task)(dataclasses.replace(task.hp, ...), task.lookup)`, and each run below that
            directory with `dataclasses.replace(runner, run_dir=runner.run_dir / "small").fit(task, resume=True)`:
            `--resume` calls `main` again, and its runs resume. `main` returns `None` or a mapping of plain values,
            which becomes part of `result.json`. `None` fits and tests.
        args: The arguments; `None` takes `sys.argv[1:]`. A notebook has none: there, only an explanation is printed.
        **runner_defaults: Settings of `Runner` whose defaults this experiment changes.

    Raises:
        SystemExit: Status 2 for a wrong argument; 1 for a run that diverged, a search without a completed trial, or a
            finder without a suggestion.

    Examples:
        ```python
        import lightkeras as lk

        if __name__ == "__main__":
            arguments = ["--hp.hidden_units", "8", "--runner.max_epochs", "2"]  # without `args`, those of the shell
            lk.cli(lk.testing.TwoMoons, args=arguments)
        ```
    """
    if args is None and in_notebook():
        print(_IN_A_NOTEBOOK.format(task=task_class.__name__))
        return
    Runner(**runner_defaults)  # raises here: a wrong default is a mistake in the experiment's file
    arguments = list(sys.argv[1:] if args is None else args)
    command = arguments.pop(0) if arguments and arguments[0] in COMMANDS else None
    parser = make_parser(task_class, command, runner_defaults, main)
    settings = parser.parse_args(arguments)
    launch = taken_launch(parser, settings)
    if "hp" in settings:
        check_hparams(parser, task_class, settings)

    def given() -> jsonargparse.Namespace:
        found = parser.parse_args(arguments, defaults=False)
        taken_launch(parser, found)
        return found

    if args is None:  # of the program, not of a notebook or a test
        exit_quickly()
    actions: dict[str | None, Callable[[], int]] = {
        None: lambda: _run(task_class, settings, runner_defaults, given(), main),
        "fit": lambda: _fit(task_class, settings, runner_defaults, given(), then_test=False),
        "test": lambda: _test(task_class, settings, given()),
        "predict": lambda: _predict(task_class, settings, given()),
        "replay": lambda: _replay(task_class, settings),
        "tune": lambda: tune.run(task_class, settings, runner_defaults, given()),
        "find_learning_rate": lambda: _find_learning_rate(task_class, settings, runner_defaults),
        "find_batch_size": lambda: _find_batch_size(task_class, settings, runner_defaults),
    }
    try:
        with trust.trusting(None), closed_output_ignored(), several_processes.quiet_command():
            if launch is None:
                status = actions[command]()
            else:
                status = _launch(launch, task_class, settings, arguments if command is None else [command, *arguments])
    except (ValueError, TypeError, OSError, ImportError, NotImplementedError) as error:
        if not raised_by_us(error):
            raise
        print_error(error)
        status = 2
    if status:
        raise SystemExit(status)


_IN_A_NOTEBOOK = """\
lk.cli reads the command line of a script, and a notebook has none. In a notebook, call the runner:

    task = {task}()                            # hyperparameters: {task}({task}.HParams(...))
    result = lk.Runner(max_epochs=3).fit(task)

Or give the arguments yourself: lk.cli({task}, args=["--runner.max_epochs", "3"])"""


# ---------------------------------------------------------------------- commands


def _launch(
    launch: RayLaunch, task_class: type[Task], settings: jsonargparse.Namespace, arguments: Sequence[str]
) -> int:
    """Runs the command in the workers of a launch; each resumes the run, which another attempt may have begun."""
    several_processes.check_alone("--runner.launch")
    directory, wanted = run_and_checkpoint(run_path(settings.run_dir, snake_case(task_class.__name__)))
    if settings.resume and (settings.run_dir is None or wanted is not None):
        raise ValueError("--runner.launch with --resume needs --run_dir: the run directory, and not a checkpoint.")
    if not settings.resume:
        directory.check_unused()
    null = [word for name in LAUNCH for word in (f"--runner.{name}", "null")]
    more = [*null, "--run_dir", str(directory.path.absolute()), "--resume"]
    command = [str(Path(sys.argv[0]).absolute()), *arguments, *more]
    return launch_ray.launch(command, launch.workers, directory.path, launch.restarts)


def _fit(
    task_class: type[Task],
    settings: jsonargparse.Namespace,
    runner_defaults: dict[str, Any],
    given: jsonargparse.Namespace,
    then_test: bool,
) -> int:
    resume: bool | Path = settings.resume
    if resume and settings.run_dir is None:
        raise ValueError("--resume needs --run_dir: the run directory, or one of its checkpoints.")
    postponed_keras.import_now()
    path = several_processes.agreed_path(run_path(settings.run_dir, snake_case(task_class.__name__)))
    runner, hp = {**runner_defaults, **settings_of(settings.runner)}, hp_of(settings)
    lookup = lookup_of(settings)
    if resume:
        directory, wanted = run_and_checkpoint(path)
        path, resume = directory.path, wanted or True
        runner, hp, lookup = _with_recorded(task_class, directory, runner, hp, lookup, given)
    made = Runner(**{**runner, "run_dir": path, "profile": settings.profile or runner.get("profile", False)})
    task = task_class(hparams.from_dict(task_class.HParams, hp), lookup)
    start = {"init_from": settings.init_from, "resume": resume, "accept_changes": settings.accept_changes}
    if settings.dry_run:
        return _print_checks(made.check(task, **start))
    if made.smoke:
        return _print_smoke(made.fit(task, **start))
    tested = None
    try:
        with display.showing(made.progress):  # shows the values of the fit until those of the test are known too
            fitted = made.fit(task, **start)
            if then_test and fitted.best is not None and _has_test(task):
                tested = made.evaluate(task, weights="best")
    except Interrupted as stop:
        report_fit(stop.result, None)
        raise
    report_fit(fitted, tested)
    if made.profile:
        report_profile(fitted.run_dir)
    return 1 if fitted.diverged else 0


def _run(
    task_class: type[Task],
    settings: jsonargparse.Namespace,
    runner_defaults: dict[str, Any],
    given: jsonargparse.Namespace,
    main: Main | None,
) -> int:
    """Runs the experiment's `main`, or fits and tests: what happens if no command is given."""
    if main is None:
        return _fit(task_class, settings, runner_defaults, given, then_test=True)
    directory = RunDirectory(run_path(settings.run_dir, snake_case(task_class.__name__)))
    runner, hp = {**runner_defaults, **settings_of(settings.runner)}, hp_of(settings)
    lookup = lookup_of(settings)
    if settings.resume:
        if settings.run_dir is None:
            raise ValueError("--resume needs --run_dir: the directory of the experiment.")
        runner, hp, lookup = _with_recorded(task_class, directory, runner, hp, lookup, given)
    postponed_keras.import_now()
    made = Runner(**{**runner, "run_dir": directory.path, "profile": settings.profile or runner.get("profile", False)})
    task = task_class(hparams.from_dict(task_class.HParams, hp), lookup)
    made.check_keeps_runs("An experiment of several runs")
    experiment = Experiment(main, task, made)
    if settings.dry_run:
        return _print_checks(experiment.check(settings.resume))
    try:
        diverged = experiment.run(settings.resume)
    except Interrupted:
        print_lines(Console(), {"resume": f"python {sys.argv[0]} --resume --run_dir {directory.path}"})
        raise
    if made.profile:
        for path in runs_below(directory):
            report_profile(path)
    if made.pictures:
        report.write(directory.path)
    report_experiment(directory)
    return 1 if diverged else 0


def _with_recorded(
    task_class: type[Task],
    directory: RunDirectory,
    runner: dict[str, Any],
    hp: dict[str, Any],
    lookup: Lookup,
    given: jsonargparse.Namespace,
) -> tuple[dict[str, Any], dict[str, Any], Lookup]:
    """The settings recorded in a run directory, overridden by the flags that were given."""
    if not directory.config_file.exists():
        return runner, hp, lookup
    config = directory.read_config() if holds_several(directory) else read_run(directory)
    check_loggers(directory.config_file, config["runner"], runner, given.get("runner", {}))
    recorded = {
        name: value
        for name, value in config["runner"].items()
        if name in runner and name not in ("callbacks", "loggers")
    }
    places = {"source": lookup.source, "data_dir": lookup.data_dir}
    recorded_places = {name: config.get("lookup", {}).get(name, value) for name, value in places.items()}
    given_places = {name: value for name, value in places.items() if name in given}
    given_hp = hp_of(given)
    if not given.get("trust_run", False):
        _distrust(task_class, directory.path, config, given_hp, given_places.get("data_dir"))
        # A folder that is written to, of the user's choice and not of the run directory's.
        recorded["features"] = {**recorded.get("features", {}), "folder": None}
    return (
        {**runner, **settings_of(recorded), **settings_of(given.get("runner", {}), recorded)},
        {**config.get("hparams", {}), **given_hp},
        Lookup(**{**recorded_places, **given_places}),
    )


def _distrust(
    task_class: type[Task], path: Path, config: Mapping[str, Any], given_hp: Mapping[str, Any], data_dir: str | None
) -> None:
    recorded = config.get("lookup", {}).get("data_dir")
    trust.distrust(untrusted_in(path, task_class.HParams, config.get("hparams", {}), recorded, given_hp, data_dir))


def _print_checks(names: Sequence[str]) -> int:
    Console().print(f"Checks passed. Logged every epoch: {', '.join(names)}.", highlight=False, soft_wrap=True)
    return 0


def _print_smoke(result: FitResult) -> int:
    values = ", ".join(f"{name} {values[-1]:.4g}" for name, values in result.history.items())
    Console().print(f"Every phase ran 2 steps; nothing was kept. {values}.", highlight=False, soft_wrap=True)
    return 1 if result.diverged else 0


def _test(task_class: type[Task], settings: jsonargparse.Namespace, given: jsonargparse.Namespace) -> int:
    task, runner = _load_run(task_class, settings, given)
    tested = runner.evaluate(task, weights=settings.weights)
    if settings.artifact is None:
        print_result(tested)
    else:
        from lightkeras.exports.evaluation import evaluate_artifact

        print_artifact(tested, evaluate_artifact(task, Path(settings.artifact)), settings.artifact)
    print_lines(Console(), {"weights": settings.weights})
    return 0


def _predict(task_class: type[Task], settings: jsonargparse.Namespace, given: jsonargparse.Namespace) -> int:
    inputs: list[str] = settings.inputs
    if inputs == ["-"]:
        inputs = [line.rstrip("\n") for line in sys.stdin]
    task, runner = _load_run(task_class, settings, given)
    learn = setup.learn_from(None, 1, RunDirectory(Path(settings.run_dir)))
    setup.build_task(task, runner.seed, given=True, fit_encoder=learn)
    if task.data is None:
        raise ValueError(
            f"{task_class.__name__} has no data module to read inputs with: define `build_data`, and `predict(inputs)` "
            "in the data module that it returns."
        )
    inputs = task.data.expand(inputs, task.lookup)
    outputs = runner.predict(task, task.data.predict(inputs), weights=settings.weights)
    columns = outputs if isinstance(outputs, dict) else _named(outputs, Path(settings.run_dir))
    examples = len(next(iter(columns.values())))
    if examples != len(inputs):
        raise ValueError(
            f"{type(task.data).__name__}.predict returned {examples} examples for {len(inputs)} inputs: expected "
            "one for each. Make its `expand(inputs, lookup)` return one input for each example."
        )
    ascii_only = not (sys.stdout.encoding or "").lower().startswith("utf")
    for number, text in enumerate(inputs):
        row = {name: column[number].tolist() for name, column in columns.items()}
        print(json.dumps({"input": text, **row}, ensure_ascii=ascii_only))
    return 0


def _named(outputs: np.ndarray, run_dir: Path) -> dict[str, np.ndarray]:
    """The outputs of a model, with the name of the largest one if there is one for each class of the run."""
    names = RunDirectory(run_dir).read_config()["data"].get("class_names") or []
    if len(names) < 2 or outputs.shape[1:] != (len(names),):
        return {"prediction": outputs}
    return {"class": np.array(names)[outputs.argmax(axis=-1)], "prediction": outputs}


def _replay(task_class: type[Task], settings: jsonargparse.Namespace) -> int:
    from lightkeras.command_line import replay

    return replay.run(
        task_class, Path(settings.run_dir), settings.data_dir, settings.source, trust_run=settings.trust_run
    )


def _find_learning_rate(
    task_class: type[Task], settings: jsonargparse.Namespace, runner_defaults: dict[str, Any]
) -> int:
    path = run_path(settings.run_dir, f"{snake_case(task_class.__name__)}_learning_rate")
    runner = Runner(**{**runner_defaults, **settings_of(settings.runner), "run_dir": path})
    postponed_keras.import_now()
    task = task_class(hparams.from_dict(task_class.HParams, hp_of(settings)), lookup_of(settings))
    found = runner.find_learning_rate(task, **vars(settings.find))
    print_result(found)
    return 1 if found.suggestion is None else 0


def _find_batch_size(task_class: type[Task], settings: jsonargparse.Namespace, runner_defaults: dict[str, Any]) -> int:
    runner = Runner(**{**runner_defaults, **settings_of(settings.runner)})
    postponed_keras.import_now()
    task = task_class(hparams.from_dict(task_class.HParams, hp_of(settings)), lookup_of(settings))
    found = runner.find_batch_size(task, **vars(settings.find))
    print_result(found)
    return 1 if found.suggestion is None else 0


def _load_run(
    task_class: type[Task], settings: jsonargparse.Namespace, given: jsonargparse.Namespace
) -> tuple[Task, Runner]:
    """Returns the task with the hyperparameters and the data of a run, and a runner on its directory."""
    config = RunDirectory(Path(settings.run_dir)).read_config()
    if "search" in config:
        raise ValueError(f"{settings.run_dir} holds a search: give one of its runs, such as {settings.run_dir}/best.")
    if holds_several(RunDirectory(Path(settings.run_dir))):
        runs = runs_below(RunDirectory(Path(settings.run_dir)))
        raise ValueError(
            f"{settings.run_dir} holds the runs of an experiment. Give the directory of one of them: "
            f"{', '.join(map(str, runs)) or 'there are none yet'}."
        )
    if config.get("task") != task_class.__name__:
        raise ValueError(
            f"{settings.run_dir} holds a run of {config.get('task')}, not of {task_class.__name__}. "
            f"Use the experiment that defines {config.get('task')}."
        )
    recorded = config.get("lookup", {})
    source = "sample" if config.get("source") == "sample" else recorded.get("source", "auto")
    lookup = Lookup(settings.source or source, settings.data_dir or recorded.get("data_dir"))
    given_hp = hp_of(given)
    if not settings.trust_run:
        _distrust(task_class, Path(settings.run_dir), config, given_hp, settings.data_dir)
    postponed_keras.import_now()
    task = task_class(hparams.from_dict(task_class.HParams, {**config.get("hparams", {}), **given_hp}), lookup)
    return task, Runner(run_dir=settings.run_dir, seed=config.get("seed", 0))


def _has_test(task: Task) -> bool:
    return task.data is not None and task.data.test() is not None
