"""Network definitions, weight files, tokenizers and chat templates."""
