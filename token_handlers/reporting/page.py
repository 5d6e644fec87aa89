"""The report as one HTML page: it asks no network, and is readable on a phone, on paper, in the dark and aloud."""

import base64
import hashlib
import html
from string import Template

from token_handlers.reporting import figures, label_tables, remarks, timeline
from token_handlers.reporting.contents import Contents
from token_handlers.reporting.markup import tag
from token_handlers.reporting.package_data import read_data


def page(contents: Contents) -> str:
    """Return the page; every name in it is escaped.

    Its policy lets a browser run and apply what came with this package, and nothing else: neither what a name may
    have smuggled in nor anything from a network.
    """
    style, script = read_data("charts.css") + read_data("page.css"), read_data("page.js")
    sections = (
        figures.header(contents),
        figures.figures(contents),
        tag("p", "No calls in this time.", class_="soft") if contents.period is None else "",
        figures.budget(contents),
        timeline.cost_chart(contents.in_time, contents.budget),
        timeline.token_chart(contents.in_time),
        remarks.savings(contents),
        remarks.what_if(contents),
        remarks.exactness(contents),
        *(label_tables.label_section(label, groups, contents.total) for label, groups in contents.groups.items()),
    )
    return Template(read_data("page.html")).substitute(
        policy=_policy(style, script),
        title=html.escape(contents.title),
        style=style,
        sections="\n".join(filter(None, sections)),
        script=script,
    )


def _policy(style: str, script: str) -> str:
    return (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
