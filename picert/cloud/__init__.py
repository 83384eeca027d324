"""The cloud process: plan, sketch, dispatch, merge, and the HTTP front door."""
