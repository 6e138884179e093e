"""GitHub through PyGithub: the adapter of `worker.stages.ports.Forges`."""

from worker.adapters.forge.client import ClientOptions
from worker.adapters.forge.gate import Gate, Rates
from worker.adapters.forge.github import GitHubForges
from worker.adapters.forge.passage import Passages

__all__ = ["ClientOptions", "Gate", "GitHubForges", "Passages", "Rates"]
