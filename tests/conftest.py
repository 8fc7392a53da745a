"""One thread a test process: the tensors are tiny, and several processes share the cores.

Its place also puts tests/ on the import path, for ``from oracles...``.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"
