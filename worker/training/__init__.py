"""The plan, the loop, checkpoints and the nets that come with the project."""
