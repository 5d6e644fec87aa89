"""The providers' own answers, seen under their SDKs: the HTTP clients' methods are wrapped while somebody observes.

    class Mine:
        def wants(self) -> bool:
            # Whether anything is tracked; called for every request of the process, so be quick

        def opened(self, request: ProviderRequest) -> object | None:
            # The owner of a request, None without one; BudgetExceeded: it must not be sent

        def begun(self, owner: object) -> None:
            # Its answer began to come in a stream

        def answered(self, owner: object, answer: ProviderAnswer) -> None:
            # How the request ended, once for each that has an owner

    attach(Mine())
    tapped()   # ["httpx.Client.send", ...]
    detach()

Seen are httpx, httpx2, requests, aiohttp, botocore (Bedrock's Converse and InvokeModel) and aiobotocore, and so custom
transports and mocks under them; not gRPC, websockets, urllib, and urllib3 used directly. Only a POST to a known path
with a body of a known form is a provider's request. An SDK's own retries are requests of their own; redirects are not,
and an SDK's client that sends by another client is seen once. What an observer raises is logged and goes no further.

An answer's ``usage`` is the whole bill only if it ``is_final``. The text of prompts and answers is not kept.
"""

from token_handlers.http.client_errors import NEVER_CONNECTED
from token_handlers.http.completion import completed
from token_handlers.http.exchange import Observer, ProviderAnswer, stop_timing, time_chunks
from token_handlers.http.requests import BilledTool, ProviderRequest, read_parameters
from token_handlers.http.responses import ResponseUsage
from token_handlers.http.taps import attach, detach, tapped

__all__ = [
    "NEVER_CONNECTED",
    "BilledTool",
    "Observer",
    "ProviderAnswer",
    "ProviderRequest",
    "ResponseUsage",
    "attach",
    "completed",
    "detach",
    "read_parameters",
    "stop_timing",
    "tapped",
    "time_chunks",
]
