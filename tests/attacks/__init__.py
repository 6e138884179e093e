"""The attack suite (`make test-attacks`): hostile code in real sandboxes, each attack with a control."""
