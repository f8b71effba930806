"""The paper, slowly: Mega in its most literal form, for the tests to hold the modules to.

Functions on tensors of any dtype, differentiable by autograd. Explicit loops over time for the
moving average, explicit (L, L) tables for attention: nothing here is fast. `params` maps the names
of a published checkpoint (relative to the layer) to tensors, so `dict(module.named_parameters())`
or a `state_dict` fits. Sequences are time first, (L, B, D); padding masks are (B, L), True at
padding. Paper: Ma et al., "Mega: Moving Average Equipped Gated Attention", arXiv 2209.10655.
"""

import math

import torch
import torch.nn.functional as F

ACTIVATIONS = {"silu": F.silu, "relu": torch.relu, "tanh": torch.tanh, "gelu": F.gelu}


def under(params, name):
    """The parameters below `name.`, with that prefix taken off."""
    prefix = name + "."
    return {k[len(prefix) :]: v for k, v in params.items() if k.startswith(prefix)}


def linear(params, x):
    return x @ params["weight"].transpose(0, 1) + params["bias"]


# --- Multi-dimensional damped EMA -----------------------------------------------------------------


def ema_coefficients(params):
    """p, q, beta, gamma, each (K, N), with gamma already divided by sqrt(N)."""
    p = torch.sigmoid(params["delta"]).squeeze(-1)
    a = torch.sigmoid(params["alpha"]).squeeze(-1)
    gamma = params["gamma"] / math.sqrt(params["gamma"].size(-1))
    return p, 1 - p * a, params["beta"].squeeze(-1), gamma


def ema_recurrence(x, coefficients, h=None):
    """h_t = p beta x_t + q h_{t-1}; returns y (L, B, D) and the last h (B, D, N)."""
    p, q, beta, gamma = coefficients
    if h is None:
        h = x.new_zeros(x.size(1), *p.shape)
    y = []
    for x_t in x:  # (B, D)
        h = p * beta * x_t.unsqueeze(-1) + q * h
        y.append((gamma * h).sum(-1))
    return torch.stack(y), h


def ema_kernel(coefficients, length):
    """k[d, tau] = sum_n p beta gamma / sqrt(N) q^tau, (D, length)."""
    p, q, beta, gamma = coefficients
    return torch.stack([(p * beta * gamma * q**tau).sum(-1) for tau in range(length)], dim=-1)


def ema_convolution(x, coefficients, truncation):
    """y_t = sum of k[tau] x_{t - tau} over 0 <= tau < truncation."""
    length = x.size(0)
    k = ema_kernel(coefficients, min(length, truncation))
    tau = torch.arange(length).unsqueeze(1) - torch.arange(length)  # (L, L), [t, s] = t - s
    used = (tau >= 0) & (tau < truncation)
    toeplitz = k[:, tau.clamp(0, k.size(1) - 1)] * used  # (D, L, L)
    return torch.einsum("dts,sbd->tbd", toeplitz, x)


def ema_direction(x, coefficients, truncation):
    if truncation:
        return ema_convolution(x, coefficients, truncation)
    return ema_recurrence(x, coefficients)[0]


def ema_causal_with_state(x, params, h=None):
    """The recurrent form, continued from h: the output (L, B, D) and the new h (B, D, N)."""
    y, h = ema_recurrence(x, ema_coefficients(params), h)
    return F.silu(y + params["omega"] * x), h


def ema(x, padding_mask, params, bidirectional=False, truncation=None):
    """output_t = silu(y_t + omega x_t), (L, B, D)."""
    heard = x
    if padding_mask is not None:
        heard = x.masked_fill(padding_mask.transpose(0, 1).unsqueeze(-1), 0.0)
    coefficients = ema_coefficients(params)
    if bidirectional:
        dim = x.size(-1)
        y = ema_direction(heard, [c[:dim] for c in coefficients], truncation)
        y = y + ema_direction(heard.flip(0), [c[dim:] for c in coefficients], truncation).flip(0)
    else:
        y = ema_direction(heard, coefficients, truncation)
    return F.silu(y + params["omega"] * x)


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


# --- Attention ------------------------------------------------------------------------------------


def attention_weights(q, k, bias, kind, visible):
    """Weights (B, L, S) of q (B, L, Z) on k (B, S, Z) under bias (L, S).

    `visible` (B, L, S) is True where a query may see a key; elsewhere the weight is exactly 0.
    """
    scores = q @ k.transpose(1, 2)
    if kind == "softmax":
        scores = scores / math.sqrt(q.size(-1)) + bias
        scores = scores.masked_fill(~visible, torch.finfo(scores.dtype).min)
        weights = torch.softmax(scores, dim=-1)
    else:
        count = visible.sum(dim=-1, keepdim=True).clamp(min=1)
        scores = scores / count.to(q.dtype) + bias
        if kind == "relu2":
            weights = torch.relu(scores) ** 2
        else:
            mu, sd = math.sqrt(0.5), math.sqrt(0.25 / math.pi)
            weights = 0.5 * (1 + torch.erf((scores - mu) / (sd * math.sqrt(2))))
    return weights.masked_fill(~visible, 0.0)


def visible_keys(batch, length, padding_mask, chunk_size, causal):
    """(B, L, L): query i sees key j of its own chunk, not after it if causal, not padding."""
    i = torch.arange(length).unsqueeze(1)
    j = torch.arange(length)
    visible = torch.ones(length, length, dtype=torch.bool)
    if chunk_size > 0:
        visible &= i // chunk_size == j // chunk_size
    if causal:
        visible &= j <= i
    visible = visible.expand(batch, length, length)
    if padding_mask is not None:
        visible = visible & ~padding_mask.unsqueeze(1)
    return visible


# --- Norms ----------------------------------------------------------------------------------------


def norm(params, kind, x, eps=1e-5):
    """Over the last dimension; batch norms use their running statistics (evaluation)."""
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
    """Gated attention with EMA: the output (L, B, D) and the attention weights (B, L, L)."""
    length, batch, dim = x.shape
    phi = ACTIVATIONS[config["activation"]]
    zdim, hdim = config["zdim"], config["hdim"]

    residual = x
    if config["prenorm"]:
        x = norm(under(params, "norm.norm"), config["norm_type"], x)
    v = phi(linear(under(params, "v_proj"), x))
    mx = ema(x, padding_mask, under(params, "move"), config["bidirectional"], config["truncation"])
    u, zr, hx = linear(under(params, "mx_proj"), mx).split([dim, zdim + hdim, dim], dim=-1)
    u = torch.sigmoid(u)
    z, r = F.silu(zr).split([zdim, hdim], dim=-1)
    q = z * params["gamma"][0] + params["beta"][0]
    k = z * params["gamma"][1] + params["beta"][1]

    # With chunks, a simple bias has entries for offsets inside a chunk alone; read no others.
    chunk = config["chunk_size"]
    span = length if chunk <= 0 else min(length, chunk)
    bias = relative_bias(under(params, "rel_pos_bias"), config["rel_pos_bias"], span, span)
    inside = torch.arange(length) % span
    bias = bias[inside.unsqueeze(1), inside]
    visible = visible_keys(batch, length, padding_mask, chunk, causal=not config["bidirectional"])
    weights = attention_weights(
        q.transpose(0, 1), k.transpose(0, 1), bias, config["attention_activation"], visible
    )
    o = (weights @ v.transpose(0, 1)).transpose(0, 1)
    h = phi(hx + linear(under(params, "h_proj"), o * r))
    y = residual + u * (h - residual)
    if not config["prenorm"]:
        y = norm(under(params, "norm.norm"), config["norm_type"], y)
    return y, weights


def cross_attention(params, config, query, key, key_padding_mask=None):
    """Gated cross attention: the output (L, B, D) and the attention weights (B, L, S)."""
    length, batch, dim = query.shape
    source = key.size(0)
    phi = ACTIVATIONS[config["activation"]]

    x = query
    if config["prenorm"]:
        x = norm(under(params, "norm.norm"), config["norm_type"], x)
    u, r, q = linear(under(params, "q_proj"), x).split([dim, dim, config["zdim"]], dim=-1)
    u, r = torch.sigmoid(u), F.silu(r)
    k = linear(under(params, "k_proj"), key)
    v = phi(linear(under(params, "v_proj"), key))

    bias = relative_bias(under(params, "rel_pos_bias"), config["rel_pos_bias"], length, source)
    visible = torch.ones(batch, length, source, dtype=torch.bool)
    if key_padding_mask is not None:
        visible = visible & ~key_padding_mask.unsqueeze(1)
    weights = attention_weights(
        q.transpose(0, 1), k.transpose(0, 1), bias, config["attention_activation"], visible
    )
    o = (weights @ v.transpose(0, 1)).transpose(0, 1)
    h = phi(linear(under(params, "h_proj"), o * r))
    y = query + u * (h - query)
    if not config["prenorm"]:
        y = norm(under(params, "norm.norm"), config["norm_type"], y)
    return y, weights


def feed_forward(params, config, x):
    """The normalized feed-forward network, (L, B, D)."""
    phi = ACTIVATIONS[config["activation"]]
    residual = x
    if config["prenorm"]:
        x = norm(under(params, "norm.norm"), config["norm_type"], x)
    h = phi(linear(under(params, "fc1"), x))
    y = residual + linear(under(params, "fc2"), h)
    if not config["prenorm"]:
        y = norm(under(params, "norm.norm"), config["norm_type"], y)
    return y
