"""Pretraining: the loss by its definition, label dropout, and global counts."""

from typing import Any

import pytest
import torch
from torch import Tensor

from dimo_core.draws import Draws
from dimo_core.method.masked_modelling import MaskedModelling, MaskedModellingObjective
from dimo_core.method.process import draw_remask
from dimo_core.objective import Batch, Ingredients

B, L, V = 6, 4, 5
DRAWS = Draws(seed=2, phase="denoise", total=B)
BATCH = Batch(
    conditions=torch.tensor([0, 1, 0, 1, 1, 0]),
    tokens=torch.randint(V, (B, L), generator=torch.Generator().manual_seed(0)),
)


def objective(teacher: Any, **options: Any) -> MaskedModellingObjective:
    made = MaskedModelling(**{"label_dropout": 0.5, **options}).build(Ingredients(teacher=teacher))
    made.network.double().eval()
    return made


def grads(made: MaskedModellingObjective) -> dict[str, Tensor]:
    return {name: p.grad for name, p in made.network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("positions", ["masked", "all"])
@pytest.mark.parametrize("masking", ["exact", "bernoulli"])
@pytest.mark.parametrize("weight", ["sum", "per_masked_token"])
def test_the_loss_is_the_mean_cross_entropy_of_the_true_tokens(
    tiny_teacher: Any, positions: str, masking: str, weight: str
) -> None:
    how = {"positions": positions, "masking": masking, "weight": weight}
    made = objective(tiny_teacher, **how, label_smoothing=0.2, schedule="square")
    remask = draw_remask(L, "square", masking, DRAWS)
    dropped = DRAWS.uniform("label_dropout") < 0.5
    assert dropped.any()
    assert not dropped.all()
    c = torch.where(dropped, 2, BATCH.conditions)
    z = made.network.logits(BATCH.tokens.masked_fill(remask.masked, 5), c, mask_ratio=remask.ratio)
    target = torch.nn.functional.one_hot(BATCH.tokens, V).double() * 0.8 + 0.2 / V
    entropy = -(target * z.log_softmax(-1)).sum(-1)
    chosen = remask.masked if positions == "masked" else torch.ones(B, L, dtype=torch.bool)
    logs = made.phases()[0].accumulate(BATCH, DRAWS)
    expected = entropy[chosen].mean()
    if weight == "per_masked_token":
        expected = torch.stack([e[here].mean() for e, here in zip(entropy, chosen, strict=True)]).mean()
    torch.testing.assert_close(logs["loss"], expected.detach(), atol=1e-12, rtol=0)
    right = (z.argmax(-1) == BATCH.tokens)[chosen].double().mean().item()
    assert right == pytest.approx(logs["accuracy"].item())


@pytest.mark.parametrize("positions", ["masked", "all"])
@pytest.mark.parametrize("masking", ["exact", "bernoulli"])
@pytest.mark.parametrize("weight", ["sum", "per_masked_token"])
def test_micro_batches_add_up_to_the_whole_batch(
    tiny_teacher: Any, positions: str, masking: str, weight: str
) -> None:
    how = {"positions": positions, "masking": masking, "weight": weight}
    whole, parts = (objective(tiny_teacher, **how) for _ in range(2))
    expected = whole.phases()[0].accumulate(BATCH, DRAWS)
    total = dict.fromkeys(expected, 0.0)
    for start, count in ((0, 1), (1, 2), (3, 3)):
        rows = slice(start, start + count)
        part = Batch(conditions=BATCH.conditions[rows], tokens=BATCH.tokens[rows])
        for name, value in parts.phases()[0].accumulate(part, DRAWS.slice(start, count)).items():
            total[name] += float(value)
    torch.testing.assert_close(grads(parts), grads(whole), atol=1e-13, rtol=1e-9)
    assert {name: pytest.approx(float(value)) for name, value in expected.items()} == total


@pytest.mark.parametrize(("label_dropout", "null"), [(0.0, 0), (1.0, B)])
def test_labels_are_dropped_as_often_as_asked(tiny_teacher: Any, label_dropout: float, null: int) -> None:
    made, seen = objective(tiny_teacher, label_dropout=label_dropout), []
    made.network.register_forward_pre_hook(lambda _module, args: seen.append(args[1]))
    made.phases()[0].accumulate(BATCH, DRAWS)
    assert null == (seen[0] == 2).sum()


def test_a_teacher_without_a_null_condition_is_trained_without_dropped_labels(tiny_teacher: Any) -> None:
    cannot = type("Unguided", (type(tiny_teacher),), {"capabilities": frozenset()})()
    made, seen = objective(cannot, label_dropout=1.0), []
    made.network.register_forward_pre_hook(lambda _module, args: seen.append(args[1]))
    made.phases()[0].accumulate(BATCH, DRAWS)
    assert torch.equal(BATCH.conditions, seen[0])


def test_all_parameters_are_trained_in_training_mode(tiny_teacher: Any) -> None:
    made = MaskedModelling().build(Ingredients(teacher=tiny_teacher))
    (part,) = made.parts().values()
    assert part.module.training
    assert all(p.requires_grad for p in part.module.parameters())


def test_a_batch_without_tokens_is_refused(tiny_teacher: Any) -> None:
    with pytest.raises(ValueError, match="is fed with data"):
        objective(tiny_teacher).phases()[0].accumulate(Batch(conditions=BATCH.conditions), DRAWS)
