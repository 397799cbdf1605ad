"""Liger's fused kernels in packed rows, with tensor code in place of the Triton kernels."""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest
import torch
from torch import nn
from trl import RewardTrainer

from tests.model_factories.reward_trainers import make_model, make_rows, make_trainer
from tests.trainer.shared_prefix.test_parity import CASES, assert_same_step
from worker.reward_model import fused_layers
from worker.reward_model.fused_layers import FusedLayers, fused_kernels
from worker.trainer.shared_prefix import SharedPrefixRewardTrainer, check_parity, parity_check

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


class Norm(torch.autograd.Function):
    """RMSNorm; like Liger's it can write its input's gradient over its output's."""

    @staticmethod
    def forward(ctx, x, weight, eps, offset, casting_mode, in_place):
        assert (offset, casting_mode) == (0.0, "llama")
        scale = torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + eps)
        ctx.save_for_backward(x, weight, scale)
        ctx.in_place = in_place
        return weight * (x.float() * scale).to(x.dtype)

    @staticmethod
    def backward(ctx, dy):
        x, weight, scale = ctx.saved_tensors
        dw = (dy * x * scale).flatten(end_dim=-2).sum(0)
        m = dy * weight
        dx = scale * (m - scale * scale * (m * x).mean(-1, keepdim=True) * x)
        return (dy.copy_(dx) if ctx.in_place else dx), dw, None, None, None, None


class SwiGlu(torch.autograd.Function):
    """SiLU of one factor times the other; like Liger's it writes gradients over both factors."""

    @staticmethod
    def forward(ctx, a, b):
        ctx.save_for_backward(a, b)
        return nn.functional.silu(a) * b

    @staticmethod
    def backward(ctx, dc):
        a, b = (x.detach() for x in ctx.saved_tensors)
        sigmoid = a.sigmoid()
        db = dc * a * sigmoid
        da = dc * b * (sigmoid + a * sigmoid * (1 - sigmoid))
        return a.copy_(da), b.copy_(db)


class Rope(torch.autograd.Function):
    """Rotary positions; like Liger's it writes over queries and keys, and over their gradients."""

    @staticmethod
    def forward(ctx, q, k, cos, sin, position_ids, unsqueeze_dim):
        ctx.save_for_backward(cos, sin)
        return tuple(rotate(x, cos, sin) for x in (q, k))

    @staticmethod
    def backward(ctx, dq, dk):
        cos, sin = ctx.saved_tensors
        return (*(rotate(x, cos, -sin) for x in (dq, dk)), None, None, None, None)


def rotate(x, cos, sin):
    x = x.transpose(1, 2).contiguous().transpose(1, 2)  # the same storage, unless it is a slice
    first, second = x.chunk(2, dim=-1)
    turned = x * cos[:, None] + torch.cat((-second, first), dim=-1) * sin[:, None]
    return x.detach().copy_(turned)


@pytest.fixture
def calls(monkeypatch):
    """Install a liger-kernel of tensor code; the list receives the name of each kernel called."""
    called = []

    def norm(X, W, eps, offset=0.0, casting_mode="llama", in_place=True):  # noqa: N803
        called.append("norm")
        return Norm.apply(X, W, eps, offset, casting_mode, in_place)

    def swiglu(a, b):
        called.append("swiglu")
        return SwiGlu.apply(a, b)

    def rope(q, k, cos, sin, position_ids=None, unsqueeze_dim=1):
        called.append("rope")
        return Rope.apply(q, k, cos, sin, position_ids, unsqueeze_dim)

    functional = ModuleType("liger_kernel.transformers.functional")
    functional.liger_rms_norm = norm
    functional.liger_swiglu = swiglu
    functional.liger_rope = rope
    package, inner = ModuleType("liger_kernel"), ModuleType("liger_kernel.transformers")
    inner.functional = functional
    for module in (package, inner, functional):
        module.__spec__ = ModuleSpec(module.__name__, None)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(fused_layers, "version", lambda name: {"liger-kernel": "0.8.5"}[name])
    return called


@pytest.fixture
def _as_on_cuda(monkeypatch, calls):
    """Let packed rows take the kernels, which no CPU does."""
    monkeypatch.setattr(parity_check, "fused_kernels", lambda _device: fused_kernels(CUDA))


def make_trainers(folder, family):
    rows = make_rows(CASES["uneven lengths"])
    return [
        make_trainer(trainer_class, folder, rows, model=family)
        for trainer_class in (RewardTrainer, SharedPrefixRewardTrainer)
    ]


@pytest.mark.parametrize(
    ("family", "norms", "mlps", "has_rotary"),
    [
        # Two norms in each of three layers and one at the end; Qwen3 has two more in attention.
        ("llama", 7, 3, True),
        ("qwen2", 7, 3, True),
        ("qwen3", 13, 3, True),
        ("mistral", 7, 3, True),
        # Gate and up are one layer, and the rotary function may turn a part of a head.
        ("phi3", 7, 0, False),
        # Gemma adds 1 to the weights, and its activation is GELU.
        ("gemma", 0, 0, True),
        ("gpt2", 0, 0, False),
    ],
)
def test_only_layers_with_the_code_of_llama_are_fused(family, norms, mlps, has_rotary):
    found = FusedLayers.of(make_model(family).base_model)
    assert (len(found.norms), len(found.mlps), bool(found.rotary)) == (norms, mlps, has_rotary)


def test_mlp_of_another_activation_keeps_its_code():
    found = FusedLayers.of(make_model("llama", hidden_act="gelu").base_model)
    assert (len(found.norms), found.mlps) == (7, ())


@pytest.mark.usefixtures("_as_on_cuda")
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral", "phi3", "gemma"])
def test_fused_layers_give_the_gradients_of_stock(tmp_path, calls, family):
    stock, ours = make_trainers(tmp_path, family)
    assert check_parity(ours).has_parity
    assert ours.packed_model.uses_fused_layers
    assert ours.activation_cost.per_token > 0
    for name, case in CASES.items():
        calls.clear()
        assert_same_step(stock, ours, make_rows(case, seed=1), is_drawn=True)
        # The forward of stock calls none: a layer that is trimmed calls some of them twice.
        assert calls, name
        assert calls.count("norm") <= 2 * len(ours.packed_model.fused_layers.norms)
    calls.clear()
    ours.recompute_above_bytes, ours.may_recompute = 1, True
    assert_same_step(stock, ours, make_rows(CASES["uneven lengths"], seed=2), is_drawn=True)


def test_layers_are_plain_again_after_a_pass(tmp_path, calls):
    ours = make_trainers(tmp_path, "llama")[1]
    layers, ids = ours.packed_model.fused_layers, torch.tensor([[5, 6, 7]])
    mask = torch.ones_like(ids)
    rotary = fused_layers.modeling_llama.apply_rotary_pos_emb
    with fused_layers.use_fused_layers(layers):
        ours.model(input_ids=ids, attention_mask=mask)
    assert set(calls) == {"norm", "swiglu", "rope"}
    calls.clear()
    with pytest.raises(RuntimeError, match="midway"), fused_layers.use_fused_layers(layers):
        raise RuntimeError("midway")
    assert fused_layers.modeling_llama.apply_rotary_pos_emb is rotary
    ours.model(input_ids=ids, attention_mask=mask)
    assert calls == []


@pytest.mark.parametrize(
    ("device", "is_installed", "expected"),
    [(CUDA, True, "liger-kernel 0.8.5"), (CPU, True, None), (CUDA, False, None)],
)
def test_kernels_are_those_of_an_installed_package_on_cuda(
    calls, monkeypatch, device, is_installed, expected
):
    if not is_installed:
        monkeypatch.setitem(sys.modules, "liger_kernel", None)
        monkeypatch.setattr(fused_layers, "find_spec", lambda _name: None)
    assert fused_kernels(device) == expected


def test_training_on_a_cpu_calls_no_kernel(tmp_path, calls):
    stock, ours = make_trainers(tmp_path, "llama")
    assert check_parity(ours).has_parity
    assert_same_step(stock, ours, make_rows(CASES["uneven lengths"]))
    assert calls == []
    assert not ours.packed_model.uses_fused_layers
    assert ours.used_kernels is None


def fail(*_arguments, **_more):
    raise RuntimeError("Failed to find C compiler")


def leave_out_the_gate(a, b):
    return b * 1.0


class WrongBackward(torch.autograd.Function):
    """A correct product whose gradients are exchanged."""

    @staticmethod
    def forward(ctx, a, b):
        ctx.save_for_backward(a, b)
        return nn.functional.silu(a) * b

    @staticmethod
    def backward(ctx, dc):
        a, b = ctx.saved_tensors
        return dc * a, dc * b


@pytest.mark.usefixtures("_as_on_cuda")
@pytest.mark.parametrize("kernel", [fail, leave_out_the_gate, WrongBackward.apply])
def test_start_of_a_run_refuses_a_wrong_kernel(tmp_path, monkeypatch, kernel):
    stock, ours = make_trainers(tmp_path, "llama")
    functional = sys.modules["liger_kernel.transformers.functional"]
    monkeypatch.setattr(functional, "liger_swiglu", kernel)
    assert check_parity(ours).has_parity
    assert not ours.packed_model.uses_fused_layers
    assert ours.packed_model.trims_last_layer
    assert_same_step(stock, ours, make_rows(CASES["uneven lengths"]))


@pytest.mark.usefixtures("_as_on_cuda")
def test_run_tells_which_kernels_it_uses(tmp_path, monkeypatch):
    ours = make_trainers(tmp_path, "llama")[1]
    monkeypatch.setattr(
        "worker.trainer.shared_prefix.trainer.fused_kernels", lambda _device: fused_kernels(CUDA)
    )
    assert ours.used_kernels is None
    check_parity(ours)
    assert ours.used_kernels == "liger-kernel 0.8.5"
    ours.use_length_groups()
    assert ours.used_kernels is None
