"""Class-conditional image generators: denoisers from ``diffusers``, their noise, and samples of them.

Needs the extra ``generation``. Never: a download; nets begin with weights of their own.
"""
