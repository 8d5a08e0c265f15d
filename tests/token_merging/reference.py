"""Token merging in plain Python, written from the text of the paper (Bolya et al., ICLR 2023, section 3).

"1. Partition the tokens into two sets A and B of roughly equal size. 2. Draw one edge from each token in A to its most
similar token in B. 3. Keep the r most similar edges. 4. Merge tokens that are still connected (e.g., by averaging
their features). 5. Concatenate the two sets back together." Tokens are assigned to the sets alternately, the class
token to A; similarity is the cosine of the keys, the average is weighted by size, and attention is
``softmax(Q K^T / sqrt(d) + log s)``.
"""

import math
from typing import Any

Vector = list[float]


def cosine(one: Vector, other: Vector) -> float:
    lengths = math.sqrt(sum(x * x for x in one)) * math.sqrt(sum(x * x for x in other))
    return sum(x * y for x, y in zip(one, other, strict=True)) / lengths if lengths else 0.0


def groups(keys: list[Vector], r: int, leading: int) -> list[list[int]]:
    """The tokens that each new token stands for; the leading tokens are not merged."""
    free = range(leading, len(keys))
    a, b = [token for token in free if token % 2 == 0], [token for token in free if token % 2]
    edges = []
    for token in a:
        similar = [cosine(keys[token], keys[other]) for other in b]
        if similar:
            edges.append((max(similar), token, b[similar.index(max(similar))]))
    edges.sort(key=lambda edge: -edge[0])
    merged = {token: other for _, token, other in edges[: min(r, len(free) // 2)]}
    found = [[token] for token in (*range(leading), *(token for token in a if token not in merged))]
    return [*found, *([other, *(token for token in merged if merged[token] == other)] for other in b)]


def merge(tokens: list[Vector], sizes: list[float], found: list[list[int]]) -> tuple[list[Vector], list[float]]:
    """The averages of the groups, weighted by size, and their sizes."""
    new_sizes = [sum(sizes[token] for token in group) for group in found]
    averages = [
        [sum(sizes[token] * tokens[token][channel] for token in group) / size for channel in range(len(tokens[0]))]
        for group, size in zip(found, new_sizes, strict=True)
    ]
    return averages, new_sizes


def linear(tokens: list[Vector], layer: Any) -> list[Vector]:
    weight, bias = layer.weight.tolist(), layer.bias.tolist()
    return [
        [sum(w * x for w, x in zip(row, token, strict=True)) + b for row, b in zip(weight, bias, strict=True)]
        for token in tokens
    ]


def normalized(tokens: list[Vector], layer: Any) -> list[Vector]:
    weight, bias = layer.weight.tolist(), layer.bias.tolist()
    found = []
    for token in tokens:
        mean = sum(token) / len(token)
        deviation = math.sqrt(sum((x - mean) ** 2 for x in token) / len(token) + layer.eps)
        found.append([(x - mean) / deviation * w + b for x, w, b in zip(token, weight, bias, strict=True)])
    return found


def added(one: list[Vector], other: list[Vector]) -> list[Vector]:
    return [[x + y for x, y in zip(a, b, strict=True)] for a, b in zip(one, other, strict=True)]


def vit_block(tokens: list[Vector], sizes: list[float], block: Any, heads: int) -> tuple[list[Vector], list[Vector]]:
    """The output of a block of a ViT in float64, and the mean of its keys over the heads."""
    attention = block.attention
    inputs = normalized(tokens, block.layernorm_before)
    query, key, value = (linear(inputs, layer) for layer in (attention.q_proj, attention.k_proj, attention.v_proj))
    width = len(key[0]) // heads
    mixed: list[Vector] = [[] for _ in tokens]
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        for index, one in enumerate(query):
            scores = [
                sum(x * y for x, y in zip(one[part], other[part], strict=True)) / math.sqrt(width) + math.log(size)
                for other, size in zip(key, sizes, strict=True)
            ]
            weights = [math.exp(score - max(scores)) for score in scores]
            mixed[index] += [
                sum(w * v[part][channel] for w, v in zip(weights, value, strict=True)) / sum(weights)
                for channel in range(width)
            ]
    hidden = added(tokens, linear(mixed, attention.o_proj))
    inner = linear(normalized(hidden, block.layernorm_after), block.mlp.fc1)
    active = [[0.5 * x * (1 + math.erf(x / math.sqrt(2))) for x in token] for token in inner]
    means = [[sum(one[channel::width]) / heads for channel in range(width)] for one in key]
    return added(hidden, linear(active, block.mlp.fc2)), means


def vit_logits(model: Any, tokens: list[Vector], counts: list[int]) -> tuple[Vector, list[float]]:
    """The logits of a ViTForImageClassification for one image, from its embedded tokens, and the last sizes."""
    sizes, keys = [1.0] * len(tokens), []
    for block, count in zip(model.vit.layers, counts, strict=True):
        if count:
            tokens, sizes = merge(tokens, sizes, groups(keys, count, leading=1))
        tokens, keys = vit_block(tokens, sizes, block, model.config.num_attention_heads)
    return linear(normalized(tokens[:1], model.vit.layernorm), model.classifier)[0], sizes
