"""Memory of a training step on one device, counted from the decoder's shape: one model for plans and for errors.

What is held between steps (weights, gradients, moments) is exact. Activations and logits follow the tensors that
autograd keeps for an eager backward pass, operation by operation; compiled blocks keep less, and a device's allocator,
libraries and communication come on top. tests/test_plan.py holds the sum against measured peaks.
"""

from dataclasses import dataclass

from lab.model.bands import KEPT_BYTES, scores_formed
from lab.model.settings import ModelSettings, ScaleSettings

FLOAT32 = 4  # bytes
LOSS_CHUNK = 4096  # positions that the head is applied to at a time
SHARDABLE = ("adamw",)  # optimisers that work on parts of matrices, as FSDP shards them


@dataclass(frozen=True)
class Shape:
    """What a decoder's memory depends on; names as in conf/scale/, ``window`` and ``slopes`` as in attention."""

    vocabulary: int
    context: int
    layers: int
    width: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    tied: bool
    window: int | None
    slopes: bool

    @property
    def block_matrices(self) -> int:
        """Values in the matrices of one block: attention, then feed-forward."""
        attention = self.width * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return attention + 3 * self.width * self.hidden

    @property
    def outside(self) -> int:
        """Values outside the blocks: embedding, head, last norm."""
        return self.vocabulary * self.width * (1 if self.tied else 2) + self.width

    @property
    def parameters(self) -> int:
        """All trained values."""
        return self.layers * (self.block_matrices + 2 * self.width) + self.outside


def shape_of(scale: ScaleSettings, model: ModelSettings) -> Shape:
    """The shape that settings describe."""
    keys = ("vocabulary", "context", "layers", "width", "hidden", "heads", "kv_heads", "head_dim")
    return Shape(
        **{key: getattr(scale, key) for key in keys},
        tied=model.tied,
        window=model.attention.window,
        slopes=model.position.slopes,
    )


@dataclass(frozen=True)
class Memory:
    """Bytes on each device at the peak of a step: the start of the last micro-batch's backward pass.

    Args:
        parameters, gradients, optimizer: float32, held from step to step; sharded under FSDP. Exact.
        copies: weights in bfloat16, made for the products and kept for the backward pass, and what FSDP has gathered.
        activations: what the blocks keep for the backward pass. An estimate, as are copies and logits.
        logits: of one chunk of positions: their exponentials and their gradient, which is rounded to the activations'
            type beside. Those of the other chunks are formed again when their turn comes.
    """

    parameters: int
    gradients: int
    optimizer: int
    copies: int
    activations: int
    logits: int

    @property
    def state(self) -> int:
        """What is held from step to step."""
        return self.parameters + self.gradients + self.optimizer

    @property
    def total(self) -> int:
        return self.state + self.copies + self.activations + self.logits


def moments(shape: Shape, optimizer: str) -> int:
    """Values that the optimiser keeps: Muon one for each value of a block's matrices, all else AdamW's two.

    Args:
        optimizer: its short name.
    """
    once = shape.layers * shape.block_matrices if optimizer == "muon" else 0
    return 2 * shape.parameters - once


def kept_by_block(shape: Shape, size: int, kernel: str, micro_batch: int) -> int:
    """Bytes that one block keeps for the backward pass, for each token.

    Args:
        size: bytes of an activation: 4 in float32, 2 in bfloat16.
        kernel: queries, keys, values and what they give are kept; ``reference``, ``banded`` where they are small, and a
            masked ``sdpa`` keep scores too.
    """
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    norm = 2 * size * shape.width  # what is normed, and what the matrices take
    attention = size * (2 * queries + 2 * keys)
    feed_forward = size * 4 * shape.hidden  # gate, its SiLU, up, their product
    scores = 0
    if kernel == "reference":  # keys and values for every head, probabilities in float32 and in the activations' type
        scores = size * 2 * (queries - keys)
        scores += shape.heads * shape.context * (FLOAT32 if size == FLOAT32 else FLOAT32 + size)
    if kernel == "banded":
        probabilities = size * shape.heads * scores_formed(shape.context, 0, shape.window)
        scores = probabilities // shape.context if micro_batch * probabilities <= KEPT_BYTES else 0
    return 2 * norm + attention + feed_forward + scores


def products_of_block(shape: Shape, size: int) -> int:
    """Bytes that the matrix products of one block give, for each token."""
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    return size * (queries + 2 * keys + 2 * shape.hidden + 2 * shape.width)


def step_memory(
    shape: Shape,
    *,
    micro_batch: int,
    compute_dtype: str,
    optimizer: str,
    kernel: str = "auto",
    strategy: str = "single",
    ranks: int = 1,
    recompute: str = "none",
) -> Memory:
    """Peak memory of each device in a step of several micro-batches (of one, the gradients are not yet there).

    Args:
        micro_batch: blocks computed at a time.
        compute_dtype: ``float32`` or ``bfloat16``.
        optimizer: its short name.
        strategy: ``single``, ``ddp`` (gradients are the buckets, so it needs no more) or ``fsdp``, over ``ranks``.
        recompute: ``none``, or what blocks keep less: ``selective`` or ``all``, as in lab/model/recompute.py.
    """
    size = 2 if compute_dtype == "bfloat16" else FLOAT32
    tokens = micro_batch * shape.context
    chunk = min(tokens, LOSS_CHUNK)
    matrices, head = shape.layers * shape.block_matrices, shape.vocabulary * shape.width
    sharded = ranks if strategy == "fsdp" else 1

    def share(values: int) -> int:
        return -(-FLOAT32 * values // sharded)

    # A product in bfloat16 keeps its weight in bfloat16, whole, even where FSDP has put the float32 one away again.
    # A block that is formed again makes it again.
    kept_matrices = matrices if recompute == "none" else shape.block_matrices
    copies = 0 if size == FLOAT32 else size * (kept_matrices + head)
    if sharded > 1:  # the root's weights and gradients, two blocks' weights, one's gradients on the way out
        copies += 2 * FLOAT32 * shape.outside + 4 * FLOAT32 * shape.block_matrices
    block = kept_by_block(shape, size, kernel, micro_batch)
    activations = tokens * shape.layers * block
    if recompute != "none":  # and one block at a time is whole
        kept = size * shape.width + (products_of_block(shape, size) if recompute == "selective" else 0)
        activations = tokens * (shape.layers * kept + block)
    activations += tokens * 2 * size * shape.width  # of the last norm
    if kernel == "sdpa" and (shape.slopes or shape.window is not None):  # each layer's mask or bias
        activations += shape.layers * size * shape.context**2 * (shape.heads if shape.slopes else 1)
    return Memory(
        parameters=share(shape.parameters),
        gradients=share(shape.parameters),
        optimizer=share(moments(shape, optimizer)),
        copies=copies,
        activations=activations,
        logits=(2 * FLOAT32 + (size if size != FLOAT32 else 0)) * shape.vocabulary * chunk,
    )


def is_out_of_memory(error: RuntimeError) -> bool:
    """torch raises a class of its own on a GPU and a plain RuntimeError from the CPU allocator."""
    return type(error).__name__ == "OutOfMemoryError" or "DefaultCPUAllocator" in str(error)
