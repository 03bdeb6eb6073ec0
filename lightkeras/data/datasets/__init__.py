"""Ready-made data modules, and the built-in samples."""
