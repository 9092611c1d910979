"""As people write them: sentence kernels as wide as the embedding, decoders that unflatten, losses inside."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nets.case import ImageNet, TokenNet, build, conv, image, net, tokens, words


@net("embed", "convs.0", "convs.1", inputs=words)
class SentenceKernels(nn.Module):
    """Convolutions of words: their kernels span the whole embedding, which may be cut with them."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        self.convs = nn.ModuleList(nn.Conv2d(1, 12, (k, 16)) for k in (2, 3))
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).unsqueeze(1)
        return self.head(torch.cat([F.relu(c(x)).squeeze(3).amax(2) for c in self.convs], 1))


@net("stem", "code", "wide", "grow", inputs=image)
class Decoder(nn.Module):
    """An autoencoder whose decoder begins with nn.Unflatten, and that gives its loss beside its picture."""

    def __init__(self):
        super().__init__()
        self.stem, self.code = conv(3, 16, stride=2), nn.Linear(16 * 16, 12)
        self.wide, self.fold = nn.Linear(12, 16 * 16), nn.Unflatten(1, (16, 4, -1))
        self.grow, self.head = nn.ConvTranspose2d(16, 12, 4, 2, 1), conv(12, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        code = self.code(F.relu(self.stem(x)).flatten(1))
        seen = self.head(F.relu(self.grow(self.fold(F.relu(self.wide(code))))))
        return seen, F.smooth_l1_loss(seen, x, reduction="none").mean((1, 2, 3))


@net("embed", "online", "target", inputs=tokens)
class AgreeingViews(TokenNet):
    """A loss between two layers' own channels: their mean depends on how many there are."""

    def __init__(self):
        super().__init__()
        self.online, self.target = nn.Linear(32, 24), nn.Linear(32, 24)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.embed(x)
        a, b = self.online(x), torch.sigmoid(self.target(x))
        apart = [F.mse_loss(a[i], b[i]) for i in range(2)]
        unlike = [F.binary_cross_entropy_with_logits(a[i], b[i], reduction="sum") for i in range(2)]
        return self.head(x.mean(1)), torch.stack(apart), torch.stack(unlike)


class EarlyExit(ImageNet):
    """Two exits from one line of code: where the first is sure, what follows does not run. Then the other's
    head is idle, so that this is no case among the others."""

    def __init__(self):
        super().__init__()
        self.first, self.more = nn.Linear(16, 5), conv(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        for convolution, head in ((None, self.first), (self.more, self.head)):
            x = F.relu(convolution(x)) if convolution is not None else x
            said = head(x.mean((2, 3)))
            if said.softmax(-1).max() > 0.999:
                return said
        return said


def chance() -> nn.Module:
    """A network that draws in eval mode, as dropout without its flag does."""

    class Chance(ImageNet):
        def __init__(self):
            super().__init__()
            self.conv, self.noise = conv(16, 16), nn.Parameter(torch.rand(16, 1, 1))

        def body(self, x: Tensor) -> Tensor:
            x = F.dropout(F.relu(self.conv(x)), 0.3)
            x = x + self.noise * torch.randn_like(x)
            gate = F.gumbel_softmax(x.mean((2, 3)), dim=1) * torch.bernoulli(
                x.mean((2, 3)).sigmoid()
            )
            return x * gate[..., None, None]

    return build(Chance)
