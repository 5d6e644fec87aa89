"""What an HTTP client's error says of its request: whether it was sent, and with which status it was answered."""

from collections.abc import Iterator, Mapping

NEVER_CONNECTED = frozenset({
    "ConnectError", "ConnectTimeout", "PoolTimeout", "ProxyError", "UnsupportedProtocol", "LocalProtocolError",
    "InvalidURL", "MissingSchema", "InvalidSchema", "InvalidHeader", "NewConnectionError", "ConnectTimeoutError",
    "NameResolutionError", "ClientConnectorError", "ConnectionTimeoutError", "ConnectionRefusedError", "gaierror",
    "EndpointConnectionError", "NoCredentialsError", "ParamValidationError",
})  # fmt: skip
"""Classes of errors after which nothing was sent, by name, as none of the libraries has to be installed."""

_NOT_SENT = NEVER_CONNECTED | {
    "SSLError", "BotoCoreError", "TooManyRedirects",
    "ArithmeticError", "AssertionError", "AttributeError", "LookupError", "NameError", "RuntimeError", "TypeError",
    "ValueError",
}  # fmt: skip
_SENT = {"HTTPClientError", "IncompleteReadError", "DecodingError", "ResponseParserError"}


def was_sent(error: BaseException) -> bool:
    """Return whether a request may have reached its server, although its client got no answer.

    Errors of connecting and of a client's own code say that it did not; in doubt it did.
    """
    for each in _causes(error):
        names = {kind.__name__ for kind in type(each).__mro__}
        if names & _SENT:
            return True
        if names & _NOT_SENT:
            return False
    return True


def _causes(error: BaseException) -> Iterator[BaseException]:
    found: object = error
    for _ in range(6):
        if not isinstance(found, BaseException):
            return
        yield found
        inner = (found.__cause__, getattr(found, "reason", None), *found.args[:2])
        found = next((each for each in inner if isinstance(each, BaseException)), None)


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status of the answer that an error is about: httpx's, requests', aiohttp's or botocore's."""
    response = getattr(error, "response", None)
    if isinstance(response, Mapping):
        found = response.get("ResponseMetadata")
        status = found.get("HTTPStatusCode") if isinstance(found, Mapping) else None
    else:
        status = getattr(response, "status_code", getattr(error, "status", None))
    return status if type(status) is int and status else None
