import pytest

from tests.support.llama_index_budgets import settled


@pytest.fixture
def make_budget():
    """A maker of budgets for LlamaIndex's calls, of which nothing is held any more when the test ends."""
    with settled() as make:
        yield make
