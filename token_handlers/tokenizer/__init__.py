"""Token counts without a provider's word: by a vocabulary where one is at hand, else estimated from the bytes."""

from token_handlers.tokenizer.estimates import Estimate, estimate_prompt, estimate_tokens, prepare, set_tokenizer

__all__ = ["Estimate", "estimate_prompt", "estimate_tokens", "prepare", "set_tokenizer"]
