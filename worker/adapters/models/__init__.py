"""Models behind the conversation port."""
