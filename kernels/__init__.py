"""Operations of the decoder: plain torch (oracle), Triton (GPU) and native (CPU)."""
