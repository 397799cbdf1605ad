"""TRL's loss and metrics of a batch of rewards."""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def pairwise_loss(rewards: Tensor, margins: Tensor | None, centering: float | None) -> Tensor:
    """Return the Bradley–Terry loss of rewards [B, 2], with TRL's margins and centring."""
    difference = rewards[:, 0] - rewards[:, 1]
    if margins is not None:
        difference = difference - margins
    loss = -logsigmoid(difference).mean()
    if centering is not None:
        loss = loss + centering * (rewards.sum(dim=1) ** 2).mean()
    return loss


def batch_metrics(rewards: Tensor, loss: Tensor) -> dict[str, float]:
    """Return TRL's metrics of rewards [B, 2], and the loss, with one device synchronisation."""
    difference = rewards[:, 0] - rewards[:, 1]
    values = {
        "min_reward": rewards.min(),
        "mean_reward": rewards.mean(),
        "max_reward": rewards.max(),
        "accuracy": (difference > 0).float().mean(),
        "margin": difference.mean(),
        "loss": loss,
    }
    return dict(zip(values, torch.stack(list(values.values())).tolist(), strict=True))
