"""The stage plan: from a few numbers to the geometry of every block, computed and checked once."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

# Which blocks attend within windows: all but some (Hwin), all, all with windows that move from
# block to block (Swin), none.
ATTENTIONS = ("hwin", "window", "shifted_window", "global")
# Global blocks of Hwin where there is but one stage (ViTDet, section 3).
GLOBAL_BLOCKS = 4


@dataclass(frozen=True)
class BlockPlan:
    """Geometry of one block. Sizes are in tokens along one axis.

    Attributes:
        scale: name of the stage, "scaleN" for a stride of 2^N pixels.
        dim: channels that come in.
        attention_dim: channels of attention, and so of what the MLP gets.
        dim_out: channels that go out.
        num_heads: attention heads.
        query_stride: stride of query pooling, 2 where a stage begins.
        key_stride: stride of key and value pooling.
        pools_query: whether there is a pooling of queries.
        pools_key: whether there is a pooling of keys and values.
        window_size: side of the attention window on the grid that comes in; 0 is global.
        shift: how far the windows are moved down and to the right, less than a window.
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
    pools_query: bool
    pools_key: bool
    window_size: int
    shift: int
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
    attention: str = "hwin",
    window_size: int,
    table_size: int,
    drop_path_rate: float,
    first_scale: int = 2,
    expand_attn: bool = True,
    full_query_pooling: bool = True,
    full_key_pooling: bool = True,
    pool_global_more: bool = True,
) -> list[BlockPlan]:
    """Plans the blocks of an MViTv2 (paper, sections 4.1 to 4.3 and table 1), or of its variants.

    At each new stage, width and heads double and the first block pools the query with stride 2;
    key stride and window halve along with the grid. The first block of a stage still sees the grid
    of the stage before, and so uses its window.

    With "hwin", `global_blocks` are global, and may pool keys twice as much in the second and third
    stage, to afford that. With "shifted_window", every second block of a stage moves its windows by
    half their side (Swin, section 3.2). With "global", the plan of pre-training, no block has
    windows. No variant changes a parameter.

    Args:
        depths: blocks of each stage.
        embed_dim: channels of the first stage.
        num_heads: attention heads of the first stage.
        key_stride: stride of key and value pooling in the first stage; 1 is 1 throughout.
        attention: one of `ATTENTIONS`.
        window_size: side of the window in the first stage; of no account with "global".
        table_size: side of the grid of tokens in pre-training.
        drop_path_rate: of the last block; it grows linearly from 0 at the first.
        first_scale: number in the name of the first stage.
        expand_attn: whether a stage widens in the attention of its first block, and not in the MLP
            of the last block before it.
        full_query_pooling: whether queries pass a pooling also where its stride is 1.
        full_key_pooling: the same for keys and values.
        pool_global_more: whether Hwin's global blocks of the second and third stage pool keys
            twice as much.

    Raises:
        ValueError: an argument is out of range or does not fit the others; names the values.
    """
    depths = tuple(depths)
    if not depths or any(not isinstance(depth, int) or depth < 1 for depth in depths):
        raise ValueError(f"depths must be one positive integer a stage, not {depths}")
    numbers = {
        "embed_dim": embed_dim,
        "num_heads": num_heads,
        "key_stride": key_stride,
        "window_size": window_size,
    }
    for name, number in numbers.items():
        if not isinstance(number, int) or number < 1:
            raise ValueError(f"{name} must be a positive integer, not {number!r}")
    if attention not in ATTENTIONS:
        raise ValueError(f"attention must be one of {', '.join(ATTENTIONS)}, not {attention!r}")
    if embed_dim % num_heads:
        raise ValueError(f"embed_dim {embed_dim} cannot be divided among num_heads {num_heads}")
    if not 0.0 <= drop_path_rate < 1.0:
        raise ValueError(f"drop_path_rate must be at least 0 and below 1, not {drop_path_rate}")

    blocks: list[BlockPlan] = []
    depth_total = sum(depths)
    dim = embed_dim
    last_stage = len(depths) - 1
    global_indexes = global_blocks(depths) if attention == "hwin" else ()
    for stage, depth in enumerate(depths):
        stage_dim = embed_dim * 2**stage
        stage_key_stride = max(key_stride // 2**stage, 1)
        for index in range(depth):
            begins = stage > 0 and index == 0
            is_last = index == depth - 1
            # Halvings of the grid before this block.
            halvings = stage - 1 if begins else stage
            is_global = len(blocks) in global_indexes
            pools_more = pool_global_more and is_global and stage in (1, 2) and key_stride > 1
            widens = is_last and stage < last_stage and not expand_attn
            query_stride = 2 if begins else 1
            block_key_stride = 2 * stage_key_stride if pools_more else stage_key_stride
            has_windows = attention != "global" and not is_global
            window = window_size // 2**halvings if has_windows else 0
            shift = 0
            if attention == "shifted_window" and index % 2:
                shift = _half_window(window, max(query_stride, block_key_stride))
            blocks.append(
                BlockPlan(
                    scale=f"scale{first_scale + stage}",
                    dim=dim,
                    attention_dim=stage_dim,
                    dim_out=2 * stage_dim if widens else stage_dim,
                    num_heads=num_heads * 2**stage,
                    query_stride=query_stride,
                    key_stride=block_key_stride,
                    pools_query=full_query_pooling or query_stride > 1,
                    pools_key=full_key_pooling or block_key_stride > 1,
                    window_size=window,
                    shift=shift,
                    table_size=table_size // 2**halvings,
                    drop_path=drop_path_rate * len(blocks) / max(depth_total - 1, 1),
                    is_last=is_last,
                )
            )
            dim = blocks[-1].dim_out
    _check_windows(blocks, window_size)
    return blocks


def first_scale(patch_stride: int) -> int:
    """Number in the name of the first stage: patches of 4 pixels make "scale2", of 16 "scale4"."""
    return patch_stride.bit_length() - 1


def global_blocks(depths: Sequence[int]) -> tuple[int, ...]:
    """Indexes of the blocks that are global with Hwin, counted over all stages.

    The last of each stage but the first, whose outputs so have seen the whole image (MViTv2,
    section 4.2). A single stage has four of them, evenly spread, the last of all among them
    (ViTDet, section 3).
    """
    if len(depths) > 1:
        return tuple(end - 1 for end in accumulate(depths))[1:]
    quarters = range(1, GLOBAL_BLOCKS + 1)
    return tuple(sorted({max(depths[0] * part // GLOBAL_BLOCKS, 1) - 1 for part in quarters}))


def _half_window(window: int, step: int) -> int:
    """How far windows are shifted: half their side, rounded down to whole steps of pooling."""
    shift = window // 2 // step * step
    if not shift:
        raise ValueError(
            f"windows of {window} tokens are too small to be shifted in steps of {step}, the "
            "stride of their pooling; choose a larger window_size or another attention"
        )
    return shift


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
