from decimal import Decimal

from tests.support.pages import TOTAL, Reader, contents
from tests.support.totals import CHEAP, DEAR
from token_handlers.reporting.label_tables import label_section
from token_handlers.sinks.sql.groups import Groups
from token_handlers.usage import UsageTotals

GROUPS = contents().groups


def names(markup):
    """Return what the rows of a table are called."""
    return [text for text in Reader(markup).texts["span"] if text]


def test_rows():
    """A row has requests, tokens, cost, its share, and what is not exact in it; the sum comes last."""
    reader = Reader(label_section("model", GROUPS["model"], TOTAL))

    assert ["Model", "Requests", "Prompt", "Completion", "Embedding", "Cost"] == reader.texts["th"][:6]
    assert ["2", "1,000", "200", "30", "$3.00 · 100%"] == reader.texts["td"][:5]
    assert ["1", "1", "0", "0", "$0.10 · 3.3%", "1", "0", "0", "0", "unknown"] == reader.texts["td"][5:15]
    assert "my-llama1 estimated1 unpriced" in reader.texts["th"]
    assert "Total1 estimated1 unpriced2 rejected" == reader.texts["th"][-1]


def test_exact_money():
    """What is rounded for people is there in full, to sort by; unknown is less than nothing."""
    costs = Groups({"a": UsageTotals(cost=Decimal("0.12345678")), "b": UsageTotals(cost=None)})
    reader = Reader(label_section("model", costs, TOTAL))

    assert ["0.12345678", "-1"] == [value for name, value in reader.attributes if name == "value"][:2]


def test_many_sessions():
    """A table says how many sessions it sums up, below those that can be sorted."""
    markup = label_section("session", GROUPS["session"], TOTAL)

    assert "999,950 more" in names(markup)
    assert markup.index("</tbody>") < markup.index("999,950 more")
    assert "1 request without a session." in Reader(markup).texts["p"]


def test_a_tag_called_other():
    """A value that is called "(other)" is a row as any."""
    markup = label_section("tag", GROUPS["tag"], TOTAL)

    assert {"team=red", "(other)"} < set(names(markup))
    assert markup.index("(other)") < markup.index("</tbody>")


def test_a_label_that_nothing_has():
    """A label without values has no section."""
    assert "" == label_section("user", Groups({}), TOTAL)


def test_no_column_of_zeros():
    """Without embeddings there is no column of them."""
    assert "Embedding" not in Reader(label_section("user", Groups({"a": CHEAP}), CHEAP)).texts["th"]


def test_people_know_nodes():
    """LangGraph's nodes are called nodes."""
    assert ["By node"] == Reader(label_section("langgraph_node", Groups({"a": DEAR}), DEAR)).texts["h2"]


def test_without_the_script():
    """Where no script runs, there is nothing to click."""
    assert not {"input", "button"} & set(Reader(label_section("model", GROUPS["model"], TOTAL, scripted=False)).tags)
