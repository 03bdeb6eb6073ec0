"""These tests need KERAS_BACKEND=jax; elsewhere they are not collected (tests/on_backends runs them)."""

import os

if os.environ.get("KERAS_BACKEND", "tensorflow") != "jax":
    collect_ignore_glob = ["test_*.py"]
