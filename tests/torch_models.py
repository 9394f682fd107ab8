"""The method a second time: the paper's networks and one training step in plain PyTorch.

Follows the paper (sections 3.1 to 3.3) in the most direct form: no fused resampling, NCHW
tensors, PyTorch's own spectral norm on every convolution and dense layer.
`test_torch_parity.py` holds it and the JAX code together. Modules are named as our
parameter trees are, so that `flax_heads.torch_weights` moves weights between them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

EPS = 1e-4  # of instance norm and of spectral norm


def conv(inputs: int, outputs: int, side: int = 3, bias: bool = True) -> nn.Module:
    """A spectrally normalised convolution that keeps the size of the image."""
    layer = nn.Conv2d(inputs, outputs, side, padding=side // 2, bias=bias)
    return spectral_norm(layer, eps=EPS)


class FirstBlock(nn.Module):
    """conv3x3 -> ReLU -> conv3x3 -> pool, beside conv1x1 -> pool."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv1 = conv(inputs, outputs)
        self.conv2 = conv(outputs, outputs)
        self.skip = conv(inputs, outputs, side=1)

    def forward(self, x):
        main = self.conv2(F.relu(self.conv1(x)))
        return F.avg_pool2d(main, 2) + F.avg_pool2d(self.skip(x), 2)


class ResidualBlock(nn.Module):
    """[norm] -> ReLU -> [x2] -> conv3x3 -> [norm] -> ReLU -> conv3x3 -> [pool].

    Args:
      inputs, outputs: channels.
      resample: "down", "up" or None.
      norm: None, "instance" (learned scale and bias) or "adaptive" (AdaIN).
      rectified_skip: the skip reads ReLU(x).
    """

    def __init__(self, inputs, outputs, resample=None, norm=None, rectified_skip=False):
        super().__init__()
        self.resample, self.norm = resample, norm
        self.rectified_skip = rectified_skip
        self.conv1 = conv(inputs, outputs, bias=norm is None)
        self.conv2 = conv(outputs, outputs, bias=norm is None)
        if norm == "instance":
            self.norm1 = nn.InstanceNorm2d(inputs, eps=EPS, affine=True)
            self.norm2 = nn.InstanceNorm2d(outputs, eps=EPS, affine=True)
        changes_shape = resample is not None or inputs != outputs
        self.skip = conv(inputs, outputs, side=1) if changes_shape else nn.Identity()
        self.up = nn.Upsample(scale_factor=2, mode="nearest")

    def forward(self, x, styles=(None, None)):
        skip = F.relu(x) if self.rectified_skip else x
        main = F.relu(self._normalize(x, 1, styles[0]))
        if self.resample == "up":
            main, skip = self.up(main), self.up(skip)
        main = F.relu(self._normalize(self.conv1(main), 2, styles[1]))
        main, skip = self.conv2(main), self.skip(skip)
        if self.resample == "down":
            main, skip = F.avg_pool2d(main, 2), F.avg_pool2d(skip, 2)
        return main + skip

    def _normalize(self, x, index, style):
        if self.norm == "adaptive":
            return adain(x, style)
        if self.norm == "instance":
            return (self.norm1 if index == 1 else self.norm2)(x)
        return x


def adain(x, style):
    """gamma * instance_norm(x) + beta, gamma and beta [B, C]."""
    gamma, beta = style
    return (
        gamma[:, :, None, None] * F.instance_norm(x, eps=EPS) + beta[:, :, None, None]
    )


class SelfAttention(nn.Module):
    """SAGAN's: x + gamma * out(softmax(q k^T) v), over all pixels."""

    def __init__(self, channels: int):
        super().__init__()
        narrow = max(channels // 8, 1)
        self.query = conv(channels, narrow, side=1, bias=False)
        self.key = conv(channels, narrow, side=1, bias=False)
        self.value = conv(channels, max(channels // 2, 1), side=1, bias=False)
        self.out = conv(max(channels // 2, 1), channels, side=1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        q, k, v = (f(x).flatten(2) for f in (self.query, self.key, self.value))
        weights = torch.softmax(q.transpose(1, 2) @ k, dim=-1)  # [B, HW, HW]
        attended = (v @ weights.transpose(1, 2)).unflatten(2, x.shape[2:])
        return x + self.gamma * self.out(attended)


def sum_pool(x, relu_before_sum: bool):
    """[B, C, H, W] -> [B, C]."""
    if relu_before_sum:
        return F.relu(x).sum((2, 3))
    return F.relu(x.sum((2, 3)))


class DownPath(nn.Module):
    """The blocks down1, down2, ... that E, G and V begin with; down1 is the stem."""

    def __init__(self, inputs, channels, attention_after, norm, rectified_skip):
        super().__init__()
        self.num_down, self.attention_after = len(channels), attention_after
        self.down1 = FirstBlock(inputs, channels[0])
        for i in range(1, len(channels)):
            block = ResidualBlock(
                channels[i - 1], channels[i], "down", norm, rectified_skip
            )
            self.add_module(f"down{i + 1}", block)
        if attention_after is not None:
            self.attention = SelfAttention(channels[attention_after - 1])

    def descend(self, x):
        """Returns what leaves the last block, and the output of every block."""
        outputs = []
        for i in range(1, self.num_down + 1):
            x = self.get_submodule(f"down{i}")(x)
            outputs.append(x)
            if i == self.attention_after:
                x = self.attention(x)
        return x, outputs


class Embedder(DownPath):
    """E(x, y): frames and rasters [B, 3, H, W] -> [B, N]."""

    def __init__(
        self,
        channels=(64, 128, 256, 512, 512, 512),
        attention_after=3,
        relu_before_sum=False,
        rectified_skip=False,
    ):
        super().__init__(6, channels, attention_after, None, rectified_skip)
        self.relu_before_sum = relu_before_sum

    def forward(self, frames, rasters):
        x, _ = self.descend(torch.cat([frames, rasters], 1))
        return sum_pool(x, self.relu_before_sum)


class Generator(DownPath):
    """G(y, psi): rasters [B, 3, H, W] and psi [B, P] -> frames [B, 3, H, W]."""

    def __init__(
        self,
        channels=(64, 128, 256, 512),
        num_residual_blocks=4,
        attention_after=3,
        up_attention_after=2,
        rectified_skip=False,
    ):
        super().__init__(3, channels, attention_after, "instance", rectified_skip)
        self.num_residual, self.num_up = num_residual_blocks, len(channels)
        self.up_attention_after = up_attention_after
        self.style_channels = []  # of every AdaIN layer, in psi's order
        inputs = channels[-1]
        for i in range(1, num_residual_blocks + 1):
            block = ResidualBlock(inputs, inputs, None, "adaptive", rectified_skip)
            self.add_module(f"residual{i}", block)
            self.style_channels += [inputs, inputs]
        for i, outputs in enumerate(reversed(channels), start=1):
            block = ResidualBlock(inputs, outputs, "up", "adaptive", rectified_skip)
            self.add_module(f"up{i}", block)
            self.style_channels += [inputs, outputs]
            if i == up_attention_after:
                self.up_attention = SelfAttention(outputs)
            inputs = outputs
        self.style_channels.append(inputs)
        self.to_rgb = conv(inputs, 3)

    def forward(self, rasters, psi):
        # psi is gamma, beta of the first AdaIN layer, gamma, beta of the second, ...
        parts = iter(psi.split([c for c in self.style_channels for _ in "gb"], 1))
        styles = iter(zip(parts, parts))
        x, _ = self.descend(rasters)
        for i in range(1, self.num_residual + 1):
            x = self.get_submodule(f"residual{i}")(x, (next(styles), next(styles)))
        for i in range(1, self.num_up + 1):
            x = self.get_submodule(f"up{i}")(x, (next(styles), next(styles)))
            if i == self.up_attention_after:
                x = self.up_attention(x)
        return torch.tanh(self.to_rgb(F.relu(adain(x, next(styles)))))


class Projection(nn.Module):
    """P: psi = P e-hat."""

    def __init__(self, embedding_size: int, psi_size: int):
        super().__init__()
        self.dense = spectral_norm(nn.Linear(embedding_size, psi_size), eps=EPS)

    def forward(self, embedding):
        return self.dense(embedding)


class Discriminator(DownPath):
    """r = V(x, y)^T (W_i + w0) + b, and V's activations after each residual block."""

    def __init__(
        self,
        channels=(64, 128, 256, 512, 512, 512),
        attention_after=3,
        relu_before_sum=False,
        rectified_skip=False,
    ):
        super().__init__(6, channels, attention_after, None, rectified_skip)
        self.relu_before_sum = relu_before_sum
        width = channels[-1]
        self.residual = ResidualBlock(width, width, rectified_skip=rectified_skip)
        self.w0 = nn.Parameter(torch.zeros(width))
        self.b = nn.Parameter(torch.zeros(()))

    def forward(self, frames, rasters, video_embedding):
        x, features = self.descend(torch.cat([frames, rasters], 1))
        x = self.residual(x)
        pooled = sum_pool(x, self.relu_before_sum)
        score = (pooled * (video_embedding + self.w0)).sum(1) + self.b
        return score, [*features, x]


class Networks(nn.Module):
    """All four, under the names of an exported file."""

    def __init__(self, embedder, generator, discriminator):
        super().__init__()
        self.embedder = Embedder(**embedder)
        self.generator = Generator(**generator)
        psi_size = 2 * sum(self.generator.style_channels)
        self.projection = Projection(embedder["channels"][-1], psi_size)
        self.discriminator = Discriminator(**discriminator)


@torch.no_grad()
def power_iteration(module: nn.Module) -> None:
    """v <- W^T u, u <- W v, each of unit length, in every layer below `module`.

    This is the order of the spectral norm paper's code and of the older
    `torch.nn.utils.spectral_norm`. `parametrizations.spectral_norm` begins with u
    instead, and does it at every forward pass in training mode; here modules stay in
    evaluation mode, and this is called once per optimiser update.
    """
    for layer in module.modules():
        if nn.utils.parametrize.is_parametrized(layer, "weight"):
            matrix = layer.parametrizations.weight.original.flatten(1)  # [out, in]
            pair = layer.parametrizations.weight[0]
            pair._v.copy_(F.normalize(matrix.T @ pair._u, dim=0, eps=EPS))
            pair._u.copy_(F.normalize(matrix @ pair._v, dim=0, eps=EPS))


def meta_step(
    networks: Networks, w, optimizer_g, optimizer_d, batch, weights, updates=2
):
    """One alternating step of meta-training (section 3.2).

    Args:
      networks: in evaluation mode, which keeps u and v in place.
      w: the video embeddings, a parameter [M, N].
      optimizer_g: of E, G and P. optimizer_d: of V, w0, b and W.
      batch: support_frames, support_rasters [B, K, 3, H, W], target_frame,
        target_raster [B, 3, H, W], all in [-1, 1]; video_index [B].
      weights: of "pixel", "adversarial", "feature_matching" and "match".
      updates: of the discriminator, before the generator's one.

    Returns:
      the generator's terms, weighted, by name, and "discriminator", the last L_DSC. The
      gradients of the generator's side are left in `.grad`.
    """
    e, g = networks.embedder, networks.generator
    d, p = networks.discriminator, networks.projection
    real, rasters, index = (
        batch[name] for name in ("target_frame", "target_raster", "video_index")
    )
    b, k = batch["support_frames"].shape[:2]
    each = e(
        batch["support_frames"].flatten(0, 1), batch["support_rasters"].flatten(0, 1)
    )
    embedding = each.unflatten(0, (b, k)).mean(1)
    fake = g(rasters, p(embedding))

    for _ in range(updates):
        d_loss = update_discriminator(
            d, optimizer_d, real, fake, rasters, lambda: w[index]
        )
    rows = w[index].detach()
    d.requires_grad_(False)
    terms = image_terms(d, real, fake, rasters, rows, weights)
    terms["match"] = weights["match"] * F.l1_loss(embedding, rows)
    optimizer_g.zero_grad()
    sum(terms.values()).backward()
    d.requires_grad_(True)
    optimizer_g.step()
    for module in (e, g, p):
        power_iteration(module)
    values = {name: term.item() for name, term in terms.items()}
    return values | {"discriminator": d_loss.item()}


def update_discriminator(d, optimizer, real, fake, rasters, person):
    """One update by L_DSC (eq. 6); `person` gives the vectors [B, N] beside w0."""
    optimizer.zero_grad()
    real_scores, _ = d(real, rasters, person())
    fake_scores, _ = d(fake.detach(), rasters, person())
    loss = (F.relu(1 + fake_scores) + F.relu(1 - real_scores)).mean()
    loss.backward()
    optimizer.step()
    power_iteration(d)
    return loss


def image_terms(d, real, fake, rasters, person, weights):
    """L_CNT (of pixels) and L_ADV of generated frames, weighted."""
    scores, features = d(fake, rasters, person)
    with torch.no_grad():
        _, real_features = d(real, rasters, person)
    maps = [F.l1_loss(f, r) for f, r in zip(features, real_features)]
    pyramid = sum(F.l1_loss(pool(fake, i), pool(real, i)) for i in range(3))
    return {
        "content": weights["pixel"] * pyramid,
        "adversarial": -weights["adversarial"] * scores.mean(),
        "feature_matching": weights["feature_matching"] * sum(maps) / len(maps),
    }


def fine_tune_step(
    g, psi, d, optimizer_g, optimizer_d, frames, rasters, weights, updates=2
):
    """One alternating step of fine-tuning (section 3.3).

    Args:
      g, d: in evaluation mode; d's w0 holds w'.
      psi: psi', a parameter [P].
      optimizer_g: of G and psi'. optimizer_d: of V, w' and b.
      frames, rasters: [B, 3, H, W] in [-1, 1].
      weights, updates: as in `meta_step`.

    Returns:
      as `meta_step`, without "match".
    """
    fake = g(rasters, psi.expand(len(frames), -1))
    nobody = frames.new_zeros(len(frames), d.w0.shape[0])
    for _ in range(updates):
        d_loss = update_discriminator(
            d, optimizer_d, frames, fake, rasters, lambda: nobody
        )
    d.requires_grad_(False)
    terms = image_terms(d, frames, fake, rasters, nobody, weights)
    optimizer_g.zero_grad()
    sum(terms.values()).backward()
    d.requires_grad_(True)
    optimizer_g.step()
    power_iteration(g)
    values = {name: term.item() for name, term in terms.items()}
    return values | {"discriminator": d_loss.item()}


def pool(x, times: int):
    for _ in range(times):
        x = F.avg_pool2d(x, 2)
    return x
