"""One thread a test process: the tensors are tiny, and several processes share the cores.

Its place also puts tests/ on the import path, for ``from oracles...``.
"""

import os
import time

import pytest

os.environ["OMP_NUM_THREADS"] = "1"


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """What a machine is too slow for is left out and counted, if the environment says when tests are to end (seconds
    since 1970)."""
    if time.time() > float(os.environ.get("TESTS_END", "inf")):
        pytest.skip("no time was left for it")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """A failure is told when it is found: whoever stops the tests learns of it too."""
    if report.failed and "PYTEST_XDIST_WORKER" not in os.environ:
        print(f"\nFAILED {report.nodeid} ({report.when})\n{report.longreprtext[-2000:]}", flush=True)
