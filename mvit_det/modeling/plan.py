"""The stage plan: from a few numbers to the geometry of every block, computed and checked once."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class BlockPlan:
    """Geometry of one block. Sizes are in tokens along one axis.

    Attributes:
        scale: name of the stage, "scale2" for the first.
        dim: channels that come in.
        attention_dim: channels of attention, and so of what the MLP gets.
        dim_out: channels that go out.
        num_heads: attention heads.
        query_stride: stride of query pooling, 2 where a stage begins.
        key_stride: stride of key and value pooling.
        window_size: side of the attention window on the grid that comes in; 0 is global.
        table_size: side of that grid in pre-training, which sizes relative position tables.
        drop_path: probability of dropping the residual branches.
        is_last: whether the block is the last of its stage.
    """

    scale: str
    dim: int
    attention_dim: int
    dim_out: int
    num_heads: int
    query_stride: int
    key_stride: int
    window_size: int
    table_size: int
    drop_path: float
    is_last: bool

    @property
    def widens_in_attention(self) -> bool:
        """Whether attention, and the skip path beside it, changes the number of channels."""
        return self.attention_dim != self.dim

    @property
    def widens_in_mlp(self) -> bool:
        """Whether the MLP, and the skip path beside it, changes the number of channels."""
        return self.dim_out != self.attention_dim


def plan_blocks(
    *,
    depths: Sequence[int],
    embed_dim: int,
    num_heads: int,
    key_stride: int,
    window_size: int | None,
    table_size: int,
    drop_path_rate: float,
    expand_attn: bool = True,
) -> list[BlockPlan]:
    """Plans the blocks of an MViTv2 (paper, sections 4.1 to 4.3 and table 1).

    At each new stage, width and heads double and the first block pools the query with stride 2;
    key stride and window halve along with the grid. The first block of a stage still sees the grid
    of the stage before, and so uses its window. The last block of each stage but the first is
    global (Hwin); in the second and third stage it pools keys twice as much, to afford that.

    On the small images of pre-training attention is affordable as it is: there are no windows, and
    no key is pooled more than its stage asks for.

    Args:
        depths: blocks of each stage.
        embed_dim: channels of the first stage.
        num_heads: attention heads of the first stage.
        key_stride: stride of key and value pooling in the first stage.
        window_size: side of the window in the first stage; None plans the blocks of pre-training.
        table_size: side of the grid of tokens in pre-training.
        drop_path_rate: of the last block; it grows linearly from 0 at the first.
        expand_attn: whether a stage widens in the attention of its first block, and not in the MLP
            of the last block before it.

    Raises:
        ValueError: an argument is out of range or does not fit the others; names the values.
    """
    depths = tuple(depths)
    if not depths or any(not isinstance(depth, int) or depth < 1 for depth in depths):
        raise ValueError(f"depths must be one positive whole number a stage, not {depths}")
    numbers = {"embed_dim": embed_dim, "num_heads": num_heads, "key_stride": key_stride}
    if window_size is not None:
        numbers["window_size"] = window_size
    for name, number in numbers.items():
        if not isinstance(number, int) or number < 1:
            raise ValueError(f"{name} must be a positive whole number, not {number!r}")
    if embed_dim % num_heads:
        raise ValueError(f"embed_dim {embed_dim} cannot be divided among num_heads {num_heads}")
    if not 0.0 <= drop_path_rate < 1.0:
        raise ValueError(f"drop_path_rate must be at least 0 and below 1, not {drop_path_rate}")

    blocks: list[BlockPlan] = []
    depth_total = sum(depths)
    dim = embed_dim
    last_stage = len(depths) - 1
    for stage, depth in enumerate(depths):
        stage_dim = embed_dim * 2**stage
        stage_key_stride = max(key_stride // 2**stage, 1)
        for index in range(depth):
            begins = stage > 0 and index == 0
            is_last = index == depth - 1
            # Halvings of the grid before this block.
            halvings = stage - 1 if begins else stage
            is_global = is_last and stage > 0
            pools_more = window_size is not None and is_last and stage in (1, 2)
            widens = is_last and stage < last_stage and not expand_attn
            blocks.append(
                BlockPlan(
                    scale=f"scale{stage + 2}",
                    dim=dim,
                    attention_dim=stage_dim,
                    dim_out=2 * stage_dim if widens else stage_dim,
                    num_heads=num_heads * 2**stage,
                    query_stride=2 if begins else 1,
                    key_stride=2 * stage_key_stride if pools_more else stage_key_stride,
                    window_size=(
                        0 if window_size is None or is_global else window_size // 2**halvings
                    ),
                    table_size=table_size // 2**halvings,
                    drop_path=drop_path_rate * len(blocks) / max(depth_total - 1, 1),
                    is_last=is_last,
                )
            )
            dim = blocks[-1].dim_out
    if window_size is not None:
        _check_windows(blocks, window_size)
    return blocks


def _check_windows(blocks: Sequence[BlockPlan], window_size: int) -> None:
    """Refuses windows that pooling or the halving between stages would not cut evenly."""
    for block in blocks:
        for name in ("query", "key"):
            stride = getattr(block, f"{name}_stride")
            if block.window_size % stride:
                raise ValueError(
                    f"window_size {window_size} leaves windows of {block.window_size} tokens in "
                    f"{block.scale}, which the {name} stride {stride} does not divide"
                )
    windows = [block.window_size for block in blocks if block.window_size]
    for window, next_window in pairwise(windows):
        if window not in (next_window, 2 * next_window):
            raise ValueError(
                f"window_size {window_size} leaves windows of {window} tokens, which cannot be "
                "halved for the next stage; choose a multiple of "
                f"{2 ** (len({block.scale for block in blocks}) - 1)}"
            )
