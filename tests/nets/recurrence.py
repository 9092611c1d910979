"""Recurrence."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nets.case import ImageNet, TokenNet, conv, draw, image, net, tokens


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


@net("embed", "lstm", inputs=tokens)
class LearnedState(TokenNet):
    """The first state is a parameter with a dimension of layers, which stays."""

    def __init__(self):
        super().__init__(16)
        self.lstm = nn.LSTM(32, 16, num_layers=2, batch_first=True)
        self.state = nn.Parameter(torch.randn(2, 2, 1, 16))

    def body(self, x: Tensor) -> Tensor:
        hidden, cell = self.state.expand(-1, -1, len(x), -1).contiguous().unbind(0)
        return self.lstm(x, (hidden, cell))[0]


@net("embed", "rnn", inputs=tokens)
class LastStates(TokenNet):
    """The last states of both directions of the last layer, joined; the outputs are not used."""

    def __init__(self):
        super().__init__(32)
        self.rnn = nn.RNN(32, 16, num_layers=2, bidirectional=True, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        last = self.rnn(self.embed(x))[1]
        return self.head(torch.cat([last[-2], last[-1]], 1))


@net("embed", "gru", inputs=tokens)
class AddedDirections(TokenNet):
    """The two directions as an outer factor of two, which is summed away."""

    def __init__(self):
        super().__init__(16)
        self.gru = nn.GRU(32, 16, bidirectional=True, batch_first=True)

    def body(self, x: Tensor) -> Tensor:
        return self.gru(x)[0].unflatten(2, (2, -1)).sum(2)


@net("embed", "lstm", "gru", inputs=tokens)
class CellLoop(TokenNet):
    """Cells in a loop, their first states made in forward by the cell's own size, and by none."""

    def __init__(self):
        super().__init__(12)
        self.lstm, self.gru = nn.LSTMCell(32, 16), nn.GRUCell(16, 12)

    def body(self, x: Tensor) -> Tensor:
        hidden = cell = x.new_zeros(len(x), self.lstm.hidden_size)
        state, out = None, []
        for step in x.unbind(1):
            hidden, cell = self.lstm(step, (hidden, cell))
            state = self.gru(hidden, state)
            out.append(state)
        return torch.stack(out, 1)


@net("stem", "lstm", inputs=lambda: (draw(2, 3, 4, 8),))
class ColumnsAsSteps(ImageNet):
    """CRNN: a column of the map is a step, its channels x rows the input of an LSTM."""

    def __init__(self):
        super().__init__(32)
        self.lstm = nn.LSTM(16 * 4, 16, bidirectional=True)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        n, c, h, w = x.shape
        x = self.lstm(x.permute(3, 0, 1, 2).reshape(w, n, c * h))[0]
        return self.head(x).permute(1, 0, 2)


@net("stem", "conv", inputs=image)
class CumulativeSum(ImageNet):
    """cumsum over pixels: channels pass through untouched."""

    def __init__(self):
        super().__init__(24)
        self.conv = conv(16, 24)

    def body(self, x: Tensor) -> Tensor:
        return self.conv(x.cumsum(2) / 8).tanh()
