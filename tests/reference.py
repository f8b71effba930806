"""The paper, slowly: Mega in its most literal form, for the tests to hold the modules to.

Functions on tensors of any dtype, differentiable by autograd. Explicit loops over time for the
moving average, explicit (L, L) tables for attention: nothing here is fast. `params` maps the names
of a published checkpoint (relative to the layer) to tensors, so `dict(module.named_parameters())`
or a `state_dict` fits. Sequences are (B, L, D); padding masks are (B, L), True at padding. Paper:
Ma et al., "Mega: Moving Average Equipped Gated Attention", arXiv 2209.10655.
"""

import torch
import torch.nn.functional as F

from fairseq_mega.ops.attention.naive import attention, visible_keys
from fairseq_mega.ops.ema import naive as naive_ema

ACTIVATIONS = {"silu": F.silu, "relu": torch.relu, "tanh": torch.tanh, "gelu": F.gelu}


def under(params, name):
    """The parameters below `name.`, with that prefix taken off."""
    prefix = name + "."
    return {k[len(prefix) :]: v for k, v in params.items() if k.startswith(prefix)}


def linear(params, x):
    return x @ params["weight"].transpose(0, 1) + params["bias"]


# --- Multi-dimensional damped EMA -----------------------------------------------------------------


def ema_direction(x, parameters, truncation):
    """One direction of the average of x (B, L, D), by the paper's own forms."""
    if truncation:
        kernel = naive_ema.ema_kernel(*parameters, min(x.size(1), truncation))
        return naive_ema.ema_convolution(x, kernel)
    return naive_ema.ema_recurrence(x, *parameters)[0]


def ema_parameters(params):
    return [params[name] for name in ("delta", "alpha", "beta", "gamma")]


def ema(x, padding_mask, params, bidirectional=False, truncation=None):
    """y_t + omega x_t, (B, L, D): what the output is the silu of."""
    heard = x
    if padding_mask is not None:
        heard = x.masked_fill(padding_mask.unsqueeze(-1), 0.0)
    parameters = ema_parameters(params)
    if bidirectional:
        dim = x.size(-1)
        y = ema_direction(heard, [p[:dim] for p in parameters], truncation)
        backward = [p[dim:] for p in parameters]
        y = y + ema_direction(heard.flip(1), backward, truncation).flip(1)
    else:
        y = ema_direction(heard, parameters, truncation)
    return y + params["omega"] * x


# --- Relative positional bias ---------------------------------------------------------------------


def rotate(x, position):
    """R_m x for x (Z,) at position m."""
    x1, x2 = x.chunk(2)
    half = x1.numel()
    theta = 10000.0 ** (-torch.arange(half, dtype=x.dtype) / half)
    cos, sin = torch.cos(position * theta), torch.sin(position * theta)
    return torch.cat([x1 * cos - x2 * sin, x2 * cos + x1 * sin])


def relative_bias(params, kind, L_q, L_k):
    """bias(i, j), (L_q, L_k)."""
    if kind == "simple":
        table = params["rel_pos_bias"]
        zero = (table.numel() - 1) // 2  # M - 1
        offset = torch.arange(L_k) - torch.arange(L_q).unsqueeze(1)  # j - i
        return table[zero + offset]
    rows = torch.stack([rotate(params["alpha"].squeeze(0), i) for i in range(L_q)])
    columns = torch.stack([rotate(params["beta"].squeeze(0), j) for j in range(L_k)])
    return rows @ columns.transpose(0, 1)


# --- Norms ----------------------------------------------------------------------------------------


def norm(params, kind, x, eps=1e-5):
    """Normalises the last dimension; batch norms use their running statistics (evaluation)."""
    if kind == "scalenorm":
        return params["scalar"] * x * torch.rsqrt((x * x).mean(-1, keepdim=True) + eps)
    if kind == "rmsnorm":
        return params.get("weight", 1.0) * x * torch.rsqrt((x * x).mean(-1, keepdim=True) + eps)
    if kind == "layernorm":
        mean = x.mean(-1, keepdim=True)
        variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    else:
        mean, variance = params["running_mean"], params["running_var"]
    standard = (x - mean) / torch.sqrt(variance + eps)
    return params.get("weight", 1.0) * standard + params.get("bias", 0.0)


# --- Layers, without dropout ----------------------------------------------------------------------


def mega_layer(params, config, x, padding_mask=None):
    """Gated attention with EMA: the output (B, L, D) and the attention weights (B, L, L)."""
    batch, length, dim = x.shape
    phi = ACTIVATIONS[config["activation"]]
    zdim, hdim = config["zdim"], config["hdim"]

    residual = x
    if config["prenorm"]:
        x = norm(under(params, "norm.norm"), config["norm_type"], x)
    v = phi(linear(under(params, "v_proj"), x))
    move = under(params, "move")
    mx = F.silu(ema(x, padding_mask, move, config["bidirectional"], config["truncation"]))
    u, zr, hx = linear(under(params, "mx_proj"), mx).split([dim, zdim + hdim, dim], dim=-1)
    u = torch.sigmoid(u)
    z, r = F.silu(zr).split([zdim, hdim], dim=-1)
    q = z * params["gamma"][0] + params["beta"][0]
    k = z * params["gamma"][1] + params["beta"][1]

    # With chunks, a simple bias has entries for offsets that a query can see; read no others.
    chunk, before = config["chunk_size"], config["chunks_before"]
    span = length if chunk <= 0 else min(length, (before + 1) * chunk)
    table = relative_bias(under(params, "rel_pos_bias"), config["rel_pos_bias"], span, span)
    offset = torch.arange(length) - torch.arange(length).unsqueeze(1)  # j - i
    bias = table[(-offset).clamp(0, span - 1), offset.clamp(0, span - 1)]
    causal = not config["bidirectional"]
    visible = visible_keys(batch, length, length, causal, padding_mask, chunk, before)
    o, weights = attention(q, k, v, bias, config["attention_activation"], visible)
    h = phi(hx + linear(under(params, "h_proj"), o * r))
    y = residual + u * (h - residual)
    if not config["prenorm"]:
        y = norm(under(params, "norm.norm"), config["norm_type"], y)
    return y, weights


def cross_attention(params, config, query, key, key_padding_mask=None):
    """Gated cross attention: the output (B, L, D) and the attention weights (B, L, S)."""
    batch, length, dim = query.shape
    source = key.size(1)
    phi = ACTIVATIONS[config["activation"]]

    x = query
    if config["prenorm"]:
        x = norm(under(params, "norm.norm"), config["norm_type"], x)
    u, r, q = linear(under(params, "q_proj"), x).split([dim, dim, config["zdim"]], dim=-1)
    u, r = torch.sigmoid(u), F.silu(r)
    k = linear(under(params, "k_proj"), key)
    v = phi(linear(under(params, "v_proj"), key))

    bias = relative_bias(under(params, "rel_pos_bias"), config["rel_pos_bias"], length, source)
    visible = visible_keys(batch, length, source, key_padding_mask=key_padding_mask)
    o, weights = attention(q, k, v, bias, config["attention_activation"], visible)
    h = phi(linear(under(params, "h_proj"), o * r))
    y = query + u * (h - query)
    if not config["prenorm"]:
        y = norm(under(params, "norm.norm"), config["norm_type"], y)
    return y, weights


def feed_forward(params, config, x):
    """The normalized feed-forward network, (B, L, D)."""
    phi = ACTIVATIONS[config["activation"]]
    residual = x
    if config["prenorm"]:
        x = norm(under(params, "norm.norm"), config["norm_type"], x)
    h = phi(linear(under(params, "fc1"), x))
    y = residual + linear(under(params, "fc2"), h)
    if not config["prenorm"]:
        y = norm(under(params, "norm.norm"), config["norm_type"], y)
    return y
