"""The commands of a page are run one after the other, in one process: some need what others have made."""

import re
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling


class ByPage(LoadScopeScheduling):
    def _split_scope(self, nodeid: str) -> str:
        """The page of a command; any other test is by itself. (Groups of pytest-xdist 3.8 are lost on pytest 9.2.)"""
        found = re.search(r"::test_a_command_of_the_pages_runs\[(\S+): ", nodeid)
        return found[1] if found else nodeid


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Studies come first: each is minutes in one process, which at the end would be waited for."""
    items.sort(key=lambda item: item.path.name == "test_docs.py")


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByPage:
    return ByPage(config, log)
