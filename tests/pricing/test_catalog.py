from decimal import Decimal

import pytest
from genai_prices.data_snapshot import DataSnapshot, get_snapshot, set_custom_snapshot
from genai_prices.types import ClauseEquals, ModelInfo, ModelPrice, Provider

from tests.support.prices import CALL, genai_cost, our_cost, price
from token_handlers.pricing import Price, price_call
from token_handlers.pricing.catalog import sellers


@pytest.mark.parametrize(
    "name",
    [
        *("openai", "openai_llm", "openai_responses_llm", "OpenAIEmbedding", "ChatOpenAI", "azure", "azure.ai.openai"),
        *("AzureOpenAI", "azure_openai_llm", "azure-openai-chat", "AzureChatOpenAI", "AzureOpenAIEmbedding", None),
        *("openai_like", "OpenAILike", "OpenAILikeResponses", "openai-compatible", "my-gateway", "fakechat"),
    ],
)
def test_openais_model_has_its_price_under_every_name(name):
    """OpenAI's own id is priced for its clients, for Azure's, for compatible servers and for unknown providers."""
    assert Price(Decimal("0.0035"), "genai-prices") == price_call(CALL, "gpt-4o", name)


@pytest.mark.parametrize(
    ("model", "names"),
    [
        ("claude-sonnet-4-5-20250929", ("anthropic", "Anthropic_LLM", "google_anthropic_vertex", None)),
        ("gemini-2.5-flash", ("google_genai", "google_vertexai", "GenAI", "gcp.gemini", "gcp.vertex_ai", "Vertex")),
        ("mistral-large-latest", ("mistral", "mistralai", "MistralAI_LLM", "mistral_ai")),
        ("llama-3.3-70b-versatile", ("groq", "Groq", "Groq_LLM")),
        ("us.amazon.nova-lite-v1:0", ("amazon_bedrock", "bedrock", "Bedrock_Converse_LLM", "aws.bedrock")),
        ("command-r-plus", ("cohere", "Cohere_LLM")),
        ("grok-4", ("xai", "x_ai", "x-ai", None)),
        ("deepseek-chat", ("deepseek", "DeepSeek", None)),
        ("sonar", ("perplexity", "ChatPerplexity")),
        ("openai/gpt-4o", ("openrouter", "litellm", "litellm_llm", "lite-llm", "ChatLiteLLM")),
        ("bedrock/us.amazon.nova-lite-v1:0", ("litellm", "litellm_llm")),
        ("bedrock/converse/global.anthropic.claude-sonnet-4-5-20250929-v1:0", ("litellm", "litellm_llm")),
    ],
)
def test_frameworks_names_mean_genai_prices_providers(model, names):
    """LangChain's, LlamaIndex's and OpenTelemetry's names for a provider all find its table."""
    assert [] == [name for name in names if price_call(CALL, model, name) is None]


def test_every_provider_of_genai_prices_goes_by_its_own_id():
    """genai-prices' ids are names too, and none of them is taken for another."""
    assert [] == [
        provider.id
        for provider in get_snapshot().providers
        for model in provider.models[:1]
        if our_cost(CALL, model.id, provider.id, 0) != genai_cost(CALL, model.id, provider.id, 0)
    ]


@pytest.mark.parametrize(
    ("spelled", "plain", "provider"),
    [
        ("models/gemini-2.5-flash", "gemini-2.5-flash", "google_genai"),
        ("models/gemini-2.5-flash", "gemini-2.5-flash", None),
        ("publishers/google/models/gemini-2.5-flash", "gemini-2.5-flash", "google_vertexai"),
        ("projects/p/locations/l/publishers/google/models/gemini-2.5-flash", "gemini-2.5-flash", "google_vertexai"),
        ("us.anthropic.claude-haiku-4-5-20251001-v1:0", "anthropic.claude-haiku-4-5-20251001-v1:0", "amazon_bedrock"),
        (
            "arn:aws:bedrock:us-east-1::foundation-model/anthropic.claude-haiku-4-5-20251001-v1:0",
            "anthropic.claude-haiku-4-5-20251001-v1:0",
            "amazon_bedrock",
        ),
        (
            "arn:aws:bedrock:us-east-1:1:inference-profile/global.anthropic.claude-haiku-4-5-20251001-v1:0",
            "global.anthropic.claude-haiku-4-5-20251001-v1:0",
            "amazon_bedrock",
        ),
        ("ft:gpt-4o-mini-2024-07-18:org::id", "ft:gpt-4o-mini-2024-07-18", "openai"),
        ("GPT-4o", "gpt-4o", "openai"),
    ],
)
def test_long_forms_of_a_models_name_mean_the_model(spelled, plain, provider):
    """Resource names, ARNs, inference profiles and fine-tunes have the price of what they name."""
    assert price_call(CALL, spelled, provider) == price_call(CALL, plain, provider)
    assert price_call(CALL, spelled, provider) is not None


@pytest.mark.parametrize("provider", ["openai", "openai_llm", "OpenAILike", "openai_like", None])
@pytest.mark.parametrize("base_url", ["http://localhost:8000/v1", "https://gw.elb.amazonaws.com/v1", "127.0.0.1:8000"])
def test_an_unknown_server_is_billed_as_openai_only_for_openais_ids(provider, base_url):
    """At an address that is not known an id counts only literally, or with a date: others may be anybody's."""
    known = ("gpt-4o", "gpt-4o-mini-2024-07-18", "gpt-4o-mini-20240718", "gpt-6-sol-2026-10-01")
    assert all(price_call(CALL, model, provider, base_url=base_url) for model in known)
    others = (
        "llama3",
        "gpt-4o-mini-local",
        "ft:gpt-4o-mini-2024-07-18:org::id",
        "gpt-4o-realtime-mine",
        "qwen/qwen3-8b",
    )
    assert not any(price_call(CALL, model, provider, base_url=base_url) for model in others)


@pytest.mark.parametrize("provider", ["google_genai", "GenAI", "openai", None])
def test_an_unknown_server_is_billed_as_google_for_its_numbered_models(provider):
    """Google numbers its models where others date them."""
    url = "http://localhost:8000/v1"
    assert price_call(CALL, "gemini-2.0-flash-001", provider, base_url=url) is not None
    assert price_call(CALL, "my-gemini-2.0-flash-001", provider, base_url=url) is None


@pytest.mark.parametrize(
    ("base_url", "model", "seller"),
    [
        ("https://openrouter.ai/api/v1", "openai/gpt-4o", "openrouter"),
        ("https://api.groq.com/openai/v1", "llama-3.3-70b-versatile", "groq"),
        ("https://api.together.xyz/v1", "MiniMaxAI/MiniMax-M3", "together"),
        ("https://my-resource.openai.azure.com/openai/v1/", "gpt-4o", "azure"),
        ("https://a.privatelink.openai.azure.com/", "gpt-4o", "azure"),
        ("https://generativelanguage.googleapis.com/v1beta/openai/", "gemini-2.5-flash", "google"),
        ("https://bedrock-mantle.us-east-1.api.aws/v1", "openai.gpt-oss-20b-1:0", "aws"),
        ("https://vpce-1.bedrock-runtime.us-east-1.vpce.amazonaws.com", "amazon.nova-lite-v1:0", "aws"),
        ("https://eu.api.openai.com/v1", "ft:gpt-4o-mini-2024-07-18:org::id", "openai"),
        ("HTTPS://API.OPENAI.COM:443/v1", "ft:gpt-4o-mini-2024-07-18:org::id", "openai"),
    ],
)
def test_the_servers_address_outweighs_the_clients_name(base_url, model, seller):
    """An OpenAI client that talks to another provider is billed by that provider's table."""
    billed = genai_cost(CALL, model, seller, 0)
    assert billed is not None
    assert [billed] * 2 == [price_call(CALL, model, name, base_url=base_url, at=0).cost for name in ("openai", None)]


@pytest.mark.parametrize(
    "base_url", ["https://api.openai.com.example/v1", "https://[broken", "https://notapi.openai.com"]
)
def test_a_lookalike_address_is_not_openai(base_url):
    """A host that only begins or ends like OpenAI's, or is none, is an unknown one."""
    assert price_call(CALL, "ft:gpt-4o-mini-2024-07-18:org::id", "openai", base_url=base_url) is None


@pytest.mark.parametrize("provider", ["ollama", "Ollama_llm", "huggingface", "nvidia", "ibm.watsonx.ai", "vllm"])
def test_local_and_unlisted_sellers_are_never_billed_as_another(provider):
    """What a local server or a seller without a table serves has no price, whatever it is called."""
    assert price_call(CALL, "gpt-4o", provider) is None
    assert price_call(CALL, "mistral-large-latest", provider, base_url="http://localhost:11434") is None


def test_without_a_provider_only_a_literal_id_is_priced():
    """A name alone finds its maker if it is the maker's id; what only resembles one is anybody's."""
    assert price_call(CALL, "claude-opus-4-8", None) is not None
    assert [None] * 3 == [price_call(CALL, model, None) for model in ("my-claude", "gpt-mine", "llama3")]


def test_an_id_of_two_makers_is_nobodys_without_a_provider():
    """Where two tables have the same id, a name alone does not say which."""
    openai, other = (
        Provider(
            id=name,
            name=name,
            api_pattern=f"https://{name}",
            model_match=ClauseEquals("twin"),
            models=[ModelInfo(id="twin", match=ClauseEquals("twin"), prices=ModelPrice(input_mtok=Decimal(1)))],
        )
        for name in ("openai", "other")
    )
    set_custom_snapshot(DataSnapshot(providers=[openai], from_auto_update=True))
    assert price_call(CALL, "twin") is not None
    set_custom_snapshot(DataSnapshot(providers=[openai, other], from_auto_update=True))
    assert price_call(CALL, "twin") is None
    assert price_call(CALL, "twin", "other") is not None


def test_the_requested_name_is_the_second_choice():
    """An answer's own name comes before the deployment's, but either finds the price."""
    price = price_call(CALL, "gpt-4o-mini-2024-07-18", "azure")
    assert price == price_call(CALL, "gpt-4o-mini-2024-07-18", "azure", requested="gpt-4o")
    assert price == price_call(CALL, "deployment-7", "azure", requested="gpt-4o-mini")
    assert price == price_call(CALL, None, "azure", requested="gpt-4o-mini")


GATEWAY = "http://127.0.0.1:4000/v1"


def asked_and_answered(asked, answered, provider, base_url=None):
    """Return the cost of a call for which a model was asked, and another name answered."""
    found = price_call(CALL, answered, provider, requested=asked, base_url=base_url)
    return found and found.cost


@pytest.mark.parametrize("provider", ["openai", "openai_like", "ChatOpenAI", None])
@pytest.mark.parametrize(
    ("answered", "maker"),
    [
        ("claude-haiku-4-5-20251001", "anthropic"),
        ("gemini-2.5-flash", "google"),
        ("grok-4", "x-ai"),
        ("gpt-4.1", "openai"),
    ],
)
def test_who_answered_behind_a_gateway_is_billed(provider, answered, maker):
    """A gateway was asked for one model and another one answered: its maker's price holds."""
    billed = price_call(CALL, answered, maker).cost
    assert billed == asked_and_answered("gpt-4.1-mini", answered, provider, GATEWAY)
    assert billed != price_call(CALL, "gpt-4.1-mini", "openai").cost


@pytest.mark.parametrize(
    ("asked", "answered", "provider", "base_url"),
    [
        ("gpt-4.1-mini", "some-model", "openai", GATEWAY),
        ("gpt-4.1-mini", "some-model", "openai", None),
        ("gpt-4.1-mini", "some-model", "openai", "https://api.openai.com/v1"),
        ("gpt-4.1-mini", "llama-3.3-70b", "openai", GATEWAY),
        ("gpt-4.1-mini", "mistral-7b-instruct", "openai", GATEWAY),
        ("gpt-4.1-mini", "deepseek-r1", "openai", GATEWAY),
        ("gpt-4.1-mini", "ft:gpt-4.1-mini-2025-04-14:org::id", "openai", None),
        ("command-a", "some-model", "cohere", None),
    ],
)
def test_an_unknown_name_is_not_the_asked_one(asked, answered, provider, base_url, caplog):
    """Whoever answered by a name that no table has, or that anybody can serve, it was not what was asked for."""
    assert asked_and_answered(asked, answered, provider, base_url) is None
    assert repr(answered) in caplog.text


@pytest.mark.parametrize(
    ("asked", "answered", "provider", "base_url"),
    [
        ("gpt-4o-mini", "our-deployment", "azure", None),
        ("gpt-4o-mini", "our-deployment", "openai", "https://us.openai.azure.com/openai/v1"),
        ("gpt-4o-mini", "gpt-4o-mini-2029-01-31", "openai", "https://api.openai.com/v1"),
        ("gpt-4o-mini", "gpt-4o-mini-20290131", "openai", GATEWAY),
        ("gemini-2.5-flash", "gemini-2.5-flash-001", "google_genai", None),
        ("mistral-large-2512", "mistral-large-2913", "mistral", None),
        ("openai/gpt-4o", "gpt-4o", "openrouter", None),
    ],
)
def test_a_renamed_model_is_the_asked_one(asked, answered, provider, base_url):
    """A deployment of Azure's, another snapshot, a name without its maker: the asked model's price holds."""
    assert price_call(CALL, asked, provider, base_url=base_url).cost == asked_and_answered(
        asked, answered, provider, base_url
    )


def test_azure_never_renames_to_another_models_name():
    """Azure answers by the name of what it served: one that a maker's table has is that model."""
    assert price_call(CALL, "gpt-4.1", "azure").cost == asked_and_answered("gpt-4o-mini", "gpt-4.1", "azure")
    assert asked_and_answered("gpt-4o-mini", "gemini-2.5-flash", "azure") is None


def test_sellers_are_told_maker_first():
    """Who has a model under just that name, for people to choose from."""
    assert "openai" == sellers(get_snapshot(), "gpt-4.1")[0]
    assert ["groq"] == sellers(get_snapshot(), "llama-3.3-70b-versatile")
    assert [] == sellers(get_snapshot(), "nobodys")


@pytest.mark.parametrize(
    ("model", "usd"),
    [
        ("us.anthropic.claude-haiku-4-5-20251001-v1:0", "0.0011"),
        ("global.anthropic.claude-haiku-4-5-20251001-v1:0", "0.001"),
        ("anthropic.claude-haiku-4-5-20251001-v1:0", "0.0011"),
        ("us.amazon.nova-lite-v1:0", "0.00006"),
        ("eu.amazon.nova-lite-v1:0", "0.000078"),
        ("my.amazon-model", None),
    ],
)
def test_bedrocks_ids_are_its_own_at_any_address(model, usd):
    """A private endpoint or a proxy changes no price: nobody else has such names."""
    found = price({"input_tokens": 1000}, model, "amazon_bedrock", base_url="http://127.0.0.1:4566")
    assert (usd and Decimal(usd)) == (found and found.cost)


@pytest.mark.parametrize(("asked", "usd"), [("global", "0.001"), ("us", "0.0011")])
def test_bedrocks_profile_is_in_the_id_that_was_asked_for(asked, usd):
    """InvokeModel's answer has its maker's name for the model."""
    requested = f"{asked}.anthropic.claude-haiku-4-5-20251001-v1:0"
    found = price({"input_tokens": 1000}, "claude-haiku-4-5-20251001", "amazon_bedrock", requested=requested)
    assert Decimal(usd) == found.cost
