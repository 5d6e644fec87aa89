"""The page 'Why is my count zero, estimated or different?': each cause has a test, each warning leads to the page."""

import ast
from decimal import Decimal

import pytest
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

from tests.support.bills import billed, counted
from tests.support.guide_pages import GUIDE, ROOT, blocks, sections
from token_handlers import guide, shared_counter, track_tokens
from token_handlers.cli import main
from token_handlers.langchain import LangChainTokenHandler
from token_handlers.pricing import price_call, reset_prices

PAGE = (GUIDE / "why.md").read_text("utf-8")
PARTS = ("Zero", "Estimated", "No cost", "Why is my cost different", "Different")
# What shows that a cause is one, and that its remedy is.
SHOWN_BY = {
    "Nothing tracks the call": (
        "langchain.test_handler.test_only_what_is_tracked_is_recorded cli.test_run.test_langchain"
    ),
    "The variable is set, and nothing reads it": (
        "test_install.test_the_environment test_both_frameworks.test_automatic_tracking_of_both "
        "cli.test_doctor.test_what_is_tracked"
    ),
    "The call goes past LangChain and LlamaIndex": ("guide.test_why.test_a_call_added_by_hand"),
    "The call is made in a thread of your own": (
        "tracking.test_track_tokens.test_threads_of_ones_own "
        "llama_index.test_scopes.test_threads_with_the_context_count "
        "langchain.test_handler.test_automatic_tracking "
        "llama_index.test_scopes.test_automatic_tracking_sees_every_thread"
    ),
    "The call began before the block": (
        "tracking.test_track_tokens.test_a_call_belongs_to_where_it_started "
        "langchain.test_handler.test_a_stream_begun_inside_and_drained_outside guide.test_why.test_a_task_made_outside"
    ),
    "A generator's consumer makes the call": "tracking.test_scopes.test_a_consumers_calls_are_not_the_generators",
    "The call is made in another process": (
        "sinks.sqlite.test_processes.test_four_processes_write_at_once "
        "sinks.redis.test_counter.test_processes_that_end_send_what_waits "
        "llama_index.test_workers.test_what_workers_embed_comes_home"
    ),
    "The handler is not on that model": (
        "llama_index.test_handler.test_a_handler_counts_its_own_models_alone "
        "llama_index.test_handler.test_models_built_before_are_counted"
    ),
    "The embeddings are LangChain's": (
        "langchain.test_embeddings.test_a_block_counts_openai_embeddings "
        "guide.test_why.test_a_handler_sees_no_embeddings "
        "langchain.test_embeddings.test_automatic_tracking "
        "langchain.test_embeddings.test_other_embeddings_are_estimated "
        "counter.test_counter.test_embeddings_are_counted_apart"
    ),
    "Nothing was billed": (
        "langchain.test_cache.test_a_hit_is_not_billed langchain.test_streams.test_a_rejected_call_costs_nothing "
        "langchain.test_embeddings.test_a_cache_in_front "
        "llama_index.test_embeddings.test_a_full_cache_hit_counts_nothing"
    ),
    "The framework is missing, or too old": (
        "test_install.test_a_missing_framework_is_one_warning cli.test_doctor.test_problems"
    ),
    "The stream reports no usage": (
        "langchain.test_streams.test_an_unreported_stream_is_estimated langchain.test_legacy.test_report_stream_usage "
        "llama_index.test_calls.test_a_stream_without_usage_is_an_estimate "
        "langchain.test_streams.test_report_stream_usage_leaves_the_model"
    ),
    "The stream was broken off": (
        "langchain.test_streams.test_a_broken_off_stream_is_estimated "
        "langchain.test_streams.test_a_cancelled_astream_is_estimated "
        "langchain.test_streams.test_a_dropped_connection_is_estimated "
        "llama_index.test_breaks.test_a_stream_broken_off_by_its_reader"
    ),
    "The stream is not at its end yet": (
        "tracking.test_track_tokens.test_an_open_call_is_shown_as_an_estimate_until_it_ends"
    ),
    "The call failed after it was sent": (
        "tracking.test_failures.test_rejected tracking.test_failures.test_interrupted "
        "langchain.test_streams.test_a_client_timeout_is_estimated"
    ),
    "The server or its client leaves usage out": (
        "langchain.test_providers.test_half_a_usage_is_an_estimate "
        "llama_index.test_payloads.test_half_a_usage_is_completed_and_flagged"
    ),
    "Sound, images by their size, and batches": "tracking.test_sdk_media.test_what_has_no_tokens_is_an_estimate",
    "The embeddings are not OpenAI's": (
        "langchain.test_embeddings.test_other_embeddings_are_estimated "
        "llama_index.test_embeddings.test_other_models_are_estimated"
    ),
    "Cohere's billed units are lost": "langchain.test_providers.test_cohere_is_priced_by_its_billed_units",
    "The model has no known price": (
        "pricing.test_calculator.test_an_unknown_model_warns_once_and_names_the_remedy "
        "pricing.test_overrides.test_free_is_not_unpriced "
        "counter.test_counter.test_unknown_cost_is_none cli.test_prices.test_price_of_a_model"
    ),
    "The model goes by another name": (
        "pricing.test_overrides.test_an_alias_is_billed_as_its_model guide.test_recipes.test_azure"
    ),
    "The server is not known": (
        "pricing.test_catalog.test_an_unknown_server_is_billed_as_openai_only_for_openais_ids "
        "llama_index.test_calls.test_a_local_server_is_not_priced_as_openai"
    ),
    "The answer names no model": "pricing.test_calculator.test_no_model_and_odd_arguments_raise_nothing",
    "The counts contradict each other": (
        "pricing.test_calculator.test_counts_that_cannot_be_are_unpriced_with_one_warning"
    ),
    "From `get_openai_callback` or `get_usage_metadata_callback`": "guide.test_coming_from.test_what_differs",
    "From `TokenCountingHandler`": (
        "llama_index.test_calls.test_tools_are_in_an_estimate "
        "llama_index.test_nested.test_token_counting_handler_counts_it_again "
        "llama_index.test_nested.test_token_counting_handler_misses_silent_calls"
    ),
    "The server repeats its usage in every chunk": "langchain.test_streams.test_usage_in_chunks_equals_the_bill",
    "Several answers to one prompt": "langchain.test_chat.test_several_choices_are_billed_once",
    "Retries": "langchain.test_chat.test_the_clients_own_retries langchain.test_chat.test_retries",
    "A model that asks another one": (
        "langchain.test_nested.test_a_model_that_asks_another_counts_once "
        "langchain.test_nested.test_a_stream_read_in_a_thread_counts_beside_it "
        "llama_index.test_nested_adapters.test_whoever_sees_it_has_the_bill "
        "llama_index.test_nested.test_a_stream_made_of_complete_counts_once"
    ),
    "Cached and reasoning tokens": (
        "langchain.test_chat.test_details_and_cost langchain.test_providers.test_anthropic"
    ),
    "Requests": (
        "counter.test_counter.test_embeddings_are_counted_apart langchain.test_legacy.test_one_http_call_is_one_request"
    ),
    "The reported numbers contradict each other": "payloads.test_payloads.test_a_whole_stands_and_its_part_is_cut",
    "Tools have fees": (
        "pricing.test_fees.test_a_fee_with_a_count_is_exact "
        "pricing.test_fees.test_a_fee_that_is_not_certain_is_an_estimate "
        "pricing.test_fees.test_search_models_of_chat_are_billed_one_search "
        "pricing.test_fees.test_an_event_without_a_rate_is_never_free "
        "pricing.test_overrides.test_fees_alone_are_added_to_the_table "
        "pricing.test_overrides.test_a_fee_by_the_size_of_a_searchs_context "
        "budget.test_tool_fees.test_a_budget_that_searches_would_exceed"
    ),
    "Where it was served": (
        "pricing.test_adjustments.test_a_place_costs_what_its_page_says "
        "pricing.test_adjustments.test_a_place_multiplies_tokens_and_no_fees "
        "pricing.test_overrides.test_a_multiplier_is_about_what_it_names"
    ),
    "The service tier": (
        "langchain.test_chat.test_the_served_tier_prices_the_call "
        "pricing.test_adjustments.test_a_tier_costs_what_it_did_on_the_day "
        "pricing.test_calculator.test_a_tier_without_rates_is_standard_and_says_so_once "
        "pricing.test_overrides.test_a_tier_has_a_price_of_its_own"
    ),
    "Another model answered": (
        "pricing.test_catalog.test_who_answered_behind_a_gateway_is_billed "
        "pricing.test_catalog.test_an_unknown_name_is_not_the_asked_one "
        "pricing.test_catalog.test_a_renamed_model_is_the_asked_one "
        "pricing.test_corrections.test_open_weights_are_never_openais "
        "pricing.test_calculator.test_each_part_costs_what_its_own_model_does"
    ),
    "Sound, images and cache writes": (
        "pricing.test_kinds.test_output_of_another_kind_needs_a_rate "
        "pricing.test_kinds.test_cache_writes_cost_by_how_long_they_are_kept "
        "pricing.test_kinds.test_openais_cache_writes_for_12_hours_are_an_estimate"
    ),
    "Streams": (
        "langchain.test_handler.test_a_handler_alone_sees_what_the_event_leaves_out "
        "langchain.test_asked.test_what_was_asked_for "
        "langchain.test_asked.test_the_marks_of_the_prompt_say_how_long_the_cache_is_kept"
    ),
    "A gateway is between": (
        "pricing.test_fees.test_openrouter_without_its_own_cost_is_an_estimate "
        "http.test_completion.test_litellms_cache_is_free "
        "pricing.test_catalog.test_bedrocks_ids_are_its_own_at_any_address"
    ),
    "Free allowances and storage": "pricing.test_fees.test_a_fee_that_is_not_certain_is_an_estimate",
    "The table was wrong": (
        "pricing.test_corrections.test_a_correction_is_needed cli.test_prices.test_corrections_are_listed "
        "pricing.test_corrections.test_deepseeks_peak_hours"
    ),
    "The price is not yours": (
        "pricing.test_calculator.test_cost_equals_genai_prices_for_every_model "
        "pricing.test_overrides.test_own_prices_come_first "
        "pricing.test_overrides.test_a_multiplier_is_about_what_it_names "
        "cli.test_prices.test_reprice"
    ),
    "Two trackers send to AgentSight": "cli.test_doctor.test_another_tracker",
    "The ledger has less than the counter": (
        "sinks.sql.test_ledger.test_flush_is_the_acknowledgement "
        "sinks.sql.test_ledger.test_a_ledger_closed_in_an_outage_says_what_is_lost"
    ),
    "A fault of ours": "langchain.test_providers.test_a_fault_of_ours_leaves_an_estimate",
}
# Warnings that are not about counts: of stores, which have remedies of their own, and of budgets.
OTHERS = ("sinks", "budget", "listeners.py", "lifecycle.py")


@pytest.mark.parametrize("cause", sorted(sections(PAGE).keys() - set(PARTS)))
def test_every_cause_is_shown(cause):
    """Each cause on the page has tests, and they are there."""
    for name in SHOWN_BY[cause].split():
        module, _, function = name.rpartition(".")
        tree = ast.parse((ROOT / "tests" / f"{module.replace('.', '/')}.py").read_text("utf-8"))
        defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
        assert function in defined, name


def test_no_cause_is_forgotten():
    """What is shown is on the page."""
    assert set(SHOWN_BY) == sections(PAGE).keys() - set(PARTS)


def test_the_page_has_the_name_that_the_warnings_call_it_by():
    """The pointer names the page's title and the command that prints it."""
    assert guide.WHY == f"see '{PAGE.splitlines()[0].removeprefix('# ')}': token-handlers guide why"


def test_every_warning_leads_there():
    """Each message that the package logs about counts ends with the pointer."""
    silent = []
    for path in sorted((ROOT / "token_handlers").rglob("*.py")):
        if not any(part in OTHERS for part in path.parts):
            silent += [f"{path.name}:{call.lineno}" for call in logged(path) if "WHY" not in ast.unparse(call)]

    assert ["price.py"] == [place.partition(":")[0] for place in silent]  # that no further models are named


def logged(path):
    """Return the calls in a file that log a warning or an error."""
    calls = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)]
    return [call for call in calls if ast.unparse(call.func) in ("logger.warning", "logger.error")]


def test_a_warning_leads_there(caplog):
    """What is logged has the pointer at its end."""
    from token_handlers.pricing import price_call

    price_call({"input_tokens": 1}, "nobodys-model-that-leads-there")

    assert caplog.messages[0].endswith(f" ({guide.WHY})")


@pytest.mark.parametrize("page", guide.PAGES)
def test_the_pages_are_printed(page, capsys):
    """`token-handlers guide` prints a page."""
    assert 0 == main(["guide", page])
    assert guide.page(page) == capsys.readouterr().out.removesuffix("\n")


def test_why_is_the_first_page(capsys):
    """Without a name it is the page that the warnings and doctor mean."""
    main(["guide"])
    first = capsys.readouterr().out
    main(["doctor"])

    assert PAGE.rstrip() == first.rstrip()
    assert guide.WHY in " ".join(capsys.readouterr().out.split())


def test_what_the_counter_says():
    """The page's first block reads what every counter has."""
    with track_tokens() as tokens:
        exec(blocks(PAGE)[0], {"tokens": tokens})


def test_a_call_added_by_hand(ledger, monkeypatch):
    """What goes past everything that is watched is in no block; the page's lines add what was billed."""
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setenv("OPENAI_BASE_URL", ledger.url())
    monkeypatch.setattr(shared_counter(), "answers", ())  # of other tests, whose servers count from 1 as well
    before = shared_counter().snapshot()
    with track_tokens() as tokens:
        exec(blocks(PAGE)[1], {})
    after = shared_counter().snapshot()

    assert 0 == tokens.successful_requests
    assert billed(ledger) == {name: number - counted(before)[name] for name, number in counted(after).items()}


def test_what_a_record_says_of_its_cost(ledger, capsys):
    """The page's lines print each part of a call's cost, and why it is an estimate."""
    model = ChatOpenAI(model="gpt-4o-mini", base_url=ledger.url(), api_key="none")
    exec(blocks(PAGE)[2], {"model": model})

    assert "input_tokens at 0.15 per 1000000" in capsys.readouterr().out


def test_prices_of_ones_own():
    """The page's fees and multipliers are taken."""
    exec(blocks(PAGE)[3], {})
    exec(blocks(PAGE)[4], {})
    azure = {"provider": "azure", "base_url": "https://our-eu-zone.openai.azure.com"}
    usual = {**azure, "base_url": "https://other.openai.azure.com"}
    zone, other = (price_call({"input_tokens": 1000}, "gpt-4o", **place) for place in (azure, usual))
    reset_prices()
    assert zone.cost == other.cost * Decimal("1.1")


def embedder(ledger):
    """Return OpenAIEmbeddings on the test's channel, without the tokenizer that it would download."""
    return OpenAIEmbeddings(
        model="text-embedding-3-small", base_url=ledger.url(), api_key="none", check_embedding_ctx_length=False
    )


def test_a_handler_sees_no_embeddings(ledger):
    """LangChain's embeddings fire no callbacks: a block counts them, a handler beside it can't."""
    handler = LangChainTokenHandler()
    with track_tokens() as tokens:
        embedder(ledger).embed_query("hello")

    assert ledger.total().embedding_tokens == tokens.embedding_tokens
    assert 0 == handler.embedding_tokens


async def test_a_task_made_outside(ledger):
    """A task that was made before the block is not of it, though it calls while the block is entered."""
    import asyncio

    from langchain_openai import ChatOpenAI

    entered = asyncio.Event()

    async def ask():
        await entered.wait()
        await ChatOpenAI(model="gpt-4o-mini", base_url=ledger.url(), api_key="none").ainvoke("hello")

    task = asyncio.create_task(ask())
    with track_tokens() as tokens:
        entered.set()
        await task

    assert (1, 0) == (ledger.total().requests, tokens.successful_requests)
