import pytest
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.llms import MockLLM

from token_handlers import track_tokens
from token_handlers.llama_index.model_names import model_name


def test_mocks_are_named_by_their_classes():
    """A mock has no model; in a table by model it is not "unknown"."""
    with track_tokens() as counter:
        MockLLM(max_tokens=3).complete("How?")
        MockEmbedding(embed_dim=2).get_text_embedding("one")

    assert {"MockLLM", "MockEmbedding"} == set(counter.by_model)


class Jina:
    """As llama-index-embeddings-jinaai has it."""

    model = "jina-embeddings-v3"


@pytest.mark.parametrize(
    ("facts", "instance", "name"),
    [
        ({"model_name": "gpt-5", "class_name": "x"}, Jina(), "gpt-5"),
        ({"model_name": "unknown", "class_name": "JinaEmbedding"}, Jina(), "jina-embeddings-v3"),
        ({"model": "gpt-5"}, None, "gpt-5"),
        ({"model_name": "", "class_name": "Own"}, None, "Own"),
        ({"model_name": 3}, None, None),
    ],
)
def test_what_names_a_model(facts, instance, name):
    """The event's word, else the model's own, else its class's."""
    assert name == model_name(facts, instance)
