"""What a forkserver imports before it forks: all that jobs and trials need; importing this module does it.

Promises: no collection of garbage meanwhile, which would walk through all of torch again and again and find
nothing; what was imported is left out of the children's collections too. Never: a tensor operation.
"""

import gc
import importlib

# By name: an import statement would bring torch into whoever looks at what the supervisor imports.
_NAMES = ("torch", "worker.child", "worker.trial")

gc.disable()
for _name in _NAMES:
    importlib.import_module(_name)
gc.freeze()
gc.enable()
