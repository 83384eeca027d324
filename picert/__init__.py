"""picert: progressive LLM inference over cloud and edge."""

__version__ = "0.1.0"
