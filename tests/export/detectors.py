"""Small models of random weights: detectors that find something everywhere, and classifiers."""

from pathlib import Path

import torch
from detectron2.config import LazyCall, instantiate

from mvit_det.checkpoint import Checkpointer
from mvit_det.config import load_config
from mvit_det.data.clip_sampling import SegmentSampling

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "shapes"
SIZE = (96, 128)
CLASSES = ["cone", "cube", "disc", "rod", "star"]


def make_detector(name, folder):
    """Config of a quick start, and weights whose scores and boxes vary."""
    config = load_config(CONFIGS / f"{name}_mvitv2_pico.py")
    torch.manual_seed(0)
    model = instantiate(config.model)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if "cls_score" in parameter_name:
                parameter.mul_(30 if "weight" in parameter_name else 0)
            elif "bbox_pred.weight" in parameter_name:
                parameter.mul_(10)
            elif "mask_head.predictor.weight" in parameter_name:
                parameter.mul_(300)
    Checkpointer(model, folder, class_names=["ash", "elm", "fir", "oak", "yew"]).save(name)
    return config, folder / f"{name}.pth"


def make_classifier(folder, *overrides):
    """Config of a quick start, and weights whose scores vary."""
    overrides = ["dataloader.test.mapper.crop_ratio=0.8", *overrides]
    config = load_config(CONFIGS / "classifier_mvitv2_pico.py", overrides)
    torch.manual_seed(0)
    model = instantiate(config.model)
    model.classifier.head.weight.data.mul_(30)
    Checkpointer(model, folder, class_names=CLASSES).save("classifier")
    return config, folder / "classifier.pth"


def make_video_classifier(folder, *overrides, segments=False):
    """Config of a quick start, and weights whose scores vary."""
    config = load_config(CONFIGS / "video_mvitv2_pico.py", overrides)
    if segments:
        config.dataloader.train.mapper.sampling = LazyCall(SegmentSampling)(num_frames=8)
    torch.manual_seed(0)
    model = instantiate(config.model)
    torch.nn.init.normal_(model.classifier.head.weight)
    Checkpointer(model, folder, class_names=[f"action {i}" for i in range(10)]).save("clips")
    return config, folder / "clips.pth"
