"""The service and its GitHub account: set-up by people, checks, rotation of key and secret."""
