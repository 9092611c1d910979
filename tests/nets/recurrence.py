"""Recurrence."""

from torch import Tensor, nn

from nets.case import ImageNet, TokenNet, conv, image, net, tokens


@net("embed", "lstm", inputs=tokens)
class Lstm(TokenNet):
    """Four gates of 16 in one weight, the hidden size also its own input."""

    def __init__(self):
        super().__init__(16)
        self.lstm = nn.LSTM(32, 16, batch_first=True)

    def body(self, x: Tensor) -> Tensor:
        return self.lstm(x)[0]


@net("embed", "gru", inputs=tokens)
class BidirectionalGru(TokenNet):
    """Two layers, both directions: the second reads the concat, both directions keep equally many."""

    def __init__(self):
        super().__init__(32)
        self.gru = nn.GRU(32, 16, num_layers=2, bidirectional=True, batch_first=True)

    def body(self, x: Tensor) -> Tensor:
        return self.gru(x)[0]


@net("stem", "conv", inputs=image)
class CumulativeSum(ImageNet):
    """cumsum over pixels: channels pass through untouched."""

    def __init__(self):
        super().__init__(24)
        self.conv = conv(16, 24)

    def body(self, x: Tensor) -> Tensor:
        return self.conv(x.cumsum(2) / 8).tanh()
