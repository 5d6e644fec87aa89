import pytest
from pydantic import SecretStr

from token_handlers.reporting.bills import api, openai
from token_handlers.reporting.bills.api import BillAPI, BillUnavailable, checked_key

KEY = SecretStr("sk-admin-sesame")
PATH = "/organization/costs"
NOW = {"Retry-After": "0"}


def read(bills, key=KEY):
    """Return the pages of a report."""
    return list(
        BillAPI(bills.url, key, openai.KEY, {"Authorization": f"Bearer {key.get_secret_value()}"}).pages(PATH, [])
    )


@pytest.fixture
def pages(bills):
    """The server, with three pages of a report."""
    bills.pages[PATH] = [{"data": [number]} for number in range(3)]
    return bills


def test_pages(pages):
    """Each page names the next one; all are read, in order, with the key."""
    assert [[0], [1], [2]] == [page["data"] for page in read(pages)]
    assert [[], [("page", "page_1")], [("page", "page_2")]] == pages.params(PATH)
    assert {"Bearer sk-admin-sesame"} == {headers["Authorization"] for _, _, headers in pages.asked}


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_passes(pages, status):
    """A server that is busy is asked again, after as long as it says."""
    pages.fail(status, NOW)
    pages.fail(status, NOW)

    assert 3 == len(read(pages))
    assert 5 == len(pages.asked)


def test_what_is_dropped(pages, monkeypatch):
    """A connection that is lost is made again."""
    monkeypatch.setattr(api, "BACKOFF", 0.0)
    pages.fail(None)

    assert 3 == len(read(pages))


def test_what_stays(pages):
    """After four attempts it is an error, with the status and what to do."""
    for _ in range(4):
        pages.fail(503, NOW)

    with pytest.raises(BillUnavailable, match="answered 503 and asks to wait 0 s: try again later") as caught:
        read(pages)
    assert (503, 4) == (caught.value.status, len(pages.asked))


def test_a_long_wait_is_not_waited_for(pages):
    """Who is asked to wait an hour is told so at once."""
    pages.fail(429, {"Retry-After": "3600"})

    with pytest.raises(BillUnavailable, match="answered 429 and asks to wait 3600 s: try again later"):
        read(pages)
    assert 1 == len(pages.asked)


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize(
    ("key", "kind"),
    [("sk-admin-sesame", ""), ("sk-proj-sesame", "does not begin with sk-admin-, so that it is another kind of key; ")],
)
def test_a_key_that_is_refused(pages, status, key, kind):
    """The remedy names the key that is needed; neither the key nor what the server says of it is shown."""
    pages.fail(status, body=b'{"error": {"message": "Incorrect API key provided: sk-***same"}}')

    with pytest.raises(BillUnavailable) as caught:
        read(pages, SecretStr(key))
    assert f"answered {status}, so that the key is refused: " in str(caught.value)
    assert "same" not in str(caught.value)
    assert kind in str(caught.value)
    assert str(caught.value).endswith("/settings/organization/admin-keys: set OPENAI_ADMIN_KEY")
    assert 1 == len(pages.asked)


def test_what_is_wrong_with_the_request(pages):
    """The provider's own words are passed on, without the key."""
    pages.fail(400, body=b'{"error": {"message": "start_time is too early (sk-admin-sesame)"}}')

    with pytest.raises(BillUnavailable, match=r"answered 400; start_time is too early \(\(the key\)\); check"):
        read(pages)


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"\xff", b"[" * 100_000, b'{"data": [NaN'])
def test_what_is_no_page(pages, body):
    """An answer that is none, such as a login page's, says what to check."""
    pages.fail(200, body=body)

    with pytest.raises(BillUnavailable, match="did not answer with a page of a bill: check --base-url"):
        read(pages)


def test_a_huge_answer(pages, monkeypatch):
    """An answer is read up to a limit."""
    monkeypatch.setattr(api, "MAX_BODY", 2**20)
    pages.fail(200, body=b" " * (2**20 + 1))

    with pytest.raises(BillUnavailable, match="sent more than 1 MiB: ask for fewer days"):
        read(pages)


def test_a_packed_answer(pages):
    """What is packed though nobody asked for it is not unpacked: it may be of any size."""
    pages.fail(200, {"Content-Encoding": "gzip"}, b"\x1f\x8b")

    with pytest.raises(BillUnavailable, match="ask for fewer days"):
        read(pages)
    assert {"identity"} == {headers["Accept-Encoding"] for _, _, headers in pages.asked}


def test_an_answer_that_drips(pages, monkeypatch):
    """The time is that of a whole answer, and not of each read."""
    monkeypatch.setattr(api, "ANSWER_SECONDS", 0.2)
    pages.fail(200, body=b"{", drip=True)

    with pytest.raises(BillUnavailable, match=r"gave no whole answer within 0\.2 s"):
        read(pages)


def test_pages_without_end(pages):
    """A page that names itself is an error, and not a loop."""
    pages.pages[PATH] = [{"data": [], "has_more": True, "next_page": "page_0"}]

    with pytest.raises(BillUnavailable, match="has pages without end"):
        read(pages)


def test_a_redirect_is_not_followed(pages):
    """The key goes to nobody else."""
    pages.fail(302, {"Location": "http://127.0.0.1:1/"})

    with pytest.raises(BillUnavailable, match="answered 302"):
        read(pages)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://api.openai.com/v1", "an admin key is not sent to api.openai.com unencrypted"),
        ("http://127.0.0.1.evil.example", "unencrypted"),
        ("ftp://api.openai.com", "must be an address"),
        ("api.openai.com", "must be an address"),
        ("https://user:pass@api.openai.com", "must be an address"),
    ],
)
def test_addresses(url, reason):
    """An address is https, or this machine's, and has no password."""
    with pytest.raises(BillUnavailable, match=reason):
        BillAPI(url, KEY, openai.KEY, {})


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        (None, "set OPENAI_ADMIN_KEY; or name an export with --file"),
        (" ", "set OPENAI_ADMIN_KEY; or name an export with --file"),
        ("sk-admin-se\nsame", "OPENAI_ADMIN_KEY holds a blank"),
        ("sk-admin-sésame", "OPENAI_ADMIN_KEY holds a blank or a character that no key has"),
    ],
)
def test_keys(key, reason):
    """A key that can't be one is refused before anything is sent, and is not shown."""
    with pytest.raises(BillUnavailable, match=reason) as caught:
        checked_key(None if key is None else SecretStr(key), openai.KEY, "OpenAI")
    assert "same" not in str(caught.value)
    assert "sk-admin-sesame" == checked_key(SecretStr("sk-admin-sesame\n"), openai.KEY, "OpenAI").get_secret_value()
