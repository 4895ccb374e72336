"""The graph against the paper's equations, written out over the whole N x N graph."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from kinet.models.akg import ActionKnowledgeGraph, edge_entropy

BATCH, SEGMENTS, BRANCHES, CHANNELS = 2, 3, 3, 8
RELATIONS = ("dot", "embedded", "concatenation")


def random_graph(relation: str, **options: bool) -> ActionKnowledgeGraph:
    torch.manual_seed(0)
    graph = ActionKnowledgeGraph(CHANNELS, relation, **options).double()  # type: ignore[arg-type]
    for parameter in graph.parameters():
        torch.nn.init.normal_(parameter, 0, 0.5)
    return graph


def random_nodes() -> Tensor:
    return torch.randn(BATCH, SEGMENTS, BRANCHES, CHANNELS, dtype=torch.float64)


def relation_of_pair(graph: ActionKnowledgeGraph, a: Tensor, b: Tensor) -> Tensor:
    """f(x_a, x_b) for two vectors: Eq. 1, 2, 3."""
    if graph.relation == "dot":
        return a.dot(b)
    theta, phi = graph.theta.weight @ a, graph.phi.weight @ b
    if graph.relation == "embedded":
        return theta.dot(phi)
    return torch.relu(graph.project.weight[0] @ torch.cat([theta, phi]))


def whole_graph(graph: ActionKnowledgeGraph, nodes: Tensor, mask_first: bool = False) -> tuple[Tensor, Tensor]:
    """Eq. 4 and 5 for one window (N_seg, K, d), node by node: Z of all N nodes, and I_mask * G."""
    x = [nodes[i, branch] for branch in range(BRANCHES) for i in range(SEGMENTS)]
    n = len(x)
    kind = [branch for branch in range(BRANCHES) for _ in range(SEGMENTS)]  # 0 action, 1 scene, 2 human
    mask = torch.tensor([[0.0 if {kind[a], kind[b]} == {1, 2} else 1.0 for b in range(n)] for a in range(n)]).double()
    f = torch.stack([torch.stack([relation_of_pair(graph, x[a], x[b]) for b in range(n)]) for a in range(n)])
    if mask_first:
        f = f.masked_fill(mask == 0, -math.inf)
    g = torch.stack([torch.exp(f[a]) / torch.exp(f[a]).sum() for a in range(n)])
    w = graph.weight.weight.T
    return torch.relu((mask * g) @ torch.stack(x) @ w), mask * g


@pytest.mark.parametrize("relation", RELATIONS)
def test_action_rows_equal_the_whole_graph(relation: str) -> None:
    graph, nodes = random_graph(relation), random_nodes()
    with torch.no_grad():
        z, edges = graph(nodes)
        for window in range(BATCH):
            expected_z, expected_edges = whole_graph(graph, nodes[window])
            torch.testing.assert_close(edges[window], expected_edges[:SEGMENTS])
            torch.testing.assert_close(z[window], expected_z[:SEGMENTS])


@pytest.mark.parametrize("relation", RELATIONS)
def test_mask_before_or_after_softmax_gives_the_same_action_rows(relation: str) -> None:
    graph, nodes = random_graph(relation), random_nodes()[0]
    after, _ = whole_graph(graph, nodes, mask_first=False)
    before, _ = whole_graph(graph, nodes, mask_first=True)
    torch.testing.assert_close(before[:SEGMENTS], after[:SEGMENTS])
    assert not torch.allclose(before[SEGMENTS:], after[SEGMENTS:])  # scene and human rows do differ


def test_edges_sum_to_one_and_see_every_branch() -> None:
    _, edges = random_graph("dot")(random_nodes())
    assert edges.shape == (BATCH, SEGMENTS, BRANCHES * SEGMENTS)
    torch.testing.assert_close(edges.sum(dim=2), torch.ones(BATCH, SEGMENTS, dtype=edges.dtype))
    assert (edges > 0).all()


def test_starts_as_a_weighted_mean_of_the_nodes() -> None:
    graph = ActionKnowledgeGraph(CHANNELS)
    same = torch.rand(1, 1, 1, CHANNELS).expand(1, SEGMENTS, BRANCHES, CHANNELS)
    z, _ = graph(same)
    torch.testing.assert_close(z, same[:, :, 0])


def test_scale_divides_by_the_square_root_of_the_dimension() -> None:
    plain, scaled = ActionKnowledgeGraph(CHANNELS), ActionKnowledgeGraph(CHANNELS, scale=True)
    a, b = torch.randn(1, 2, CHANNELS), torch.randn(1, 5, CHANNELS)
    torch.testing.assert_close(scaled.relate(a, b), plain.relate(a, b) / math.sqrt(CHANNELS))


def test_residual_adds_the_action_node() -> None:
    nodes = random_nodes()
    plain, _ = random_graph("dot")(nodes)
    residual, _ = random_graph("dot", residual=True)(nodes)
    torch.testing.assert_close(residual - plain, nodes[:, :, 0])


def test_works_without_auxiliary_branches_and_with_one_frame() -> None:
    z, edges = ActionKnowledgeGraph(CHANNELS)(torch.rand(BATCH, 1, 1, CHANNELS))
    assert z.shape == (BATCH, 1, CHANNELS)
    torch.testing.assert_close(edges, torch.ones(BATCH, 1, 1))


def test_edge_entropy_is_zero_for_one_node_and_one_for_all() -> None:
    uniform = torch.full((2, 3, 9), 1 / 9)
    single = torch.eye(9)[None, :3].expand(2, 3, 9)
    assert edge_entropy(uniform).item() == pytest.approx(1)
    assert edge_entropy(single).item() == pytest.approx(0)


@pytest.mark.parametrize("relation", RELATIONS)
def test_gradients_are_those_of_the_equations(relation: str) -> None:
    graph, nodes = random_graph(relation), random_nodes().requires_grad_()
    reference = nodes.detach().clone().requires_grad_()
    graph(nodes)[0].square().sum().backward()
    expected = [whole_graph(graph, reference[window])[0][:SEGMENTS] for window in range(BATCH)]
    torch.stack(expected).square().sum().backward()
    assert nodes.grad is not None
    assert reference.grad is not None
    torch.testing.assert_close(nodes.grad, reference.grad)
