"""A backlog looked through with a model: where its issues come from, who is asked, what is kept and shown."""
