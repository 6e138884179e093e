"""The fault suite: real processes against real servers, one fault at a time, then a soak. `make test-faults`."""
