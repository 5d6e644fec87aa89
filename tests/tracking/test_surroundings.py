import pytest

from token_handlers import install, uninstall
from token_handlers.settings import Settings
from token_handlers.tracking.scopes import Labels
from token_handlers.tracking.surroundings import MOST_CHARACTERS, Activity, _Choice, activity, is_chosen, labels_here


@pytest.fixture(autouse=True)
def _restored(monkeypatch):
    """The choice of labels, and who is active here, end with a test."""
    monkeypatch.setattr(_Choice, "is_read", False)
    monkeypatch.setattr(_Choice, "names", None)
    token = activity.set(None)
    yield
    activity.reset(token)


@pytest.mark.parametrize(
    ("setting", "chosen"),
    [
        (None, {"tool", "customer"}),
        ("", {"tool", "customer"}),
        ("all", {"tool", "customer"}),
        (" customer , user_id", {"customer"}),
        ("off", set()),
    ],
)
def test_the_setting(monkeypatch, setting, chosen):
    """AGENTSIGHT_TOKEN_LABELS names the labels that frameworks may add: all without it, none for "off"."""
    if setting is not None:
        monkeypatch.setenv("AGENTSIGHT_TOKEN_LABELS", setting)

    assert chosen == {name for name in ("tool", "customer") if is_chosen(name)}


def test_install_reads_the_setting(monkeypatch):
    """install() reads it again."""
    assert is_chosen("customer")
    monkeypatch.setenv("AGENTSIGHT_TOKEN_LABELS", "off")
    assert is_chosen("customer")
    try:
        install("langchain")
        assert not is_chosen("customer")
    finally:
        uninstall()
    assert frozenset() == Settings().chosen_labels


def test_the_innermost_of_each_kind():
    """The innermost agent and the innermost tool label a call, with so much of their names; a block goes first."""
    outer = Activity("agent", "desk", None)
    tool = Activity("tool", "x" * 1000, outer)
    activity.set(Activity("agent", "weather", tool))

    assert {"agent": "weather", "tool": "x" * MOST_CHARACTERS} == labels_here(Labels()).tags
    assert {"agent": "block", "tool": "x" * MOST_CHARACTERS} == labels_here(Labels(tags={"agent": "block"})).tags


def test_nothing_here():
    """Without an agent and a tool the labels are the very same."""
    labels = Labels("s", "u", {"team": "search"})

    assert labels_here(labels) is labels
