"""Tokens in, tokens out: the paged-KV engine. It knows no sketch and no socket."""
