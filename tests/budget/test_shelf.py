import sqlite3

import pytest

from token_handlers.budget.shelf import Shelf


def test_a_shelf_that_is_dropped():
    """Its file is closed with it: from Python 3.13 on, one that is left open is a warning."""
    shelf = Shelf()
    connection = shelf._connection
    del shelf

    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        connection.execute("SELECT 1")
