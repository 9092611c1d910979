"""Recurrent networks as people write them, small: taggers, language models, CRNN, seq2seq, speech. None is trained.

`SMALL` maps a name to a function that gives a network in eval mode and its inputs.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


class Tagger(nn.Module):
    """Two layers, both directions, a tag a word: i64[N, T] -> f32[N, T, tags]."""

    def __init__(self, words: int = 50, tags: int = 7) -> None:
        super().__init__()
        self.embed = nn.Embedding(words, 24)
        self.lstm = nn.LSTM(24, 16, num_layers=2, bidirectional=True, batch_first=True, dropout=0.2)
        self.head = nn.Linear(32, tags)

    def forward(self, words: Tensor) -> Tensor:
        return self.head(self.lstm(self.embed(words))[0])


class PackedClassifier(nn.Module):
    """Sentences of their own lengths, in any order: i64[N, T], i64[N] -> f32[N, classes].

    Reads the last state of both directions of the last layer.
    """

    def __init__(self, words: int = 50, classes: int = 5) -> None:
        super().__init__()
        self.embed = nn.Embedding(words, 24, padding_idx=0)
        self.gru = nn.GRU(24, 16, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(32, classes)

    def forward(self, words: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(
            self.embed(words), lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        _, last = self.gru(packed)
        return self.head(torch.cat([last[-2], last[-1]], 1))


class PackedTagger(nn.Module):
    """Sorted sequences, time first, packed and padded again: f32[T, N, C], i64[N] -> f32[T, N, tags]."""

    def __init__(self, channels: int = 12, tags: int = 7) -> None:
        super().__init__()
        self.embed = nn.Linear(channels, 24)
        self.lstm = nn.LSTM(24, 16, bidirectional=True)
        self.head = nn.Linear(32, tags)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(self.embed(x), lengths)
        padded, _ = pad_packed_sequence(self.lstm(packed)[0], total_length=len(x))
        return self.head(padded)


class LanguageModel(nn.Module):
    """A projected LSTM whose embedding is also its output layer: i64[N, T] -> f32[N, T, words]."""

    def __init__(self, words: int = 50) -> None:
        super().__init__()
        self.embed = nn.Embedding(words, 16)
        self.lstm = nn.LSTM(16, 32, num_layers=2, proj_size=16, dropout=0.1, batch_first=True)
        self.head = nn.Linear(16, words, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, words: Tensor) -> Tensor:
        return self.head(self.lstm(self.embed(words))[0])


class LearnedStates(nn.Module):
    """The first states are parameters: f32[N, T, C] -> f32[N, classes]."""

    def __init__(self, channels: int = 12, classes: int = 5) -> None:
        super().__init__()
        self.embed = nn.Linear(channels, 24)
        self.lstm = nn.LSTM(24, 16, num_layers=2, bias=False, batch_first=True)
        self.hidden = nn.Parameter(torch.randn(2, 1, 16))
        self.cell = nn.Parameter(torch.randn(2, 1, 16))
        self.head = nn.Linear(16, classes)

    def forward(self, x: Tensor) -> Tensor:
        first = [s.expand(-1, len(x), -1).contiguous() for s in (self.hidden, self.cell)]
        out, _ = self.lstm(self.embed(x), tuple(first))
        return self.head(out[:, -1])


class CRNN(nn.Module):
    """Text in a picture: convs, a column a step, two LSTMs: f32[N, 1, 32, W] -> f32[W / 4, N, letters]."""

    def __init__(self, letters: int = 11) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        )  # fmt: skip
        self.first = nn.LSTM(32 * 8, 24, bidirectional=True)
        self.between = nn.Linear(48, 24)
        self.second = nn.LSTM(24, 24, bidirectional=True)
        self.head = nn.Linear(48, letters)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        n, c, h, w = x.shape
        x = x.permute(3, 0, 1, 2).reshape(w, n, c * h)
        x = self.second(self.between(self.first(x)[0]))[0]
        return self.head(x).log_softmax(2)


class Speech(nn.Module):
    """DeepSpeech: convs over a spectrogram, GRUs whose directions are added: f32[N, 1, F, T] -> f32[N, T / 2, letters]."""

    def __init__(self, bands: int = 32, width: int = 32, layers: int = 2) -> None:
        super().__init__()
        self.width = width
        self.conv = nn.Conv2d(1, 8, (11, 5), stride=2, padding=(5, 2), bias=False)
        self.norm = nn.BatchNorm2d(8)
        inputs = [8 * bands // 2, *[width] * (layers - 1)]
        self.layers = nn.ModuleList(
            nn.GRU(n, width, bidirectional=True, batch_first=True) for n in inputs
        )
        self.last = nn.LayerNorm(width)
        self.head = nn.Linear(width, 29)

    def forward(self, x: Tensor) -> Tensor:
        x = F.hardtanh(self.norm(self.conv(x)), 0, 20)
        n, c, f, t = x.shape
        x = x.view(n, c * f, t).transpose(1, 2)
        for layer in self.layers:
            both, _ = layer(x)
            x = both[..., : self.width] + both[..., self.width :]
        return self.head(self.last(x))


class Cells(nn.Module):
    """A loop of cells of all three kinds: f32[N, T, C] -> f32[N, T, classes]."""

    def __init__(self, channels: int = 12, classes: int = 5) -> None:
        super().__init__()
        self.embed = nn.Linear(channels, 24)
        self.lstm, self.gru, self.rnn = nn.LSTMCell(24, 16), nn.GRUCell(16, 20), nn.RNNCell(20, 12)
        self.head = nn.Linear(12, classes)

    def forward(self, x: Tensor) -> Tensor:
        hidden, cell = (torch.zeros(len(x), self.lstm.hidden_size) for _ in range(2))
        state, last, out = None, None, []
        for step in self.embed(x).unbind(1):
            hidden, cell = self.lstm(step, (hidden, cell))
            state = self.gru(hidden, state)
            last = self.rnn(state, last)
            out.append(self.head(last))
        return torch.stack(out, 1)


class Seq2Seq(nn.Module):
    """An encoder of both directions, a decoder that attends to it: i64[N, T], i64[N, S] -> f32[N, S, words]."""

    def __init__(self, source: int = 50, target: int = 40) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(source, 24), nn.Embedding(target, 24)
        self.encoder = nn.LSTM(24, 16, bidirectional=True, batch_first=True)
        self.hidden, self.cell = nn.Linear(32, 20), nn.Linear(32, 20)
        self.query, self.key = nn.Linear(20, 14), nn.Linear(32, 14, bias=False)
        self.energy = nn.Linear(14, 1, bias=False)
        self.decoder = nn.LSTMCell(24 + 32, 20)
        self.head = nn.Linear(20 + 32, target)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        memory, (h, c) = self.encoder(self.source(source))
        h = torch.tanh(self.hidden(torch.cat([h[0], h[1]], 1)))
        c = torch.tanh(self.cell(torch.cat([c[0], c[1]], 1)))
        keys, out = self.key(memory), []
        for word in self.target(target).unbind(1):
            energy = self.energy(torch.tanh(self.query(h)[:, None] + keys))
            seen = torch.bmm(energy.softmax(1).transpose(1, 2), memory)[:, 0]
            h, c = self.decoder(torch.cat([word, seen], 1), (h, c))
            out.append(self.head(torch.cat([h, seen], 1)))
        return torch.stack(out, 1)


class Forecast(nn.Module):
    """A plain RNN with relu, time first, read at its last step: f32[T, N, C] -> f32[N, 1]."""

    def __init__(self, channels: int = 6) -> None:
        super().__init__()
        self.rnn = nn.RNN(channels, 32, num_layers=2, nonlinearity="relu")
        self.first, self.last = nn.Linear(32, 24), nn.Linear(24, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.first(self.rnn(x)[1][-1])))


def _made(cls: type[nn.Module], *inputs: Tensor) -> Callable[[], tuple[nn.Module, Any]]:
    return lambda: (cls().eval(), inputs)


def _words(n: int, t: int, below: int = 50) -> Tensor:
    return torch.randint(1, below, (n, t), generator=torch.Generator().manual_seed(0))


def _floats(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


SMALL: dict[str, Callable[[], tuple[nn.Module, Any]]] = {
    "tagger": _made(Tagger, _words(3, 7)),
    "packed_classifier": _made(PackedClassifier, _words(3, 7), torch.tensor([2, 7, 5])),
    "packed_tagger": _made(PackedTagger, _floats(7, 3, 12), torch.tensor([7, 5, 2])),
    "language_model": _made(LanguageModel, _words(3, 7)),
    "learned_states": _made(LearnedStates, _floats(3, 7, 12)),
    "crnn": _made(CRNN, _floats(2, 1, 32, 48)),
    "speech": _made(Speech, _floats(2, 1, 32, 24)),
    "cells": _made(Cells, _floats(3, 7, 12)),
    "seq2seq": _made(Seq2Seq, _words(3, 7), _words(3, 5, 40)),
    "forecast": _made(Forecast, _floats(7, 3, 6)),
}
