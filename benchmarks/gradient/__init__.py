"""Gradient methods beside training again without the forgotten."""
