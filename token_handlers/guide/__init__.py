"""The guide: pages of Markdown, and a dashboard, that come with the package; ``token-handlers guide`` prints them."""

from token_handlers.errors import WHY

__all__ = ["DASHBOARDS", "PAGES", "WHY", "page"]

PAGES = ("why", "recipes", "switching", "scaling")

DASHBOARDS = ("grafana",)
"""Dashboards for the metrics of OTelMetrics, as JSON."""


def page(name: str) -> str:
    """Return the text of a page or a dashboard."""
    from importlib.resources import files  # half as long to import as everything else here

    file = f"{name}.json" if name in DASHBOARDS else f"{name}.md"
    return files(__name__).joinpath(file).read_text("utf-8")
