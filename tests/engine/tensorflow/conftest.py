"""These tests need KERAS_BACKEND=tensorflow; elsewhere they are not collected."""

import os

if os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
    collect_ignore_glob = ["test_*.py"]
