"""One fit: its setup, its steps, its state, and what is written about it."""
