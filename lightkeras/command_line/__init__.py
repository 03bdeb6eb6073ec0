"""The command line: the flags of a task, and the output of each command."""
