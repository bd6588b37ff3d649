"""Everything that the store refuses or cannot do.

    StoreError
    ├── StoreUrlRefused    (ValueError)
    ├── DigestMalformed    (ValueError)
    ├── BlobMissing
    ├── BlobCorrupt
    ├── BlobNotWritten
    ├── BlobNotRemoved
    ├── ManifestInvalid    (ValueError)
    └── TensorFileRefused  (ValueError)

Foreign errors (OSError, pydantic, safetensors, rfc8785) are wrapped once, where they appear, and kept as
`__cause__`. The branches that are also a ValueError mean that what was handed in is wrong: the same call
fails again. None of them knows of HTTP, and no message holds record bytes or tensor values.
"""


class StoreError(Exception):
    """The store refused a value or could not do what was asked."""


class StoreUrlRefused(StoreError, ValueError):
    """The store's URL is not one that this version can open."""


class DigestMalformed(StoreError, ValueError):
    """A digest is 64 lower-case hexadecimal digits; this is something else and never becomes a path."""


class BlobMissing(StoreError):
    """No blob has this digest: it was never put here, or it was purged."""


class BlobCorrupt(StoreError):
    """The file under this digest cannot be read, or its bytes hash to something else."""


class BlobNotWritten(StoreError):
    """The blob could not be made durable (disk full, no permission); the caller may not rely on it."""


class BlobNotRemoved(StoreError):
    """Absence of the blob could not be proven, so nothing may be attested about it."""


class ManifestInvalid(StoreError, ValueError):
    """The manifest, or a value meant for canonical JSON, breaks the format; the message names the field."""


class TensorFileRefused(StoreError, ValueError):
    """These are not the tensors that were expected; the message names the tensor where there is one."""
