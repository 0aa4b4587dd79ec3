"""From Mask R-CNN to the Cascade Mask R-CNN of ViTDet's baselines (Li et al., 2022)."""

from .cascade import cascade


def vitdet(model, square_pad):
    """Turns a Mask R-CNN into a cascade with LayerNorm in pyramid and heads, in place.

    Args:
        model: a Mask R-CNN.
        square_pad: side of the squares in pixels to which images are padded. Detectron2 crops
            larger images without a word, so no image may be resized to more.
    """
    cascade(model, norm="LN")
    model.backbone.update(norm="LN", square_pad=square_pad)
