"""The JSON files of a run directory, as the reader checks them; see `system.schema`.

Only what is read again is declared. A file may hold more.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal

from lightkeras.system.schema import Count, at_least, matches

CHECKPOINT = r"step-(\d{8,18})(?:-(\d{1,9}))?"
"""Name of a checkpoint, or of a broken step."""

ABSENT: Any = None
"""Default of a key that may be absent, and is not null where it is there."""

Scalar = int | float | str | bool | None
CheckpointName = Annotated[str, matches(CHECKPOINT)]
Positive = Annotated[int, at_least(1)]


# ---------------------------------------------------------------------- config.json


@dataclasses.dataclass
class Limits:
    """Limits of batches, of `config.json`."""

    train: Positive | None = None
    validation: Positive | None = None
    test: Positive | None = None


@dataclasses.dataclass
class CheckpointSettings:
    """Settings of checkpoints, of `config.json`."""

    every_steps: Positive | None = None
    every_minutes: float | None = None
    every_epochs: Positive | None = None
    keep: Positive = 1
    keep_by: str | None = None
    keep_mode: Literal["min", "max"] | None = None


@dataclasses.dataclass
class FeatureSettings:
    """Settings of cached features, of `config.json`."""

    on_disk: bool = True
    folder: str | None = None
    limit_gb: float = 10.0


@dataclasses.dataclass
class StoppingSettings:
    """Settings of early stopping, of `config.json`."""

    min_delta: float = 0.0
    min_epochs: Count = 0
    stop_at: float | None = None


@dataclasses.dataclass
class RunnerSettings:
    """Settings of the runner, of `config.json`."""

    max_epochs: Positive | None = 10
    max_steps: Positive | None = None
    max_time: float | None = None
    monitor: str | None = None
    mode: Literal["min", "max"] | None = None
    patience: Positive | None = 3
    stopping: StoppingSettings = dataclasses.field(default_factory=StoppingSettings)
    validate_every: int | str = 1
    limit_batches: Limits = dataclasses.field(default_factory=Limits)
    skip_broken: Count = 0
    checkpoints: CheckpointSettings = dataclasses.field(default_factory=CheckpointSettings)
    features: FeatureSettings = dataclasses.field(default_factory=FeatureSettings)
    seed: Count = 0
    steps_per_call: Positive | None = None
    run_dir: str | None = None
    callbacks: list[str] = dataclasses.field(default_factory=list)
    loggers: list[str] = dataclasses.field(default_factory=list)
    progress: bool = True
    draw_every: Positive | None = None
    pictures: bool = True
    export: bool = True
    preflight: bool = True
    profile: bool = False
    log_gradients: Literal["norm", "histogram"] | None = None
    devices: Positive | Literal["all"] | None = None
    eager: bool = False
    compile: Literal["auto", "on", "off"] = "auto"
    overfit_batches: Positive | None = None
    smoke: bool = False


@dataclasses.dataclass
class Places:
    """Where data and modules were looked for."""

    source: Literal["auto", "real", "sample"] = "auto"
    data_dir: str | None = None


@dataclasses.dataclass
class Module:
    """A TF Hub module of the task."""

    handle: str
    fingerprint: str


@dataclasses.dataclass
class ValidationData:
    """The validation split, or one of its sets."""

    fingerprint: str | None
    sets: dict[str, ValidationData] | None = None


@dataclasses.dataclass
class Data:
    """The train split, and the validation split of later versions."""

    source: str | None = None
    fingerprint: str | None = None
    batch_size: Count | None = None
    batches: Count | None = None
    validation: ValidationData | None = None
    class_names: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Monitor:
    """The monitored value."""

    name: str | None
    mode: Literal["min", "max"]


@dataclasses.dataclass
class Layer:
    """A layer of a model, of `config.json`; see `training.model_summary`."""

    name: str
    output: str
    parameters: Count
    trained: Count


@dataclasses.dataclass
class ModelRecord:
    """A model of the task, of `config.json`."""

    parameters: Count
    trained: Count
    layers: list[Layer] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class EncoderRecord:
    """The encoder of the task."""

    fingerprint: str | None = None


@dataclasses.dataclass
class Resumed:
    """One resume of a run."""

    at: str | None = None
    step: Count = 0
    argv: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class PruningSettings:
    """Settings of pruning."""

    rule: str | None = None
    first: int = 1
    trials: int = 3
    factor: int | float = 3


@dataclasses.dataclass
class ChanceSettings:
    """Settings of the check for trials that are stuck at chance."""

    value: float | None = None
    epochs: int = 3


@dataclasses.dataclass
class WorkerSettings:
    """Limits of worker processes."""

    silence: float | None = 600.0
    memory_gb: float | None = None
    runs: Positive = 50


@dataclasses.dataclass
class Search:
    """Settings of a search, of `config.json`."""

    objective: str
    mode: Literal["min", "max"] = "min"
    oracle: str = "random"
    trials: Positive | None = None
    seed: Count = 0
    fixed: dict[str, Scalar] = dataclasses.field(default_factory=dict)
    space: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    pruning: PruningSettings = dataclasses.field(default_factory=PruningSettings)
    chance: ChanceSettings = dataclasses.field(default_factory=ChanceSettings)
    seeds: Count = 0
    top: Positive = 3
    refit: bool = False
    folds: Positive | None = None
    stratified: bool = False
    workers: Count = 1
    pool: str = "local"
    address: str | None = None
    gpus: float = 0.0
    retries: Count = 1
    limits: WorkerSettings = dataclasses.field(default_factory=WorkerSettings)


@dataclasses.dataclass
class Config:
    """`config.json` of a run, of an experiment of several runs, or of a search."""

    task: str | None = None
    source: str | None = None
    backend: str | None = None
    processes: Positive = 1
    hparams: dict[str, Any] = dataclasses.field(default_factory=dict)
    versions: dict[str, str | None] = dataclasses.field(default_factory=dict)
    runner: RunnerSettings = dataclasses.field(default_factory=RunnerSettings)
    data: Data = dataclasses.field(default_factory=Data)
    monitor: Monitor | None = None
    code: dict[str, str] = dataclasses.field(default_factory=dict)
    lookup: Places = dataclasses.field(default_factory=Places)
    modules: list[Module] = dataclasses.field(default_factory=list)
    models: dict[str, ModelRecord] = dataclasses.field(default_factory=dict)
    encoder: EncoderRecord = dataclasses.field(default_factory=EncoderRecord)
    class_weight: dict[str, float] | None = None
    init_from: str | None = None
    machine: dict[str, Scalar] = dataclasses.field(default_factory=dict)
    seed: Count = 0
    argv: list[str] = dataclasses.field(default_factory=list)
    started: str | None = None
    resumed: list[Resumed] = dataclasses.field(default_factory=list)
    experiment: Any = None
    search: Search = ABSENT
    tried: dict[str, str] = dataclasses.field(default_factory=dict)


# ---------------------------------------------------------------------- result.json and profile.json


@dataclasses.dataclass
class FitSummary:
    """The `fit` part of `result.json`."""

    epochs: Count = 0
    steps: Count = 0
    stop_reason: str | None = None
    diverged: bool = False
    interrupted: str | None = None
    skipped: Count = 0
    monitor: str | None = None
    wall_s: float | None = None
    best: dict[str, float | None] | None = None
    loggers: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class RemoteRun:
    """`NAME.run.json`: the run of a service that a logger sends values to."""

    id: str


@dataclasses.dataclass
class BestTrial:
    """The best trial of a search."""

    trial: str
    value: float | None = None
    hparams: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class SearchSummary:
    """The `search` part of `result.json`."""

    best: BestTrial | None = None
    stop_reason: str | None = None


@dataclasses.dataclass
class Result:
    """`result.json`."""

    source: str | None = None
    fit: FitSummary | None = None
    validation: dict[str, float | None] | None = None
    test: dict[str, float | None] | None = None
    search: SearchSummary = ABSENT


@dataclasses.dataclass
class ExperimentResult:
    """`result.json` of an experiment of several runs, to which `main` adds values of any names."""

    runs: list[str]
    source: str | None = None


@dataclasses.dataclass
class Part:
    """A part of the time of a run."""

    seconds: float
    share: float


@dataclasses.dataclass
class Compilation:
    """A compilation of a step."""

    step: str
    form: str
    seconds: float
    cause: str


@dataclasses.dataclass
class Profile:
    """`profile.json`."""

    wall_s: float
    steps: Count
    parts: dict[str, Part]
    compute_us_per_step: float | None
    compilations: list[Compilation]
    trace: str | None


# ---------------------------------------------------------------------- export.json


@dataclasses.dataclass
class ExportedFile:
    """A file of an artifact."""

    bytes: Count
    blake2b: str


@dataclasses.dataclass
class ExportedPort:
    """An input or an output of an artifact; an axis that is null has any size."""

    name: str
    dtype: str
    shape: list[Count | None]


@dataclasses.dataclass
class ExportedPorts:
    """All inputs, or all outputs, of an artifact."""

    kind: Literal["one", "list", "dict"]
    each: list[ExportedPort]


@dataclasses.dataclass
class ExportBackends:
    """Backend of the run, and that of the process that wrote the artifact."""

    run: str
    written: Literal["tensorflow", "jax", "torch"]


@dataclasses.dataclass
class Latency:
    """Median seconds of a call with 1 and with 32 examples."""

    batch_1: float | None
    batch_32: float | None


@dataclasses.dataclass
class Export:
    """`export.json` of an artifact; it `takes` what the whole model does, texts for the `inputs` of a numeric part."""

    version: Literal[1]
    format: Literal["saved_model", "onnx", "litert", "openvino", "torch", "keras", "weights"]
    file: str
    part: Literal["whole", "numbers"]
    outputs_of: Literal["model", "predict"]
    backends: ExportBackends
    takes: ExportedPorts
    inputs: ExportedPorts
    outputs: ExportedPorts
    precision: str
    checked: bool
    examples: str
    tolerance: float
    largest_difference: float | None
    files: dict[str, ExportedFile]
    quantize: str | None = None
    made: str | None = None
    run: str | None = None
    differences: dict[str, float] | None = None
    latency: dict[str, Latency] = dataclasses.field(default_factory=dict)
    versions: dict[str, str | None] = dataclasses.field(default_factory=dict)
    sizes: dict[str, Count] = dataclasses.field(default_factory=dict)
    metrics: dict[str, dict[str, float | None]] = dataclasses.field(default_factory=dict)


# ---------------------------------------------------------------------- checkpoints


@dataclasses.dataclass
class Entry:
    """A file in `manifest.json`."""

    bytes: Count
    blake2b: str


@dataclasses.dataclass
class Variable:
    """Path and dtype of a variable."""

    path: str
    dtype: str


@dataclasses.dataclass
class State:
    """What `state.json` of a checkpoint and of a broken step have in common."""

    step: Count
    variables: dict[str, Variable]


@dataclasses.dataclass
class Best:
    """The best epoch."""

    epoch: Count
    step: Count
    value: float
    logs: dict[str, float]


@dataclasses.dataclass
class PatienceState:
    """State of early stopping. Its mode alone is left where the best epoch was lost."""

    mode: Literal["min", "max"]
    best: float | None = None
    waited: Count = 0
    counted: float | None = None


@dataclasses.dataclass
class Means:
    """Means of the epoch so far."""

    examples: Count
    sums: dict[str, float]


@dataclasses.dataclass
class RandomStates:
    """States of the global random generators."""

    python: tuple[int, str, float | None]
    numpy: tuple[Literal["MT19937"], str, int, int, float]
    torch: str | None = None


@dataclasses.dataclass
class CallbackState:
    """State of one callback; its values are encoded by `plain_values`."""

    class_: str = dataclasses.field(metadata={"key": "class"})
    attributes: dict[str, Any] = dataclasses.field(default_factory=dict)
    unchanged: dict[str, str] = dataclasses.field(default_factory=dict)
    file: LogFile | None = None


@dataclasses.dataclass
class LogFile:
    """The file of a CSVLogger."""

    name: str
    size: Count


@dataclasses.dataclass
class CallbackStates:
    """State of all callbacks."""

    callbacks: list[CallbackState]
    stop_training: bool


@dataclasses.dataclass
class Kept:
    """The checkpoints that one refers to."""

    best: CheckpointName | None
    top: list[tuple[float, CheckpointName]]


@dataclasses.dataclass
class FlagState:
    """The `trainable` flags of layers and variables, and the factors of their learning rates; none in old files."""

    layers: list[bool]
    variables: list[bool]
    rates: list[float] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class FrozenState(FlagState):
    """Flags, and the variables that each optimizer trains."""

    optimizers: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    now: FlagState | None = None


@dataclasses.dataclass
class RunState(State):
    """`state.json` of a checkpoint."""

    progress: PatienceState
    epochs: Count
    done: Count
    validations: Count
    validated: tuple[Count, dict[str, float]] | None
    best: Best | None
    history: dict[str, list[float]]
    means: Means
    random: RandomStates
    logs: dict[str, Count]
    callbacks: CallbackStates
    kept: Kept
    checksums: dict[str, Count] = dataclasses.field(default_factory=dict)
    skipped: list[int] = dataclasses.field(default_factory=list)
    drawn: list[int] = dataclasses.field(default_factory=list)
    opened_to_draw: Count = 0
    frozen: FrozenState | None = None
    beside: bool = False


@dataclasses.dataclass
class BrokenStep:
    """A step after which a value is not finite."""

    examples: list[Count]


@dataclasses.dataclass
class BrokenState(State):
    """`state.json` of a broken step."""

    what_happened: str
    broken: BrokenStep
    repeated: bool
    task: str
    file: str | None
    hparams: dict[str, Any]
    seed: Count
    logs: dict[str, float]
    variables_after: dict[str, str]
    environment: dict[str, str | None]
    at: str
    source: str | None = None
    lookup: Places = dataclasses.field(default_factory=Places)
    batch: dict[str, Any] | None = None
    shapes: list[list[Count | None]] | None = None
    gradient_norms: bool = False
    compiled_size: Count | None = None
    class_weight: dict[str, float] | None = None
    frozen: FrozenState | None = None
