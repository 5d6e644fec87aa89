"""Who served a call, where, when and how: all that can change the rates of a model."""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from token_handlers.pricing.providers import is_vertex

_STANDARD_TIERS = frozenset(("", "default", "standard", "standard_only", "auto", "on_demand"))
_TIERS = {  # Vertex AI's traffic types, and what the clients make of them
    "on_demand_priority": "priority",
    "on_demand_flex": "flex",
    "batches": "batch",
}
_LOCATION = re.compile(r"/projects/[^/]+/locations/([^/?]+)")
_DEPLOYMENT = re.compile(r"/deployments/([^/?]+)")
_VERTEX_HOST = re.compile(
    r"(?:([a-z]+-[a-z]+\d+)-)?aiplatform\.googleapis\.com|aiplatform\.([a-z]+)\.rep\.googleapis\.com"
)
_BEDROCK_HOST = re.compile(r"bedrock[a-z-]*\.([a-z]{2}(?:-[a-z]+)+-\d+)\.")
_BEDROCK_PROFILE = re.compile(r"(?:.*/)?([a-z]{2,6}(?:-gov)?)\.[a-z0-9]+\.[a-z]")


class Served(NamedTuple):
    """One call, as far as its rates depend on it.

    ``seller`` is genai-prices' id of the provider that bills, ``maker`` of the one whose row it is, ``name`` the
    model's name in the call, ``model`` the row's id, ``location`` what a URL of Vertex AI's names, ``requested`` the
    name that was asked for, in lower case, such as a deployment's, ``deployment`` Azure's name of it where that is
    another one.
    """

    seller: str
    maker: str
    name: str
    model: str
    at: datetime
    provider: str | None = None
    host: str | None = None
    location: str = ""
    service_tier: str | None = None
    context: Mapping[str, str] = {}
    requested: str = ""
    deployment: str = ""

    @property
    def tier(self) -> str:
        """The service tier in lower case under one name a tier; "" for the standard one, under any name."""
        return tier_name(self.service_tier)

    def said(self, key: str) -> str:
        """What the call's context has under a key, in lower case; "" for nothing."""
        return str(self.context.get(key) or "").strip().lower()

    @property
    def place(self) -> str:
        """The region or location that served, in lower case; "" where it is not known."""
        said = (self.said(key) for key in ("region", "location", "inference_geo"))
        return next(filter(None, said), "") or self.location or self._place_of_host()

    @property
    def profile(self) -> str:
        """The geography that an inference profile of Bedrock's names, such as "eu" or "global"; "" for none."""
        found = _BEDROCK_PROFILE.match(self.name) if self.seller == "aws" else None
        return found[1] if found else ""

    @property
    def on_vertex(self) -> bool:
        """Whether Google's Vertex AI served, and not the Gemini API."""
        if self.seller != "google":
            return False
        if self.host and ("aiplatform" in self.host or "generativelanguage" in self.host):
            return "aiplatform" in self.host
        routed = self.requested.partition("/")[0] if "/" in self.requested else ""  # as LiteLLM has it
        return bool(self.location or self.said("region")) or is_vertex(self.provider) or is_vertex(routed)

    def _place_of_host(self) -> str:
        if self.seller == "aws":
            region = _BEDROCK_HOST.search(self.host or "")
            return region[1] if region else ""
        found = _VERTEX_HOST.fullmatch(self.host or "")
        return (found[1] or found[2] or "global") if found else ""


def tier_name(service_tier: str | None) -> str:
    """Return a service tier under one name, "" for the standard one."""
    tier = (service_tier or "").strip().lower()
    return "" if tier in _STANDARD_TIERS else _TIERS.get(tier, tier)


def host_of(base_url: str | None) -> str | None:
    """Return the host name in an address, in lower case; None where there is none."""
    if not base_url:
        return None
    try:
        return urlsplit(base_url if "//" in base_url else f"//{base_url}").hostname
    except ValueError:
        return None


def location_of(base_url: str | None) -> str:
    """Return the location in an address of Google's Vertex AI, in lower case; "" where it has none."""
    found = _LOCATION.search(base_url or "")
    return found[1].lower() if found else ""


def deployment_of(base_url: str | None) -> str:
    """Return the deployment in an address of Azure's, in lower case; "" where it has none."""
    found = _DEPLOYMENT.search(base_url or "")
    return unquote(found[1]).lower() if found else ""


def version(model: str) -> tuple[int, int] | None:
    """Return the (major, minor) version that a name has after its family: claude-opus-4-8, gpt-5.4-mini, gemini-3-pro.

    A date after a name is no minor version.
    """
    found = re.search(r"(?:claude-(?:[a-z]+-)?|gpt-|gemini-)(\d{1,2})(?:[.-](\d{1,2})(?!\d))?(?!\d)", model)
    return (int(found[1]), int(found[2] or 0)) if found else None
