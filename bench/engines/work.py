"""What a step costs: bytes to read and multiply-accumulates, of a checkpoint's matrices."""

from __future__ import annotations

from picert.engine.runner import NativeRunner, Runner
from picert.models.weights import Checkpoint


def decoder_work(checkpoint: Checkpoint, runner: Runner) -> dict[str, int]:
    """Bytes and multiply-accumulates of one token, the logits' matrix apart.

    `file_bytes` is what a step reads of the file's matrices (of the embedding only where it is the
    logits' matrix too), `packed_bytes` the same in the runner's own layout.
    """
    embed = checkpoint.tensors["embed.weight"]
    tied = checkpoint.config.tie_embeddings
    head = embed if tied else checkpoint.tensors["lm_head.weight"]
    matrices = [t for t in checkpoint.tensors.values() if len(t.shape) == 2]
    read = [t for t in matrices if tied or t is not embed]
    file_bytes = sum(t.data.size for t in read)
    if isinstance(runner, NativeRunner):
        packed_bytes = runner.weight_bytes - embed.data.size
    else:  # the torch runner, which is not imported here: torch is not for native processes
        packed_bytes = runner.matrix_bytes
    return {
        "body_macs": sum(t.num_values for t in read) - head.num_values,
        "head_macs": head.num_values,
        "file_bytes": file_bytes,
        "packed_bytes": packed_bytes,
        "kv_bytes_per_token": runner.kv_bytes_per_token,
    }
