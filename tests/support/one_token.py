"""A call of one token, without a framework."""

from tests.support.bills import record
from token_handlers.tracking.call import Call


class OneToken(Call):
    """A call of one token, whose prompt was one token when it is only an estimate."""

    def estimate(self, text=None):
        return {"input_tokens": 1}, "none"


def start():
    """Return a call that starts here."""
    return OneToken()


def end(call, **kwargs):
    """End a call with one token."""
    record(call, {"input_tokens": 1, "output_tokens": 0}, model="gpt-4o-mini", **kwargs)


def spend():
    """Make one call of one token, here."""
    end(start())
