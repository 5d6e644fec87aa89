import pytest

from token_handlers.tokenizer.plain_messages import message_text, request_messages, role_of

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


@pytest.mark.parametrize(
    ("message", "text", "media"),
    [
        ({"role": "user", "content": "Hi"}, "Hi", False),
        ({"role": "user", "content": [{"type": "text", "text": "Hi"}, IMAGE]}, "Hi", True),
        ({"role": "user", "content": [{"type": "input_text", "text": "a"}, "b"]}, "a\nb", False),
        ({"role": "user", "parts": [{"text": "Hi"}, {"inlineData": {"mimeType": "image/png"}}]}, "Hi", True),
        ({"role": "user", "content": [{"text": "Hi"}, {"image": {"format": "png"}}]}, "Hi", True),
        (
            {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]},
            "f {}",
            False,
        ),
        ({"role": "assistant", "content": [{"type": "tool_use", "name": "f", "input": {"a": 1}}]}, 'f {"a": 1}', False),
        (
            {"role": "user", "content": [{"type": "tool_result", "content": [{"type": "text", "text": "4"}]}]},
            "4",
            False,
        ),
        ({"role": "model", "parts": [{"functionCall": {"name": "f", "args": {"a": 1}}}]}, 'f {"a": 1}', False),
        (
            {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm"}, {"type": "reasoning"}]},
            "hm",
            False,
        ),
        ({"type": "function_call_output", "output": "4"}, "4", False),
        ({"role": "user"}, "", False),
        ({"role": "user", "content": 5}, "", False),
    ],
)
def test_texts(message, text, media):
    """Whatever API a message is for, its texts and tool calls are read, and what is no text is said to be left out."""
    assert (text, media) == message_text(message)


def test_roles():
    """A message's role or type is its role; one without is the user's."""
    assert ["system", "human", "user"] == [role_of(each) for each in ({"role": "system"}, {"type": "human"}, {})]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"messages": [{"role": "user", "content": "Hi"}]}, [("user", "Hi")]),
        (
            {"system": "Be brief", "messages": [{"role": "user", "content": "Hi"}]},
            [("system", "Be brief"), ("user", "Hi")],
        ),
        ({"system": [{"type": "text", "text": "Be brief"}], "messages": []}, [("system", "Be brief")]),
        ({"instructions": "Be brief", "input": "Hi"}, [("system", "Be brief"), ("user", "Hi")]),
        (
            {"systemInstruction": {"parts": [{"text": "Be"}]}, "contents": [{"parts": [{"text": "Hi"}]}]},
            [("system", "Be"), ("user", "Hi")],
        ),
        ({"prompt": ["one", "two"]}, [("user", "one"), ("user", "two")]),
        ({"model": "gpt-4o"}, []),
    ],
)
def test_requests(body, expected):
    """The messages of a request are found under the keys of each provider's API, what the system says first."""
    assert expected == [(role_of(each), message_text(each)[0]) for each in request_messages(body)]
