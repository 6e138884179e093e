"""Host-side git in trusted bare repositories: mirrors, patches, commits, pushes."""

from worker.adapters.repos.repositories import GitRepositories

__all__ = ["GitRepositories"]
