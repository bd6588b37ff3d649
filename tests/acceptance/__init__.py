"""One story a promise, told with real processes. A package: the town closes when its last test is done."""
