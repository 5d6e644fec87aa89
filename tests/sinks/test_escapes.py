from hypothesis import given
from hypothesis import strategies as st

from token_handlers.sinks.escapes import ESCAPE, escaped, unescaped

texts = st.text(st.sampled_from(["\0", "\ud800", "\udfff", ESCAPE, "0", "d", "8", "ü", "a"]) | st.characters())


@given(texts)
def test_every_text_comes_back(text):
    """Whatever a label holds, it can be stored as UTF-8 without a NUL, and comes back as it was."""
    stored = escaped(text)

    assert text == unescaped(stored)
    assert b"\0" not in stored.encode()


@given(texts, texts)
def test_texts_that_differ_stay_different(one, other):
    """No two texts are stored alike."""
    assert (one == other) == (escaped(one) == escaped(other))


def test_ordinary_text_is_stored_as_it_is():
    """What a store can hold is what others see in it."""
    for text in ("", "gpt-4o", "Größe 🙂", "a\\u0000"):
        assert text == escaped(text)
