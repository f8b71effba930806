"""Linear layers with the published initialisation: ``nn.Linear``, for hooks and adapters."""

from torch import nn

INIT_STD = 0.02


def make_linear(in_features: int, out_features: int) -> nn.Linear:
    """A linear layer with weights ``~ N(0, 0.02^2)`` and biases 0."""
    linear = nn.Linear(in_features, out_features)
    nn.init.normal_(linear.weight, std=INIT_STD)
    nn.init.zeros_(linear.bias)
    return linear
