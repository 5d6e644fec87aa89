"""The guide: pages of Markdown that come with the package; ``token-handlers guide`` prints them."""

PAGES = ("why", "recipes", "switching", "scaling")

WHY = "see 'Why is my count zero, estimated or different?': token-handlers guide why"
"""What the warnings end with."""


def page(name: str) -> str:
    """Return a page's text."""
    from importlib.resources import files  # half as long to import as everything else here

    return files(__name__).joinpath(f"{name}.md").read_text("utf-8")
