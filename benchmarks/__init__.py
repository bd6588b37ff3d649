"""The demo, and one module for each claim about speed or size; each runs by one command from the root."""
