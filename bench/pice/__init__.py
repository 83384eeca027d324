"""Parts of bench_pice.py: questions, modes, the system's processes, load, judges, rows."""
