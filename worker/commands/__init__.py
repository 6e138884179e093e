"""The commands of `devstral-fix`, by area. Each builds what it needs and calls it; nothing else is decided here."""
