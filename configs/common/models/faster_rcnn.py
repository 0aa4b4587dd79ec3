"""From Mask R-CNN to Faster R-CNN."""


def without_masks(model, dataloader):
    """Turns a Mask R-CNN, or a cascade, into a detector of boxes, in place."""
    for part in ("mask_in_features", "mask_pooler", "mask_head"):
        model.roi_heads.pop(part)
    dataloader.train.mapper.use_instance_mask = False
    dataloader.evaluator.tasks = ["bbox"]
