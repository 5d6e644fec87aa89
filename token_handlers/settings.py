"""The settings: the only reader of the environment."""

from typing import ClassVar

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

# handler type -> the distribution's import name, and the extra that installs it
FRAMEWORKS = {"langchain": ("langchain_core", "langchain"), "llamaindex": ("llama_index.core", "llamaindex")}


class Settings(BaseSettings):
    """What the environment says; read when it is used, so that setting a variable after the import works."""

    model_config: ClassVar[SettingsConfigDict] = SettingsConfigDict(
        env_prefix="AGENTSIGHT_", extra="ignore", hide_input_in_errors=True
    )

    token_handler_type: str | None = None
    api_key: SecretStr | None = None
    api_endpoint: str = "https://api.agentsight.io"
    conversation_id: str | None = None
    token_ledger: str | None = None
    token_redis_url: SecretStr | None = None
    token_labels: str | None = None
    http: str = Field(default="on", validation_alias="TOKEN_HANDLERS_HTTP")

    @property
    def watches_http(self) -> bool:
        """Whether the providers' own HTTP answers are watched; TOKEN_HANDLERS_HTTP=off leaves the events alone."""
        return self.http.strip().lower() not in ("off", "0", "false", "no")

    @property
    def chosen_labels(self) -> frozenset[str] | None:
        """The labels to take from what frameworks state: None for all, none for "off", else those that are named."""
        names = {name.strip() for name in (self.token_labels or "").split(",")} - {""}
        if not names or names == {"all"}:
            return None
        return frozenset() if names == {"off"} else frozenset(names)
