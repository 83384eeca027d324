"""What `picert report` makes of a benchmark's lines: tables, plots, one HTML page."""
