"""Searches: many runs over declared ranges. `lightkeras.tuner` is what users see of it.

space        what is searched, fixed and narrowed
journal      what happened, on disk before anything follows from it
records      what the journal says of each run
oracles      keras-tuner's oracles, asked and told
pruning      when a trial is stopped early
work         one run, in whatever process
worker       a process that works
pool         such processes, watched over
coordinator  who runs what next: decides, notes, then hands out
"""
