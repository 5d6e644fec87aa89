"""The guide: pages of Markdown that come with the package; ``token-handlers guide`` prints them."""

from token_handlers.errors import WHY

__all__ = ["PAGES", "WHY", "page"]

PAGES = ("why", "recipes", "switching", "scaling")


def page(name: str) -> str:
    """Return a page's text."""
    from importlib.resources import files  # half as long to import as everything else here

    return files(__name__).joinpath(f"{name}.md").read_text("utf-8")
