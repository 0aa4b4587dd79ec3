"""The five sizes of MViTv2 (paper, table 1): backbones, or classifiers with `num_classes`."""

from typing import Any, Protocol, cast, overload

from .classifier import MViTv2Classifier
from .mvit import MViTv2


class Size(Protocol):
    """Builds MViTv2 in one size: a backbone, or with `num_classes` a classifier."""

    @overload
    def __call__(self, *, num_classes: None = None, **overrides: Any) -> MViTv2: ...

    @overload
    def __call__(
        self, *, num_classes: int, class_token: bool = False, **overrides: Any
    ) -> MViTv2Classifier: ...


def _size(name: str, **numbers: Any) -> Size:
    def build(
        *, num_classes: int | None = None, class_token: bool = False, **overrides: Any
    ) -> MViTv2 | MViTv2Classifier:
        arguments = {**numbers, **overrides}
        if num_classes is not None:
            return MViTv2Classifier(num_classes, class_token=class_token, **arguments)
        if class_token:
            raise ValueError("class_token is for classifiers: give num_classes as well")
        return MViTv2(**arguments)

    build.__name__ = build.__qualname__ = f"mvitv2_{name.lower()}"
    build.__doc__ = f"""MViTv2-{name}: a backbone, or with `num_classes` a classifier.

    Args:
        num_classes: builds `MViTv2Classifier` with so many logits; None builds `MViTv2`.
        class_token: of a classifier, as there.
        overrides: any argument of the one that is built. `drop_path_rate` is that of training
            for detection where it is not given.

    Raises:
        ValueError: as for the one that is built, and for a backbone with a class token.
    """
    return cast(Size, build)


# Drop path rates are those of training for detection (MViTv2, appendix).
mvitv2_t = _size("T", embed_dim=96, num_heads=1, depths=(1, 2, 5, 2), drop_path_rate=0.2)
mvitv2_s = _size("S", embed_dim=96, num_heads=1, depths=(1, 2, 11, 2), drop_path_rate=0.2)
mvitv2_b = _size("B", embed_dim=96, num_heads=1, depths=(2, 3, 16, 3), drop_path_rate=0.4)
mvitv2_l = _size("L", embed_dim=144, num_heads=2, depths=(2, 6, 36, 4), drop_path_rate=0.5)
mvitv2_h = _size("H", embed_dim=192, num_heads=3, depths=(4, 8, 60, 8), drop_path_rate=0.6)
