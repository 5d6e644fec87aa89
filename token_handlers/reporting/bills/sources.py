"""The providers whose bills can be read."""

from collections.abc import Iterator, Mapping
from datetime import date
from typing import Protocol

from pydantic import SecretStr

from token_handlers.reporting.bills import anthropic, openai, openrouter
from token_handlers.reporting.bills.api import AdminKey
from token_handlers.reporting.bills.bill import BillRow, ProviderBill


class BillSource(Protocol):
    """One provider's bill: a module of this package."""

    TITLE: str
    ACCOUNT: str
    BASE_URL: str
    KEY: AdminKey
    EXPORTS: str
    COLUMNS: tuple[frozenset[str], ...]

    def read_api(self, base_url: str, key: SecretStr, since: date, until: date, account: str | None) -> ProviderBill:
        """Return the bill from one day to another (included), of one project or workspace where one is named."""

    def rows_of(self, page: Mapping[str, object]) -> list[BillRow]:
        """Return the rows of a page of the API."""

    def table_rows(self, line: Mapping[str, str]) -> Iterator[BillRow]:
        """Return the rows of a line of an export that has one of COLUMNS."""


SOURCES: Mapping[str, BillSource] = {"openai": openai, "anthropic": anthropic, "openrouter": openrouter}
