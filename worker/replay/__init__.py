"""Replay of a recording in a fresh sandbox, without a model: done again, and every difference classified."""
