"""A module with tied weights, a shared submodule and buffers of both kinds."""

import torch
import muninn.torch


class Model(torch.nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.embedding = torch.nn.Embedding(7, width)
        self.norm = torch.nn.BatchNorm1d(width)
        self.head = torch.nn.Linear(width, 7, bias=False)
        self.head.weight = self.embedding.weight
        self.again = self.norm
        self.register_buffer("frequencies", torch.arange(3.0), persistent=False)

    def forward(self, tokens):
        return self.head(self.again(self.norm(self.embedding(tokens)))) + self.frequencies.sum()


def answer(model):
    with torch.no_grad():
        return model.eval()(torch.arange(5)).tolist()
