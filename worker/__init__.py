"""The GPU side of Expunge: imports data, trains models and makes them forget."""
