"""What each command does; `picert.cli` reads the flags and loads the one module that is needed."""
