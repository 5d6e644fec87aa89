from tests.support.totals import EVIL
from token_handlers.reporting.markup import Markup, join, tag


def test_texts_are_escaped_and_elements_are_not():
    """What is no element is text, wherever it stands."""
    assert (
        '<p title="&quot;&gt;&lt;b&gt;">&lt;script&gt;document.title=&#x27;broken&#x27;&lt;/script&gt;<b>1</b></p>'
        == tag("p", EVIL, tag("b", "1"), title='"><b>')
    )
    assert "&lt;<b></b>" == join(["<", Markup("<b></b>")])


def test_attributes():
    """A flag has no value, what is empty or off is left out, and names are HTML's."""
    assert '<input class="a" aria-label="b" hidden/>' == tag(
        "input", class_="a", aria_label="b", hidden=True, disabled=False, title=""
    )
    assert '<rect width="0"/>' == tag("rect", width=0)
