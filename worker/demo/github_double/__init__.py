"""A GitHub double on loopback for `devstral-fix demo` and the tests: see `double.GitHubDouble`."""

from worker.demo.github_double.double import GitHubDouble
from worker.demo.github_double.faults import Logged
from worker.demo.github_double.hop import DeliveryRecord

__all__ = ["DeliveryRecord", "GitHubDouble", "Logged"]
