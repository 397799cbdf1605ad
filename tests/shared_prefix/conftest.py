import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pytest_collection_modifyitems(items):
    """TRL's default arguments use names that transformers is about to drop."""
    for item in items:
        if "tests/engine/" in str(item.path):
            item.add_marker(pytest.mark.filterwarnings("ignore::FutureWarning:transformers"))
