"""From classes that exclude each other to LVIS's, whose annotations are federated."""

from detectron2.config import LazyCall as L

from mvit_det.data.lvis import federated_weights


def federated(model, dataset_name, num_classes, sampled_classes=50):
    """Has a detector score classes one by one, and learn some negatives at a time, in place.

    Args:
        model: a Mask R-CNN, or a cascade.
        dataset_name: that of training, whose metadata count images by class.
        num_classes: of that dataset.
        sampled_classes: that each batch trains, those that occur in it among them.
    """
    heads = model.roi_heads
    heads.num_classes = num_classes
    for predictor in heads.get("box_predictors") or [heads.box_predictor]:
        predictor.update(
            use_sigmoid_ce=True,
            use_fed_loss=True,
            fed_loss_num_classes=sampled_classes,
            get_fed_loss_cls_weights=L(federated_weights)(dataset_name=dataset_name, power=0.5),
            # LVIS counts the 300 best predictions of an image, whatever their score.
            test_score_thresh=0.02,
            test_topk_per_image=300,
        )
