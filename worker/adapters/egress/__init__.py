"""A set-up's way to the network: an allow-list proxy, and whom to ask for the list."""

from worker.adapters.egress.indexes import Indexes, ask
from worker.adapters.egress.policy import BadHost, Caps, HostPattern, Policy
from worker.adapters.egress.proxy import EgressProxy
from worker.adapters.egress.way import ProxyEgress

__all__ = ["BadHost", "Caps", "EgressProxy", "HostPattern", "Indexes", "Policy", "ProxyEgress", "ask"]
