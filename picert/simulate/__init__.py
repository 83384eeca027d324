"""The real service under a virtual clock: engines and the link are simulated, all else is not."""
