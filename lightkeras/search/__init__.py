"""Searches: many runs over declared ranges. `lightkeras.tuner` is what users see of it.

space        what is searched, fixed and narrowed
journal      what happened, on disk before anything follows from it
records      what the journal says of each run
oracles      keras-tuner's oracles, asked and told
pruning      when a trial is stopped early
work         one run, in whatever process
worker       a process that works
channel      what is known of such a process, wherever it runs
local        such processes on this machine
agent        what stands for a search on a node of a Ray cluster
cluster      such processes on the nodes of one
pool         all of them, watched over
launching    makes the pool
coordinator  who runs what next: decides, notes, then hands out
"""
