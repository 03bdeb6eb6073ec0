"""Files, locks, memory, signals, random states and messages: what every other part may use."""
