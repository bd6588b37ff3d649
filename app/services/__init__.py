"""Use cases: one verb a file, one function one transaction."""
