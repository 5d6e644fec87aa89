import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.bill_pages import ANTHROPIC_COSTS, ANTHROPIC_USAGE, activity, openai_day, openai_pages
from token_handlers.reporting.bills.bill import BillRow, UnreadableBill
from token_handlers.reporting.bills.sources import SOURCES

PAGES = {
    "openai": [page for pages in openai_pages(openai_day(2)).values() for page in pages],
    "anthropic": [{"data": ANTHROPIC_COSTS}, {"data": ANTHROPIC_USAGE}],
    "openrouter": [{"data": [activity(0.5, 1, 2, 3)]}],
}
JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9), st.just([]), st.just({}), st.just("1e99")
)


def places(value, path=()):
    """Return the paths of all values in JSON."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, each in inner for found in places(each, (*path, key)))]


def replaced(value, path, junk):
    """Return JSON with junk at a path."""
    if not path:
        return junk
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = replaced(value[path[0]], path[1:], junk)
    return copy


@pytest.mark.parametrize("name", SOURCES)
@settings(max_examples=40)
@given(data=st.data())
def test_junk_in_a_page(name, data):
    """Whatever stands at whichever place of a page, it is rows, or an error of ours that says what is wrong."""
    page = data.draw(st.sampled_from(PAGES[name]))
    junk = replaced(page, data.draw(st.sampled_from(places(page)[1:])), data.draw(JUNK))
    with contextlib.suppress(UnreadableBill):
        assert all(isinstance(row, BillRow) and row.cost.is_finite() for row in SOURCES[name].rows_of(junk))


@pytest.mark.parametrize("name", SOURCES)
@settings(max_examples=40)
@given(data=st.data())
def test_junk_in_a_table(name, data):
    """The same of a line of an export."""
    columns = data.draw(st.sampled_from(SOURCES[name].COLUMNS))
    line = {column: data.draw(st.text(max_size=9) | st.just("2026-03-10") | st.just("1")) for column in sorted(columns)}
    with contextlib.suppress(UnreadableBill):
        assert all(isinstance(row, BillRow) for row in SOURCES[name].table_rows(line))
