"""The command line: flags of a task, and what each command prints."""
