import json
from datetime import date
from decimal import Decimal

import pytest

from tests.support.bill_pages import ANTHROPIC_COSTS, activity, openai_day, openai_pages
from token_handlers.errors import TokenHandlersError
from token_handlers.reporting.bills import export_file
from token_handlers.reporting.bills.bill import plain_model, summed
from token_handlers.reporting.bills.export_file import read_exports
from token_handlers.reporting.bills.sources import SOURCES

OPENAI_COSTS = """\
start_time,end_time,start_time_iso,end_time_iso,amount_value,amount_currency,quantity,line_item,project_id
1773014400,1773100800,2026-03-09T00:00:00+00:00,2026-03-10T00:00:00+00:00,,,,,
1773100800,1773187200,2026-03-10T00:00:00+00:00,2026-03-11T00:00:00+00:00,0.0038359800000000,usd,,"gpt-5, input",proj_a
"""
OPENAI_USAGE = """\
start_time\tend_time\tproject_id\tnum_model_requests\tmodel\tinput_tokens\toutput_tokens\tinput_cached_tokens
1773100800\t1773100860\tproj_a\t3.0\tgpt-5\t4212\t1673\t
1773100860\t1773100920\tproj_a\t25.0\tgpt-5\t15738\t1482\t12
"""
ANTHROPIC_COST = """\
usage_date_utc,model,workspace,api_key,usage_type,context_window,token_type,cost_usd,list_price_usd,cost_type
2026-03-10,Claude Sonnet 4.5,Default,"a, b",message,≤ 200k,input_no_cache,0.19,0.20,token
2026-03-10,,Default,a,,,,0.02,0.02,web_search
"""
ANTHROPIC_USAGE = """\
usage_date_utc,model_version,api_key,workspace,usage_type,usage_input_tokens_no_cache,usage_input_tokens_cache_write_5m,\
usage_input_tokens_cache_write_1h,usage_input_tokens_cache_read,usage_output_tokens,web_search_count
2026-03-10,claude-sonnet-4-5-20250929,a,Default,standard,100,20,3,4,50,2
"""
OPENROUTER = """\
generation_id,created_at,cost_total,byok_usage_inference,tokens_prompt,tokens_completion,tokens_cached,model_permaslug,variant
gen-1,2026-03-10 23:59:57.713,0.0123,0,10389,137,9,openai/gpt-oss-120b,standard
gen-2,2026-03-11T00:00:01Z,0,0,5,1,0,openai/gpt-oss-120b,free
"""


@pytest.fixture
def read(tmp_path):
    """Return what writes texts to files and reads them as a provider's."""

    def run(provider, *texts):
        paths = [tmp_path / f"{number}.txt" for number in range(len(texts))]
        for path, text in zip(paths, texts, strict=True):
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
        source = SOURCES[provider]
        return read_exports(paths, source, [other for other in SOURCES.values() if other is not source]).rows

    return run


def test_openai(read):
    """Costs to the last digit and usage by the minute; days without any are no rows."""
    rows = read("openai", "\ufeff" + OPENAI_COSTS.replace("\n", "\r\n"), OPENAI_USAGE)
    total = summed(rows)

    assert {date(2026, 3, 10)} == {row.day for row in rows}
    assert (Decimal("0.00383598"), 28, {"proj_a"}) == (total.cost, total.requests, {row.account for row in rows})
    assert (19_950, 3_155, 12) == tuple(
        total.counts[name] for name in ("input_tokens", "output_tokens", "cache_read_tokens")
    )


def test_anthropic(read):
    """Names of models for people and for machines are one, and cents are known to be rounded."""
    rows = read("anthropic", ANTHROPIC_COST, ANTHROPIC_USAGE)
    total = summed(rows)

    assert ["claude-sonnet-4-5", None, "claude-sonnet-4-5"] == [row.model and plain_model(row.model) for row in rows]
    assert ({"uncached_tokens": Decimal("0.19"), "web_searches": Decimal("0.02")}) == total.costs
    assert (Decimal("0.22"), Decimal("0.01")) == (total.list_cost, total.rounding)
    assert (127, 4, 23, 2) == tuple(
        total.counts[name] for name in ("input_tokens", "cache_read_tokens", "cache_write_tokens", "web_searches")
    )


def test_openrouter(read):
    """Each line is a call, on its day in UTC; a variant is a model."""
    rows = read("openrouter", OPENROUTER)

    assert [(date(2026, 3, 10), "openai/gpt-oss-120b"), (date(2026, 3, 11), "openai/gpt-oss-120b:free")] == [
        (row.day, row.model) for row in rows
    ]
    assert [1, 1] == [row.requests for row in rows]


@pytest.mark.parametrize(
    ("provider", "pages"),
    [
        ("openai", [page for pages in openai_pages(openai_day(2)).values() for page in pages]),
        ("anthropic", [{"data": ANTHROPIC_COSTS}]),
        ("openrouter", [{"data": [activity(0.5, 1, 2, 3)]}]),
    ],
)
def test_answers_that_somebody_kept(read, provider, pages):
    """A page, a list of pages, and a page a line are read alike."""
    alone = summed(read(provider, *map(json.dumps, pages))).cost

    assert alone > 0
    assert alone == summed(read(provider, json.dumps(pages))).cost
    assert alone == summed(read(provider, "\n".join(map(json.dumps, pages)))).cost


@pytest.mark.parametrize(
    ("provider", "text", "reason"),
    [
        ("openai", OPENROUTER, "no bill of OpenAI: it looks like OpenRouter's; --file takes the costs or the usage"),
        ("openrouter", json.dumps({"data": ANTHROPIC_COSTS}), "it looks like Anthropic's"),
        ("openai", "", "it is empty"),
        ("openai", "a,b\n1,2\n", "its columns are a, b"),
        ("openai", "{", "it is no JSON"),
        ("openai", '{"data"', "it is no JSON"),
        ("openai", "[1]", "it has no data"),
        ("openai", "[" * 100_000, "it is no JSON"),
        ("openai", b"\x89PNG\xff", "is no text in UTF-8"),
        ("openai", "start_time,amount_value\n1773100800,much\n", "amount is no amount of money"),
        ("openai", "start_time,amount_value\nsoon,1\n", "start_time is no day: 'soon'"),
        ("openai", OPENAI_USAGE, "has usage and no cost: add the export of the cost with another --file"),
        ("openai", "start_time,end_time\n1773100800,1773187200\n", "its columns are end_time, start_time"),
    ],
)
def test_a_file_that_is_another_thing(read, provider, text, reason):
    """What is no bill of this provider says so, what it is, and what is taken."""
    with pytest.raises(TokenHandlersError, match=reason):
        read(provider, text)


def test_files_that_cannot_be_read(tmp_path, monkeypatch):
    """A file that is not there, a folder, and one that is too large are errors with a remedy."""
    path = tmp_path / "export.csv"
    for wrong in (path, tmp_path):
        with pytest.raises(TokenHandlersError, match="name an export with --file"):
            read_exports([wrong], SOURCES["openai"], [])
    path.write_text(OPENAI_COSTS)
    monkeypatch.setattr(export_file, "MAX_FILE", 10)
    with pytest.raises(TokenHandlersError, match="export fewer days"):
        read_exports([path], SOURCES["openai"], [])
