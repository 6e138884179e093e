"""A backlog, sorted: which issues the agent is likely to resolve, in which order, and what that may cost. Pure."""
