"""Bytes and peers: typed messages over ZeroMQ between cloud and edges."""
