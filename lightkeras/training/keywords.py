"""What users of Keras and Lightning may type, and what it is called here."""

_BATCHES = "Limit the batches of an epoch: Runner(limit_batches=lk.LimitBatches(train=..., validation=...))."
_VALIDATION = "Give the validation data as the third argument: runner.fit(task, train, validation)."
_CLIPPING = "The optimizer clips gradients: keras.optimizers.Adam(clipnorm=...), clipvalue or global_clipnorm."
_EPOCHS = "Set the number of epochs on the runner: Runner(max_epochs=...)."
_CALLBACKS = "Give callbacks to the runner: Runner(callbacks=[...])."
_PROGRESS = "Set Runner(progress=False) to hide the progress bar."
_DEVICE = 'Use devices: Runner(devices="all") on TensorFlow and JAX; on torch, start a process for each with torchrun.'
_SPLIT = "Split the arrays first: train, validation = lk.data.split(arrays, ...)."
_FREQUENCY = "Set how often to validate: Runner(validate_every=2), or in steps: validate_every='500 steps'."
_LOGGERS = (
    "Every run writes TensorBoard event files and metrics.csv into its run directory. Add others with loggers: "
    "Runner(loggers=[lk.loggers.MLflow()])."
)

RUNNER = {
    "accelerator": _DEVICE,
    "accumulate_grad_batches": "The optimizer accumulates gradients: Adam(gradient_accumulation_steps=...).",
    "batch_size": "For arrays give it to fit: runner.fit(task, arrays, batch_size=...); a data module has its own.",
    "check_val_every_n_epoch": _FREQUENCY,
    "class_weight": "Give it to fit: runner.fit(task, train, class_weight={0: 1.0, 1: 5.0}).",
    "default_root_dir": "Name the run directory: Runner(run_dir=...).",
    "detect_anomaly": "Losses and variables are always checked; a broken step is kept for `lightkeras replay`.",
    "deterministic": "Set Runner(seed=...). On a CPU two runs with one seed are equal to the bit.",
    "early_stopping": "Set Runner(monitor=..., patience=...).",
    "enable_checkpointing": "Set when to save: Runner(checkpoints=lk.Checkpoints(...)).",
    "enable_progress_bar": _PROGRESS,
    "epochs": "Use max_epochs: Runner(max_epochs=...).",
    "fast_dev_run": "Use smoke: Runner(smoke=True) runs 2 steps of everything and writes nothing.",
    "gradient_clip_algorithm": _CLIPPING,
    "gradient_clip_val": _CLIPPING,
    "initial_epoch": "Resume a run where it stopped: runner.fit(task, resume=True).",
    "limit_test_batches": _BATCHES,
    "limit_train_batches": _BATCHES,
    "limit_val_batches": _BATCHES,
    "log_every_n_steps": "Every step is logged.",
    "logger": _LOGGERS,
    "max_trials": "A search is a Tuner: lk.Tuner(Task, trials=...).",
    "min_delta": "Give it to stopping: Runner(stopping=lk.Stopping(min_delta=...)).",
    "min_epochs": "Give it to stopping: Runner(stopping=lk.Stopping(min_epochs=...)).",
    "num_sanity_val_steps": "Runner(preflight=True), the default, tries the validation step before the first epoch.",
    "optimizer": "The task makes its optimizer: override build_optimizer, or lk.SupervisedTask(optimizer=...).",
    "precision": "Set the policy before the model is built: keras.config.set_dtype_policy('mixed_float16').",
    "profiler": "Use profile: Runner(profile=True).",
    "run_eagerly": "Use eager: Runner(eager=True).",
    "shuffle": "Arrays that are given to fit are shuffled in every epoch; validation data is not.",
    "steps_per_epoch": _BATCHES,
    "steps_per_execution": "Use steps_per_call: Runner(steps_per_call=...).",
    "strategy": _DEVICE,
    "val_check_interval": _FREQUENCY,
    "validation_data": _VALIDATION,
    "validation_freq": _FREQUENCY,
    "validation_split": _SPLIT,
    "validation_steps": _BATCHES,
    "verbose": _PROGRESS,
}
"""Answers to unknown settings of a Runner."""

FIT = {
    "callbacks": _CALLBACKS,
    "ckpt_path": "Use resume: runner.fit(task, resume=PATH).",
    "data": "Use train: runner.fit(task, train).",
    "datamodule": "The task makes its data module: override build_data.",
    "epochs": _EPOCHS,
    "initial_epoch": RUNNER["initial_epoch"],
    "max_epochs": _EPOCHS,
    "model": "Use task: runner.fit(lk.SupervisedTask(model, loss=...), (x, y)).",
    "run_dir": "Name the run directory of the runner: Runner(run_dir=...).",
    "sample_weight": "Give batches of (x, y, sample_weight): runner.fit(task, (x, y, sample_weight)).",
    "seed": "Set the seed of the runner: Runner(seed=...).",
    "shuffle": RUNNER["shuffle"],
    "steps_per_epoch": _BATCHES,
    "train_data": "Use train: runner.fit(task, train).",
    "train_dataloaders": "Use train: runner.fit(task, train).",
    "val_data": _VALIDATION,
    "val_dataloaders": _VALIDATION,
    "validation_batch_size": "Use batch_size, for both splits; validation means do not depend on it.",
    "validation_data": "Use validation: runner.fit(task, train, validation).",
    "validation_freq": _FREQUENCY,
    "validation_split": _SPLIT,
    "validation_steps": _BATCHES,
    "verbose": _PROGRESS,
    "x": "Give x and y as one tuple: runner.fit(task, (x, y)).",
    "y": "Give x and y as one tuple: runner.fit(task, (x, y)).",
}
"""Answers to unknown arguments of `Runner.fit`."""
