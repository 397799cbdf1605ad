from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Ignore the warnings of TRL's default arguments, whose names transformers has deprecated."""
    for item in items:
        if "tests/trainer/shared_prefix/" in str(item.path):
            item.add_marker(pytest.mark.filterwarnings("ignore::FutureWarning:transformers"))
