"""The HTTP service and the shared core: rules, tables, use cases and routes."""
