"""These tests need KERAS_BACKEND=torch; elsewhere they are not collected (tests/on_backends runs them)."""

import os

if os.environ.get("KERAS_BACKEND", "tensorflow") != "torch":
    collect_ignore_glob = ["test_*.py"]
