"""Checkpoint stitching measured at the level of the method: many deletions, each beside its exact replay."""
