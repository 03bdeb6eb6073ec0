"""Helpers that every other package may use: files, locks, memory, signals, random states and messages."""
