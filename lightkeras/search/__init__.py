"""Searches: many runs over declared ranges. Users call them through `lightkeras.Tuner`.

coordinator     chooses the next run, and writes it to the journal before it starts
loop            assigns runs to workers and handles their messages
trial_run       one run, in whatever process
journal         events of the search on disk; a search is resumed from it alone
records         state of each run, computed from the events
space           searched, fixed and narrowed hyperparameters
oracles         keras-tuner's oracles
pruning         when a trial is stopped early
outputs         trials.csv, best/ and result.json
figures         figures and importance of hyperparameters
progress_table  running trials on the terminal
repeat_trial    runs a trial again and compares it bit for bit
workers/        worker processes, on this machine or on a Ray cluster
"""
