import asyncio
import hashlib
import importlib
import importlib.util
import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
from importlib.machinery import ModuleSpec
from pathlib import Path
from statistics import median
from types import SimpleNamespace

import pytest
import tiktoken
from hypothesis import given
from hypothesis import strategies as st

from tests.benchmarks.tokenizer import texts
from tests.tokenizer.test_tool_schemas import WEATHER
from token_handlers.tokenizer import Estimate, estimate_prompt, estimate_tokens, prepare, set_tokenizer
from token_handlers.tokenizer import estimates as tokenizer
from token_handlers.tokenizer import vocabularies as token_vocabulary
from token_handlers.tokenizer.byte_classes import count_by_class

SHIPPED = Path(importlib.util.find_spec("llama_index").submodule_search_locations[0], "core/_static/tiktoken_cache")


@pytest.fixture(scope="module")
def encodings():
    """The vocabularies that llama-index-core ships."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", str(SHIPPED))
        patch.setattr(token_vocabulary, "_loaded", {})
        found = {name: token_vocabulary.load(name) for name in ("o200k_base", "cl100k_base")}
    assert all(found.values())
    return found


@pytest.fixture(autouse=True)
def _nothing_loaded(monkeypatch):
    """No counter, and no vocabulary, whichever test or framework of this worker loaded one."""
    monkeypatch.setattr(token_vocabulary, "_loaded", {})
    monkeypatch.setitem(sys.modules, "tiktoken.registry", SimpleNamespace(ENCODINGS={}))
    set_tokenizer(None)
    yield
    set_tokenizer(None)


@pytest.fixture
def loaded(monkeypatch, encodings):
    """As after prepare(), for both vocabularies."""
    monkeypatch.setattr(token_vocabulary, "_loaded", dict(encodings))


@pytest.fixture
def folders(monkeypatch, tmp_path):
    """An empty folder of tiktoken's, and no other place that has vocabularies."""
    monkeypatch.setattr(token_vocabulary, "find_spec", lambda name: None)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path / "none"))
    monkeypatch.delenv("DATA_GYM_CACHE_DIR", raising=False)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    return tmp_path


def counted(encoding, text):
    """What tiktoken counts."""
    return len(encoding.encode_ordinary(text))


@pytest.mark.parametrize("vocabulary", ["o200k", "cl100k"])
def test_by_class_is_within_8_percent_at_the_median_and_never_off_by_2(encodings, vocabulary):
    """In languages, code and data that were not fitted, the median error is below 8% and none is a factor of 2."""
    ratios = {
        name: count_by_class(text, vocabulary) / counted(encodings[f"{vocabulary}_base"], text)
        for name, text in texts().items()
    }
    assert len(ratios) >= 40
    assert median(abs(ratio - 1) for ratio in ratios.values()) < 0.08
    assert {} == {name: ratio for name, ratio in ratios.items() if not 0.5 < ratio < 2}


@pytest.mark.parametrize(
    "text",
    [
        "-" * 80 + "\n",
        "=" * 5_000,
        " " * 5_000,
        "\n" * 5_000,
        "\t" * 5_000,
        "─" * 500,
        "a" * 5_000,
        "7" * 5_000,
        "字" * 5_000,
        "😀" * 500,
        "2031-02-11T08:42:19Z\n" * 100,
        "ສະບາຍດີ " * 50,
        "ሰላም ለዓለም " * 50,
    ],
    ids=lambda text: ascii(text[:1]),
)
def test_monotonous_texts_are_not_off_by_2(encodings, text):
    """Rulers, blank pages and other repetitions are as few tokens as they are, and so are rare scripts."""
    assert 0.5 < count_by_class(text) / counted(encodings["o200k_base"], text) < 2


@given(st.text(st.characters()), st.sampled_from([None, "gpt-4o", "gpt-4", "claude-opus-4-8", "no such model"]))
def test_any_text_has_an_estimate(text, model):
    """Nothing is 0 only for an empty text; lone surrogates are text like any other."""
    tokens, method = estimate_tokens(text, model)
    assert bool(text) == (tokens >= 1)
    assert isinstance(tokens, int)
    assert method.startswith("bytes:")


@pytest.mark.parametrize("model", ["gpt-4o", "gpt-4", "claude-opus-4-8", "claude-3-5-haiku-latest"])
@given(text=st.text(st.characters()) | st.text("0A1\t.v ", min_size=1))
def test_no_text_has_more_tokens_than_bytes(model, text):
    """A token is a byte at least, so that a text's bytes are a bound of its estimate."""
    assert estimate_tokens(text, model).tokens <= len(text.encode("utf-8", "surrogatepass"))


@given(st.text(st.characters()), st.text(st.characters()))
def test_by_class_is_additive_across_lines(first, second):
    """Two texts with an empty line between them are no more than a few tokens from their sum."""
    apart = count_by_class(first) + count_by_class(second)
    assert abs(count_by_class(f"{first}\n\n{second}") - apart) < 8


@pytest.mark.parametrize(
    ("model", "family"),
    [
        (None, "o200k"),
        ("gpt-4o-mini-2024-07-18", "o200k"),
        ("gpt-4.1", "o200k"),
        ("gpt-5.1", "o200k"),
        ("o3", "o200k"),
        ("openai/gpt-oss-120b", "o200k"),
        ("gpt-4", "cl100k"),
        ("gpt-4-turbo-2024-04-09", "cl100k"),
        ("gpt-35-turbo", "cl100k"),
        ("text-embedding-3-small", "cl100k"),
        ("text-embedding-ada-002", "cl100k"),
        ("claude-3-5-haiku-20241022", "claude"),
        ("claude-sonnet-4-20250514", "claude"),
        ("anthropic/claude-4.6-sonnet-20260217", "claude"),
        ("claude-v1", "claude"),
        ("claude-20250514", "claude"),
        ("us.anthropic.claude-opus-4-7-v1:0", "claude-4.8"),
        ("claude-opus-4-8", "claude-4.8"),
        ("claude-sonnet-5", "claude-4.8"),
        ("models/gemini-2.5-pro", "gemini"),
        ("mistral-large-latest", "mistral"),
        ("open-mixtral-8x7b", "mistral"),
        ("ministral-8b", "mistral"),
        ("magistral-medium", "mistral"),
        ("meta-llama/Llama-3.3-70B", "llama"),
        ("us.amazon.nova-pro-v1:0", "nova"),
        ("a stranger", "o200k"),
    ],
)
def test_the_method_names_the_family(model, family):
    """A model's family is known by its name, with or without the provider's prefix and the date."""
    assert f"bytes:{family}" == estimate_tokens("text", model).method


def test_families_have_factors():
    """Claude takes more tokens for the same text, from 4.7 on still more."""
    text = texts()["english"]
    plain, older, newer = (
        estimate_tokens(text, model).tokens for model in (None, "claude-sonnet-4-5", "claude-opus-4-8")
    )
    assert pytest.approx(plain * 1.12, abs=1) == older
    assert pytest.approx(plain * 1.43, abs=1) == newer


def test_model_names_are_remembered_up_to_a_limit(monkeypatch):
    """A model name that changes with each call does not fill the memory."""
    monkeypatch.setattr(tokenizer, "_families", dict(tokenizer._families))
    for number in range(1_500):
        estimate_tokens("text", f"claude-{number}")
    assert len(tokenizer._families) <= 1_000


def test_tiktoken_is_exact_for_openai(loaded, encodings):
    """With the vocabulary loaded, an estimate for an OpenAI model is tiktoken's count."""
    text = texts()["thai"]
    assert Estimate(counted(encodings["o200k_base"], text), "tiktoken:o200k_base") == estimate_tokens(text, "gpt-4o")
    assert Estimate(counted(encodings["cl100k_base"], text), "tiktoken:cl100k_base") == estimate_tokens(text, "gpt-4")


def test_other_families_are_tiktoken_times_a_factor(loaded, encodings):
    """The method says that o200k was counted and which family's factor it was multiplied with."""
    text = texts()["spanish"]
    expected = round(counted(encodings["o200k_base"], text) * 1.04)
    assert Estimate(expected, "tiktoken:o200k_base*gemini") == estimate_tokens(text, "gemini-2.5-flash")


def test_special_tokens_are_plain_text(loaded):
    """Text that looks like a special token is counted as the text it is."""
    assert estimate_tokens("<|endoftext|>", "gpt-4o").tokens > 1


def test_long_texts_are_sampled(loaded, encodings):
    """A text that tiktoken would be busy with is counted by class and set right by samples, which the method says."""
    text = "\n".join(texts().values())
    tokens, method = estimate_tokens(text, "gpt-4o")
    assert method == "tiktoken:o200k_base+sampled"
    assert pytest.approx(counted(encodings["o200k_base"], text), rel=0.05) == tokens


def test_estimates_never_load_a_vocabulary(monkeypatch):
    """Loading takes longer than a callback may: estimates count by class until prepare() has loaded it."""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(SHIPPED))
    assert "bytes:o200k" == estimate_tokens("text").method
    prepare()
    assert "tiktoken:o200k_base" == estimate_tokens("text").method
    assert "bytes:cl100k" == estimate_tokens("text", "gpt-4").method


def test_prepare_loads_once(monkeypatch, loaded, encodings):
    """What is loaded is not loaded again."""
    monkeypatch.setattr(token_vocabulary, "_build", lambda name: pytest.fail("loaded again"))
    prepare()
    assert encodings["o200k_base"] is token_vocabulary.loaded("o200k_base")


async def test_prepare_does_nothing_on_an_event_loop(monkeypatch):
    """Building an encoding would hold up whatever else the loop runs."""
    monkeypatch.setattr(token_vocabulary, "_build", lambda name: pytest.fail("loaded on the event loop"))
    asyncio.get_running_loop()
    prepare()
    assert "bytes:o200k" == estimate_tokens("text").method


def test_prepare_does_nothing_beside_the_main_thread(monkeypatch):
    """A worker thread may serve an event loop, which building an encoding would hold up as well."""
    built = []
    monkeypatch.setattr(token_vocabulary, "_build", built.append)
    thread = threading.Thread(target=prepare)
    thread.start()
    thread.join()
    assert [] == built


def test_an_encoding_of_the_application_is_used(monkeypatch, encodings):
    """What the application has loaded through tiktoken costs nothing more."""
    monkeypatch.setitem(sys.modules, "tiktoken.registry", SimpleNamespace(ENCODINGS=encodings))
    assert "tiktoken:o200k_base" == estimate_tokens("text").method


@pytest.mark.parametrize("version", ["0.12.0", "0.7", "", "unknown"])
def test_a_tiktoken_that_is_not_linear_is_not_used(monkeypatch, encodings, version):
    """Before 0.13 a long run of one character takes tiktoken seconds."""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(SHIPPED))
    monkeypatch.setattr(tiktoken, "__version__", version)
    monkeypatch.setitem(sys.modules, "tiktoken.registry", SimpleNamespace(ENCODINGS=encodings))
    prepare()
    assert "bytes:o200k" == estimate_tokens("text").method


def test_without_tiktoken_texts_are_counted_by_class(monkeypatch):
    """tiktoken is optional."""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(SHIPPED))
    monkeypatch.setitem(sys.modules, "tiktoken", None)
    prepare()
    assert "bytes:o200k" == estimate_tokens("text").method


def test_vocabularies_are_looked_for_in_tiktokens_cache(folders, encodings):
    """A vocabulary that tiktoken has downloaded earlier is used from where tiktoken put it."""
    assert token_vocabulary.load("o200k_base") is None
    for path in SHIPPED.iterdir():
        (folders / path.name).write_bytes(path.read_bytes())
    encoding = token_vocabulary.load("o200k_base")
    assert counted(encodings["o200k_base"], "some text") == counted(encoding, "some text")


def test_vocabularies_of_llama_index_are_found(monkeypatch, tmp_path):
    """llama-index-core ships both, which are found without importing it."""
    for variable in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR"):
        monkeypatch.setenv(variable, "")
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    assert [tmp_path / "data-gym-cache", SHIPPED] == list(token_vocabulary._folders())


@pytest.mark.parametrize("variable", ["DATA_GYM_CACHE_DIR", None])
def test_older_places_are_looked_at_too(monkeypatch, folders, variable):
    """Data gym's folder and the temporary one are where tiktoken keeps vocabularies when it is told nothing."""
    monkeypatch.delenv("TIKTOKEN_CACHE_DIR")
    if variable:
        monkeypatch.setenv(variable, str(folders))
    expected = folders if variable else folders / "none" / "data-gym-cache"
    assert expected == next(token_vocabulary._folders())


def test_a_spoilt_vocabulary_is_passed_over(folders):
    """A file that is cut off, or is not what its name says, is as good as none."""
    for path in SHIPPED.iterdir():
        (folders / path.name).write_bytes(path.read_bytes()[:100_000])
    assert token_vocabulary.load("o200k_base") is None


def test_places_that_cannot_be_asked_are_passed_over(monkeypatch, folders):
    """Neither a machine without a temporary folder nor a module of llama_index's name without a spec is an error."""

    def no_folder():
        raise FileNotFoundError("no usable temporary directory")

    def no_spec(name):
        raise ValueError(f"{name}.__spec__ is None")

    monkeypatch.setattr(tempfile, "gettempdir", no_folder)
    monkeypatch.setattr(token_vocabulary, "find_spec", no_spec)
    assert [folders] == list(token_vocabulary._folders())
    monkeypatch.setattr(token_vocabulary, "find_spec", lambda name: ModuleSpec(name, None))
    assert [folders] == list(token_vocabulary._folders())


def test_names_and_hashes_are_those_that_tiktoken_publishes():
    """The vocabularies that llama-index-core ships are the ones that are expected."""
    for published in token_vocabulary._PUBLISHED.values():
        assert published.sha256 == hashlib.sha256((SHIPPED / published.file).read_bytes()).hexdigest()


@pytest.mark.parametrize("name", ["o200k_base", "cl100k_base"])
def test_encodings_are_tiktokens_own(monkeypatch, encodings, name):
    """Built from the file alone, an encoding counts every text as tiktoken's own does."""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(SHIPPED))
    own = tiktoken.Encoding(**importlib.import_module("tiktoken_ext.openai_public").ENCODING_CONSTRUCTORS[name]())
    for text in texts().values():
        assert own.encode_ordinary(text) == encodings[name].encode_ordinary(text)


def test_nothing_reaches_the_network(tmp_path):
    """Without a vocabulary on the machine, prepare() and estimates neither connect nor look up a name."""
    script = """
import socket, sys

def refuse(*args, **kwargs):
    raise SystemExit("reached for the network")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = socket.create_connection = refuse
sys.modules["llama_index"] = None
from token_handlers.tokenizer import estimate_prompt, estimate_tokens, prepare
prepare()
prepare("gpt-4")
print(estimate_tokens("text").method, estimate_prompt([("user", "text")], model="claude-sonnet-5").method)
"""
    nowhere = {"TIKTOKEN_CACHE_DIR": str(tmp_path), "TMPDIR": str(tmp_path), "HTTPS_PROXY": "http://127.0.0.1:9"}
    run = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | nowhere, capture_output=True, text=True, check=False
    )
    assert ("bytes:o200k bytes:claude-4.8\n", 0) == (run.stdout, run.returncode), run.stderr


def test_importing_it_imports_neither_tiktoken_nor_a_framework():
    """What is optional and slow is imported when it is asked for."""
    script = (
        "import sys, token_handlers.tokenizer; print({'tiktoken', 'llama_index', 'langchain_core'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "set()\n" == run.stdout


def test_the_users_counter_comes_first(loaded):
    """A counter of the user's own is asked for every text, and its answer is taken as it is."""
    set_tokenizer(lambda text: len(text.split()))
    assert Estimate(3, "custom") == estimate_tokens("one two three", "claude-opus-4-8")
    assert Estimate(2 + 1 + 2 * 4 + 3, "custom") == estimate_prompt([("system", "be brief"), ("user", "hi")])
    set_tokenizer(None)
    assert "tiktoken:o200k_base" == estimate_tokens("one two three").method


def test_a_counter_may_return_what_counts_as_an_int():
    """NumPy's integers and the like will do."""

    class Four:
        def __index__(self):
            return 4

    set_tokenizer(lambda text: Four())  # type: ignore[return-value]
    assert Estimate(4, "custom") == estimate_tokens("secret")


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (-1, "returned -1"),
        (True, "returned True"),
        (2.5, "returned a float"),
        ("secret", "returned a str"),
        (None, "returned a NoneType"),
        ([1, 2], "returned a list"),
        (RuntimeError("secret"), "raised RuntimeError"),
    ],
    ids=str,
)
def test_a_counter_that_fails_is_passed_over_with_one_warning(caplog, answer, problem):
    """The next method steps in; the warning says what was wrong, once, and not what the text was."""

    def count(text):
        if isinstance(answer, Exception):
            raise answer
        return answer

    set_tokenizer(count)
    with caplog.at_level(logging.WARNING, "token_handlers"):
        methods = {estimate_tokens("secret").method, estimate_prompt([("user", "secret")]).method}
    assert {"bytes:o200k"} == methods
    (message,) = (record.getMessage() for record in caplog.records)
    assert problem in message
    assert "secret" not in message


def test_a_new_counter_has_a_warning_of_its_own(caplog):
    """That an earlier counter has failed is no reason to be silent about the next."""
    for _ in range(2):
        set_tokenizer(lambda text: -1)
        estimate_tokens("text")
    assert 2 == len(caplog.records)


def test_an_empty_prompt_is_nothing():
    """No messages and no tools are no tokens; an empty message has its markup."""
    assert 0 == estimate_prompt([]).tokens
    assert 7 == estimate_prompt([("user", "")]).tokens


def test_a_word_is_what_openai_billed(loaded):
    """One message of one token is billed as 8: markup, role and the beginning of the answer are 7."""
    assert Estimate(8, "tiktoken:o200k_base") == estimate_prompt([("user", "hello")])


@pytest.mark.parametrize(("model", "billed"), [("gpt-4o", 101), ("gpt-4o-mini", 101), ("gpt-4", 105)])
def test_a_prompt_with_a_tool_is_what_openai_billed(loaded, model, billed):
    """OpenAI's cookbook has this request with the prompt tokens that its API reported."""
    messages = [
        ("system", "You are a helpful assistant that can answer to questions about the weather."),
        ("user", "What's the weather like in San Francisco?"),
    ]
    assert billed == estimate_prompt(messages, [{"type": "function", "function": WEATHER}], model).tokens


def test_tools_without_a_system_message_are_four_tokens_more(loaded):
    """Without a system message to stand in, the tools have one made for them."""
    tool = {"type": "function", "function": WEATHER}
    alone = estimate_prompt([("user", "hi")], [tool], "gpt-4o").tokens - estimate_prompt([("user", "hi")]).tokens
    pair = [("developer", "Be brief."), ("user", "hi")]
    beside = estimate_prompt(pair, [tool], "gpt-4o").tokens - estimate_prompt(pair).tokens
    assert 4 == alone - beside


def test_what_was_left_out_is_said():
    """Images and audio are not guessed, and the method says that there were some."""
    messages = [("user", "What is in this picture?")]
    without, with_media = estimate_prompt(messages), estimate_prompt(messages, media=True)
    assert Estimate(without.tokens, f"{without.method}+no-media") == with_media


def test_tools_cost_about_what_their_size_says(loaded):
    """From one argument to many, schemas cost tens to hundreds of tokens, fewer than as JSON."""
    many = {f"argument_{n}": {"type": "string", "description": "An argument of some sort"} for n in range(20)}
    tool = {"name": "f", "description": "Does it", "parameters": {"type": "object", "properties": many}}
    cost = estimate_prompt([("user", "hi")], [tool]).tokens - estimate_prompt([("user", "hi")]).tokens
    assert 200 < cost < estimate_tokens(json.dumps(tool)).tokens
