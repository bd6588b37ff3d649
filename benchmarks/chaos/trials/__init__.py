"""Trials of the fence: jobs delivered many times at once, and holders stopped past their lease."""
