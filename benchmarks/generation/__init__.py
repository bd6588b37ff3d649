"""A class forgotten by an image generator."""
