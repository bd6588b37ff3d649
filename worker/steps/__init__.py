"""The steps of a job, one verb a file."""
