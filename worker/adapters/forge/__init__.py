"""GitHub through PyGithub: the adapter of `worker.stages.ports.Forges`."""

from worker.adapters.forge.client import ClientOptions
from worker.adapters.forge.github import GitHubForges

__all__ = ["ClientOptions", "GitHubForges"]
