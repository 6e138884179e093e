"""Benchmarks: measured on this machine, written to docs/benchmarks with what was asked of them."""
