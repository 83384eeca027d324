"""Progressive inference as pure code: no torch, no zmq, no clock of its own."""
