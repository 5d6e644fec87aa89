"""The style sheets, the script and the template that come with this package."""

from functools import cache
from importlib.resources import files


@cache
def read_data(name: str) -> str:
    """Return the text of a file of this package."""
    return files(__package__).joinpath(name).read_text("utf-8")
