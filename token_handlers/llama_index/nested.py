"""LangChain's calls that LlamaIndex's models make, as LangChainLLM and LangchainEmbedding do: each counts once."""

from token_handlers.errors import shielded
from token_handlers.llama_index import calls, embeddings
from token_handlers.llama_index.calls import ModelCall
from token_handlers.llama_index.models import count_for_handlers
from token_handlers.llama_index.spans import current
from token_handlers.tracking.call import Call
from token_handlers.tracking.recorder import discard
from token_handlers.tracking.reservations import release


@shielded
def join(call: Call) -> None:
    """Have a LangChain call that starts here recorded in place of the LlamaIndex calls that make it.

    It counts for the handlers of their models, too.
    """
    if isinstance(call, ModelCall):  # it is linked already
        return
    span = current.get()
    around = list(span.chain()) if span is not None else []
    if call.operation != "embeddings":
        for outer in [*(span.call for span in around if span.call is not None), *calls.read_here()]:
            _join(call, outer)
        return
    for span in around:
        if span.embeds():
            span.passes_on = True
            if span.waiting:
                batch = embeddings.take(span)
                call.add_parent(batch)
                discard(batch)
            count_for_handlers(call, span.instance)
            return


def _join(call: Call, outer: ModelCall) -> None:
    if not outer.settled:
        call.add_parent(outer)
        release(outer, wait=True)  # the call holds it itself
        count_for_handlers(call, outer.instance)
