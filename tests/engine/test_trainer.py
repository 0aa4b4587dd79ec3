import copy

import pytest
import torch
from detectron2.engine import HookBase
from torch import nn

from mvit_det.checkpoint import Checkpointer
from mvit_det.engine.ema import ModelEMA
from mvit_det.engine.nonfinite import NonFiniteSteps
from mvit_det.engine.trainer import Trainer
from mvit_det.errors import CheckpointError


class Regression(nn.Module):
    """A model with a detector's interface: batches in, a dict of losses out."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 1)
        self.dtypes = []

    def forward(self, batch):
        output = self.layer(batch)
        self.dtypes.append(output.dtype)
        return {"loss_mean": output.mean(), "loss_square": output.float().square().mean()}


def make_trainer(**arguments):
    torch.manual_seed(0)
    model = Regression()
    batches = [torch.randn(3, 4) for _ in range(5)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    return Trainer(model, batches, optimizer, device="cpu", **arguments), batches


def train(trainer, iterations):
    trainer.train(0, iterations)


def test_steps_equal_a_plain_loop():
    trainer, batches = make_trainer()
    train(trainer, 3)
    torch.manual_seed(0)
    model = Regression()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    for batch in batches[:3]:
        optimizer.zero_grad()
        sum(model(batch).values()).backward()
        optimizer.step()
    for actual, expected in zip(trainer.model.parameters(), model.parameters()):
        assert torch.equal(actual, expected)


@pytest.mark.parametrize("norm", [1e-3, 0.1])
def test_gradients_are_clipped_to_their_common_norm(norm):
    trainer, _ = make_trainer(max_grad_norm=norm)
    before = nn.utils.parameters_to_vector(trainer.model.parameters()).detach()
    train(trainer, 1)
    after = nn.utils.parameters_to_vector(trainer.model.parameters()).detach()
    assert (after - before).norm() == pytest.approx(0.5 * norm, rel=1e-3)


def test_bf16_computes_in_bf16_and_keeps_parameters_in_fp32():
    trainer, _ = make_trainer(amp_dtype="bf16")
    train(trainer, 2)
    assert trainer.model.dtypes == [torch.bfloat16] * 2
    assert all(parameter.dtype == torch.float32 for parameter in trainer.model.parameters())
    assert not trainer.grad_scaler.is_enabled()


def test_state_goes_on_where_it_was_saved():
    trainer, batches = make_trainer()
    train(trainer, 2)
    again, _ = make_trainer()
    again.model.load_state_dict(trainer.model.state_dict())
    again.load_state_dict(copy.deepcopy(trainer.state_dict()))
    assert again.iter == trainer.iter
    for runner in (trainer, again):
        runner.data_loader = [batches[2]]
        runner.train(2, 3)
    for actual, expected in zip(again.model.parameters(), trainer.model.parameters()):
        assert torch.equal(actual, expected)


def test_settings_of_the_optimizer_are_those_of_the_run_and_not_of_the_state():
    trainer, _ = make_trainer()
    train(trainer, 2)
    state = trainer.state_dict()
    again, _ = make_trainer()
    again.optimizer.param_groups[0]["lr"] = 0.125
    again.load_state_dict(state)
    assert again.optimizer.param_groups[0]["lr"] == 0.125
    momentum = again.optimizer.state[again.model.layer.weight]["momentum_buffer"]
    assert momentum.abs().sum() > 0


def test_state_of_a_training_that_trained_less_is_refused():
    trainer, _ = make_trainer()
    trainer.model.layer.bias.requires_grad_(False)
    train(trainer, 2)
    again, _ = make_trainer()
    with pytest.raises(CheckpointError, match="for 1 of 2 parameters, 'layer.bias' first"):
        again.load_state_dict(trainer.state_dict())


@pytest.mark.parametrize("amp_dtype", [None, "bf16"])
def test_accumulated_parts_are_the_mean_of_their_gradients(amp_dtype):
    """And so equal the whole batch where losses are means over images."""
    trainer, batches = make_trainer(max_grad_norm=0.1, amp_dtype=amp_dtype, grad_accum_steps=2)
    train(trainer, 2)
    whole, _ = make_trainer(max_grad_norm=0.1, amp_dtype=amp_dtype)
    whole.data_loader = [torch.cat(batches[0:2]), torch.cat(batches[2:4])]
    train(whole, 2)
    for actual, expected in zip(trainer.model.parameters(), whole.model.parameters()):
        torch.testing.assert_close(
            actual, expected, atol=1e-6, rtol=1e-6 if not amp_dtype else 1e-2
        )
    assert len(trainer.model.dtypes) == 2 * len(whole.model.dtypes)


def test_metrics_are_those_of_the_whole_batch():
    trainer, batches = make_trainer(grad_accum_steps=2)
    model = copy.deepcopy(trainer.model)
    trainer.train(0, 1)
    expected = {name: loss.item() for name, loss in model(torch.cat(batches[:2])).items()}
    metrics = {name: value for name, (value, _) in trainer.storage.latest().items()}
    assert metrics["loss_mean"] == pytest.approx(expected["loss_mean"])
    assert metrics["loss_square"] == pytest.approx(expected["loss_square"])
    assert metrics["total_loss"] == pytest.approx(sum(expected.values()))


class Noise(Regression):
    """Its loss is random, as with stochastic depth or sampled regions."""

    def forward(self, batch):
        return {"loss": self.layer(batch + torch.randn_like(batch)).square().mean()}


def test_draws_of_the_model_depend_on_seed_and_iteration_alone():
    def losses(seed, start, stop, disturbance=0):
        torch.manual_seed(0)
        model, values = Noise(), []
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        batches = [torch.ones(2, 4)] * 9
        trainer = Trainer(model, batches, optimizer, device="cpu", seed=seed)
        torch.manual_seed(disturbance)
        trainer.after_step = lambda: values.append(trainer.storage.latest()["total_loss"][0])
        trainer.train(start, stop)
        return values

    whole = losses(3, 0, 6)
    assert len(set(whole)) == 6
    assert losses(3, 4, 6, disturbance=1) == whole[4:]
    assert not set(losses(4, 0, 6)) & set(whole)


def test_a_request_ends_the_training_after_the_step():
    steps = []
    trainer, _ = make_trainer(should_stop=lambda: len(steps) == 2)
    trainer.register_hooks([Steps(steps)])
    trainer.train(0, 5)
    assert steps == [0, 1, 2]
    assert trainer.stopped
    assert trainer.iter == 2


class Steps(HookBase):
    """Notes the steps that were done."""

    def __init__(self, steps):
        self.steps = steps

    def after_step(self):
        self.steps.append(self.trainer.iter)


def test_loss_scaling_changes_no_gradient_of_accumulated_parts():
    """Gradients are unscaled before they are clipped, and once for all parts."""
    trainer, _ = make_trainer(max_grad_norm=0.1, amp_dtype="fp16", grad_accum_steps=2)
    trainer.grad_scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    train(trainer, 2)
    plain, _ = make_trainer(max_grad_norm=0.1, grad_accum_steps=2)
    train(plain, 2)
    for actual, expected in zip(trainer.model.parameters(), plain.model.parameters()):
        torch.testing.assert_close(actual, expected, atol=1e-3, rtol=1e-2)
    assert set(trainer.model.dtypes) == {torch.float16}


def test_overflows_of_loss_scaling_lower_the_scale_and_are_no_mistake(caplog):
    trainer, _ = make_trainer(amp_dtype="fp16", nonfinite=NonFiniteSteps(limit=3))
    trainer.grad_scaler = torch.amp.GradScaler("cpu", init_scale=2.0**17)
    before = trainer.model.layer.weight.clone()
    scales = []
    trainer.after_step = lambda: scales.append(trainer.grad_scaler.get_scale())
    train(trainer, 5)
    assert scales[0] == 2.0**16
    assert scales[-1] < 2.0**17
    assert not torch.equal(trainer.model.layer.weight, before)
    assert "skipped this step" not in caplog.text


def test_a_checkpoint_of_an_earlier_version_is_resumed(tmp_path):
    """As written before runs had ids: optimizer state by parameter names, all tensors full."""

    def make():
        torch.manual_seed(0)
        model = Regression()
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        trainer = Trainer(model, [torch.ones(3, 4)] * 3, optimizer, device="cpu", seed=7)
        ema = ModelEMA(model, 0.5, 2)
        trainer.register_hooks([ema])
        return trainer, ema

    trainer, ema = make()
    trainer.train(0, 2)
    parameters = dict(trainer.model.named_parameters())
    state = {name: trainer.optimizer.state[parameter] for name, parameter in parameters.items()}
    assert set(state["layer.weight"]) == {"step", "exp_avg", "exp_avg_sq"}
    content = {
        "model": trainer.model.state_dict(),
        "trainer": {
            "iteration": 1,
            "hooks": {"ModelEMA": {"updates": 2, "average": ema.average}},
            "optimizer": state,
            "grad_scaler": {},
            "seed": 7,
        },
        "iteration": 1,
        "class_names": ["thing"],
    }
    torch.save(content, tmp_path / "model_0000002.pth")
    (tmp_path / "last_checkpoint").write_text("model_0000002.pth")

    again, average = make()
    nn.init.zeros_(again.model.layer.weight)
    Checkpointer(again.model, tmp_path).resume_or_load("").restore(again)
    assert again.iter == 1
    for runner in (trainer, again):
        runner.train(2, 3)
    for actual, expected in zip(again.model.parameters(), trainer.model.parameters()):
        assert torch.equal(actual, expected)
    assert average.updates == ema.updates == 3
    assert all(torch.equal(average.average[name], ema.average[name]) for name in ema.average)
