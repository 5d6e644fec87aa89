"""Which provider a framework means: LangChain's, LlamaIndex's and OpenTelemetry's names to genai-prices' ids."""

import re

COMPATIBLE = "openai-compatible"
"""A client for OpenAI's API whose server is anybody's."""

_NAMES = {
    "anthropic": "anthropic claude",
    "aws": "aws awsbedrock amazonbedrock bedrock bedrockconverse amazonbedrockconverse anthropicbedrock "
    "bedrockanthropic anthropicmantle openaimantle",
    "azure": "azure azureopenai azurechatopenai azureaiopenai azopenai azaiopenai azureai azaiinference "
    "azureaiinference azureinference azureaifoundry azurefoundry azureopenaimultimodal",
    "cerebras": "cerebras",
    "cloudflare": "cloudflare cloudflareworkersai workersai",
    "cohere": "cohere",
    "databricks": "databricks",
    "deepseek": "deepseek",
    "fireworks": "fireworks fireworksai",
    "google": "google googlegenai genai gcpgenai gcpgemini gemini googlegemini googlegenerativeai googleaistudio "
    "vertex vertexai googlevertex googlevertexai gcpvertexai vertexaianthropic anthropicvertex vertexanthropic "
    "googleanthropicvertex",
    "groq": "groq",
    "litellm": "litellm litellmllm lite",  # the class name's core is cut as if "llm" were no part of it
    "minimax": "minimax",
    "mistral": "mistral mistralai",
    "moonshotai": "moonshotai moonshot kimi",
    "novita": "novita novitaai",
    "openai": "openai openaimultimodal",
    COMPATIBLE: "openailike openaicompatible openaiapicompatible openaiapilike customopenai",
    "openrouter": "openrouter",
    "perplexity": "perplexity perplexityai",
    "together": "together togetherai",
    "voyageai": "voyageai voyage",
    "x-ai": "xai grok",
    "zai": "zai",
    "zhipuai": "zhipuai zhipu",
}
_IDS = {name: provider for provider, names in _NAMES.items() for name in names.split()}

_UNLISTED = (
    "ollama vllm llamacpp llamafile lmstudio localai gpt4all xinference mlx mlxpipeline ctransformers "
    "huggingface huggingfacehub huggingfacepipeline huggingfaceendpoint huggingfaceapi huggingfaceinferenceapi "
    "nvidia nvidiaaiendpoints nvidianim nim ibm watsonx ibmwatsonx ibmwatsonxai sambanova sambanovacloud "
    "deepinfra replicate sagemaker sagemakerendpoint anyscale predibase ai21 alephalpha writer oci ocigenai "
    "dashscope tongyi snowflake"
)
NOT_IN_CATALOG = frozenset(_UNLISTED.split())
"""Local servers and sellers that genai-prices has no table of: another seller's price would be a wrong one."""

_PUNCTUATION = re.compile(r"[^a-z0-9]+")
_CLASS_NAME = re.compile(r"(?:chat)?(.+?)(?:llm|chat|embeddings?|responses)*")


def flat(name: str) -> str:
    """The name in lower case, letters and digits alone."""
    return _PUNCTUATION.sub("", name.lower())


def provider_id(name: str) -> str:
    """genai-prices' id for a provider's name or a client's class name; a name that is not known, flat.

    Names match as a whole: genai-prices' own hints match within a name, and so take openai_like for OpenAI.
    """
    whole = flat(name)
    if whole in _IDS or whole in NOT_IN_CATALOG:
        return _IDS.get(whole, whole)
    core = _CLASS_NAME.fullmatch(whole)
    inner = core[1] if core else whole
    return _IDS.get(inner, inner if inner in NOT_IN_CATALOG else whole)


def is_vertex(name: str | None) -> bool:
    """Whether a provider's name means Google's Vertex AI, and not the Gemini API."""
    return "vertex" in (name or "").lower()
