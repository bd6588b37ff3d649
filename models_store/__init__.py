"""The store of model bytes: blobs, the manifests that name versions, and tensor files.

Imports nothing of ours. `tensors` alone needs torch; the HTTP service uses the other modules without it.
"""
