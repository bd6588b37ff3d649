"""Rules of Expunge: values and decisions, the standard library alone, no I/O."""
