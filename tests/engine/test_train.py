import importlib
import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from detectron2.config import instantiate
from PIL import Image
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from mvit_det import MViTv2Backbone
from mvit_det.checkpoint import Checkpointer
from mvit_det.config import load_config, resolve_device
from mvit_det.config.image_folders import use_image_folders
from mvit_det.engine import evaluate_checkpoint, train
from mvit_det.engine.evaluate import check_best_metric
from mvit_det.engine.parallel import parallelize
from mvit_det.errors import CheckpointError, ConfigError, DatasetError
from mvit_det.modeling import MultiScaleTransformer, MViTv2Classifier
from mvit_det.modeling.transformer import MultiScaleBlock

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
PICO = CONFIGS / "shapes" / "mask_rcnn_mvitv2_pico.py"


def make_config(output, *overrides):
    config = load_config(
        PICO,
        [
            f"train.output_dir={output}",
            "train.log_period=1",
            "train.visualized_images=0",
            *overrides,
        ],
    )
    resolve_device(config, "cpu")
    return config


def losses(output):
    lines = map(json.loads, (output / "metrics.json").read_text().splitlines())
    return [line["total_loss"] for line in lines if "total_loss" in line]


@pytest.fixture
def few_images(shapes_root, monkeypatch):
    """Evaluates on four images, to be done with it."""
    from detectron2.data import DatasetCatalog

    load = DatasetCatalog.get
    monkeypatch.setattr(DatasetCatalog, "get", lambda name: load(name)[:4])


@pytest.mark.usefixtures("few_images")
@pytest.mark.parametrize("name", ["mask_rcnn_mvitv2_pico", "cascade_mask_rcnn_mvitv2_pico"])
def test_every_quick_start_trains(name, tmp_path):
    config = load_config(CONFIGS / "shapes" / f"{name}.py", [f"train.output_dir={tmp_path}"])
    config.train.update(max_iter=3, log_period=1, visualized_images=0)
    resolve_device(config, "cpu")
    results = train(config)
    assert set(results) == {"bbox", "segm"}
    assert len(losses(tmp_path)) == 3


@pytest.mark.usefixtures("few_images")
def test_heads_with_synchronised_norms_train_on_one_process(tmp_path):
    """As in the published cascades; an image without objects leaves the mask head no regions."""
    config = load_config(CONFIGS / "shapes" / "cascade_mask_rcnn_mvitv2_pico.py")
    for head in (*config.model.roi_heads.box_heads, config.model.roi_heads.mask_head):
        head.conv_norm = "naiveSyncBN_N"
    model = instantiate(config.model)
    config.dataloader.train.total_batch_size = 1
    (image,) = next(iter(instantiate(config.dataloader.train)))
    image["instances"] = image["instances"][:0]
    torch.manual_seed(0)
    from detectron2.utils.events import EventStorage

    with EventStorage():
        sum(model([image]).values()).backward()
    assert all(buffer.isfinite().all() for buffer in model.buffers())
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.usefixtures("few_images")
def test_bf16_on_the_cpu_trains(tmp_path):
    train(make_config(tmp_path, "train.max_iter=2", "train.amp.dtype=bf16"))
    assert len(losses(tmp_path)) == 2


def make_classifier_config(folder, *overrides):
    """That of two classes with an image each."""
    for name in ("train/red", "train/blue", "val/red", "val/blue"):
        (folder / name).mkdir(parents=True)
        Image.new("RGB", (40, 40), Path(name).name).save(folder / name / "0.png")
    overrides += (f"data.train_folder={folder}/train", f"data.val_folder={folder}/val")
    path = CONFIGS / "shapes" / "classifier_mvitv2_pico.py"
    config = load_config(path, [f"train.output_dir={folder}/output", *overrides])
    use_image_folders(config)
    resolve_device(config, "cpu")
    return config


@pytest.mark.parametrize(
    ("make", "kind"), [(make_config, MViTv2Backbone), (make_classifier_config, MViTv2Classifier)]
)
def test_compile_compiles_the_transformer(make, kind, tmp_path, monkeypatch):
    """And nothing else; what it then computes is tested with the model."""

    class Stop(Exception):
        pass

    def stop(**_):
        raise Stop

    compiled = []
    monkeypatch.setattr(MultiScaleTransformer, "compile", lambda self, **_: compiled.append(self))
    config = make(tmp_path, "train.max_iter=1", "train.compile=True")
    config.optimizer._target_ = stop
    with pytest.raises(Stop):
        train(config)
    (transformer,) = compiled
    assert isinstance(transformer, kind)


@pytest.fixture
def two_ranks():
    """A process group of two, of which this process is one, and the other answers nothing."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("two_ranks")
@pytest.mark.parametrize("name", ["mask_rcnn", "classifier", "video"])
def test_fsdp_shards_each_block(name):
    model = instantiate(load_config(CONFIGS / "shapes" / f"{name}_mvitv2_pico.py").model)
    blocks = [module for module in model.modules() if isinstance(module, MultiScaleBlock)]
    parallelize(model, "fsdp", "cpu", {})
    assert len(blocks) == 4
    sharded = [module for module in model.modules() if isinstance(module, FSDPModule)]
    assert sharded == [model, *blocks]
    assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
    weight = blocks[0].mlp.fc1.weight
    assert weight.to_local().shape[0] == weight.shape[0] / 2


@pytest.mark.usefixtures("few_images")
def test_weights_for_other_classes_are_not_evaluated(tmp_path):
    config = make_config(tmp_path)
    names = ["square", "circle", "cross", "star", "heart"]
    model = instantiate(config.model)
    Checkpointer(model, tmp_path, class_names=names).save("model_final", trainer={})
    for given in ({"resume": True}, {}):
        config.train.init_checkpoint = "" if given else str(tmp_path / "model_final.pth")
        with pytest.raises(CheckpointError, match=f"{', '.join(names)}.*train.reset_head"):
            evaluate_checkpoint(config, **given)


@pytest.mark.slow
@pytest.mark.usefixtures("few_images")
def test_loader_and_evaluator_are_built_once(tmp_path, monkeypatch):
    built = []
    module = importlib.import_module("mvit_det.engine.evaluate")
    original = module.instantiate
    monkeypatch.setattr(
        module, "instantiate", lambda config: (built.append(config), original(config))[1]
    )
    train(make_config(tmp_path, "train.max_iter=3", "train.eval_period=1"))
    assert len(built) == 2


def test_an_empty_schedule_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="train.max_iter must be positive, not 0"):
        train(make_config(tmp_path, "train.max_iter=0"))


def test_an_unknown_dataset_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="dataset 'nowhere' is not registered"):
        train(make_config(tmp_path, "dataloader.train.dataset.names=nowhere"))


@pytest.mark.parametrize(
    ("metric", "closest"), [("foo", "AP"), ("bbox/AP5", "bbox/AP50"), ("AP", "bbox/AP")]
)
def test_an_unknown_best_metric_is_refused(metric, closest, tmp_path):
    with pytest.raises(ConfigError, match=f"'{metric}'.*{closest}"):
        train(make_config(tmp_path / "run", f"train.best_metric={metric}"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("metric", ["", "segm/APs", "bbox/AP-square"])
def test_known_metrics_are_accepted(metric, tmp_path):
    check_best_metric(make_config(tmp_path, f"train.best_metric={metric}"))
