"""The settings: the only reader of the environment."""

from pathlib import Path
from typing import ClassVar

from pydantic import AliasChoices, Field, SecretStr
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
    token_ledger: str | None = Field(default=None, repr=False)  # a URL may have a password
    token_redis_url: SecretStr | None = None
    token_labels: str | None = None
    token_prices: str | None = None
    cache_home: str | None = Field(default=None, validation_alias="XDG_CACHE_HOME")
    http: str = Field(default="on", validation_alias="TOKEN_HANDLERS_HTTP")
    openai_admin_key: SecretStr | None = Field(default=None, validation_alias="OPENAI_ADMIN_KEY")
    anthropic_admin_key: SecretStr | None = Field(
        default=None, validation_alias=AliasChoices("ANTHROPIC_ADMIN_KEY", "ANTHROPIC_ADMIN_API_KEY")
    )
    openrouter_management_key: SecretStr | None = Field(default=None, validation_alias="OPENROUTER_MANAGEMENT_KEY")

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

    @property
    def price_updates(self) -> str | None:
        """Where newer price tables are to come from: a URL, "" for genai-prices' own, None for no updates."""
        said = (self.token_prices or "").strip()
        if said.lower() in ("", "off", "bundled"):
            return None
        if said.lower() == "auto":
            return ""
        if "://" not in said:
            raise ValueError(f"AGENTSIGHT_TOKEN_PRICES is 'auto', 'off' or an https URL, not {said!r}")
        return said

    @property
    def cache_folder(self) -> Path | None:
        """The folder for what can be had again, None for the system's own."""
        return Path(self.cache_home) if self.cache_home and Path(self.cache_home).is_absolute() else None
