"""Gradient unlearning: courses of phases and one-shot edits, each with one runner; a method is a file.

All of it is empirical: nothing here claims more than that a course was run, and what was seen on the way.
"""
