"""Distillation: what a teacher says is what decoding says, and a student says it in one call."""

import copy

import pytest
import torch

from mezzotint.draws import Draws
from mezzotint.model.config import ModelConfig
from mezzotint.model.denoiser import Denoiser
from mezzotint.model.visibility import CANVAS, Places, two_stream_places
from mezzotint.noise import Absorbing
from mezzotint.train.distill import Teacher, distill
from mezzotint.train.trainer import Batch, Recipe, Trainer, initialise

MASK, START = 3, 4
# Of the two tokens, each is most often 0, but never both: the likeliest token of each place alone makes no text. A START
# stands before them: places of nothing but masks look alike to a network that knows relative positions only.
TEXTS = torch.tensor([[START, 0, 1], [START, 1, 0], [START, 0, 2], [START, 2, 0]])
LAW = torch.tensor([0.35, 0.35, 0.15, 0.15])
SMALL = ModelConfig(5, 32, 2, 2, 2, 16, 64, 8, canvas_role=True)
BLANK = [START, MASK, MASK]


def canvases(tokens, target=None):
    position = torch.arange(tokens.shape[1]).expand_as(tokens)
    places = Places.of(position, torch.full_like(position, CANVAS))
    return Batch(tokens, places, tokens if target is None else target, (tokens == MASK).float())


def batches(step):
    clean = TEXTS[torch.multinomial(LAW, 64, replacement=True, generator=torch.Generator().manual_seed(step))]
    level = torch.where(torch.arange(64) < 32, 1.0, 0.5).double()
    return canvases(Absorbing(MASK, 5).corrupt(clean, level, clean < MASK, Draws.of(step, 64)), clean)


def teacher_of(denoiser, temperature=0.0):
    return Teacher(denoiser, MASK, steps=3, temperature=temperature, banned=(START,))  # one mask a step


@pytest.fixture(scope="module")
def taught():
    """A network that has learnt the texts."""
    denoiser = initialise(SMALL, 0)
    for _ in Trainer(denoiser, Recipe("texts", SMALL, max_steps=150, bfloat16=False), batches).run():
        pass
    law = teacher_of(denoiser).law(denoiser, canvases(torch.tensor([BLANK])))[0, 1:, :3].exp()
    assert (law - torch.tensor([0.5, 0.35, 0.15])).abs().max() < 0.1
    return denoiser


def decode(denoiser, calls):
    """Greedy decoding of two masks, both in one call or the surer first."""
    tokens = torch.tensor([BLANK])
    for call in range(calls):
        sure, token = teacher_of(denoiser).law(denoiser, canvases(tokens)).max(-1)
        sure = sure.masked_fill(tokens != MASK, -torch.inf)
        shown = (tokens == MASK) & ((sure == sure.max()) if call + 1 < calls else True)
        tokens = torch.where(shown, token, tokens)
    return tokens[0].tolist()


def test_a_student_says_in_one_call_what_its_teacher_says_in_two(taught):
    known = TEXTS.tolist()
    assert decode(taught, 1) == [START, 0, 0] and decode(taught, 2) in known  # chosen apart, they do not fit together
    student = copy.deepcopy(taught)
    recipe = Recipe("half", SMALL, max_steps=80, bfloat16=False)
    losses = [p.loss for p in distill(student, recipe, batches, MASK, steps=3, banned=(START,))]
    assert losses[-1] < losses[0] / 2
    assert decode(student, 1) in known and decode(taught, 1) == [START, 0, 0]
    assert not any(p.requires_grad for p in student.parameters())


def test_a_teacher_reveals_its_share_and_speaks_from_where_it_got_to(taught):
    teacher = teacher_of(taught)
    batch = canvases(torch.tensor([BLANK, [START, 0, MASK], [START, MASK, 1]]))
    target = teacher.teach(batch)
    assert target.revealed.tolist() == [[False, True, True], [False, False, True], [False, True, False]]
    assert target.token[0].tolist() in TEXTS.tolist() and target.token[2].tolist() == [START, 0, 1]
    first = teacher.law(taught, batch)
    assert torch.equal(target.law[1:], first[1:])  # one call was enough
    assert (target.law[0] != first[0]).any(-1).sum() == 1  # one of the two was revealed by the second call
    assert (target.law[..., [MASK, START]] < -1000).all()


def test_canvases_of_two_streams_are_decoded_apart_and_clean_text_is_kept(taught):
    clean = torch.tensor([[START, 0, 1, START, 1, 0]])
    noisy = torch.tensor([[START, MASK, 1, START, MASK, MASK]])
    places = two_stream_places(6, 3)
    batch = Batch(torch.cat((noisy, clean), 1), places, torch.cat((clean, clean), 1), torch.ones(1, 12))
    target = teacher_of(taught).teach(batch)
    assert target.revealed[0].tolist() == [False, True, False, False, True, True, *[False] * 6]
    assert torch.equal(target.law[:, 6:], teacher_of(taught).law(taught, batch)[:, 6:])


def test_the_teacher_itself_has_no_loss_where_one_step_is_enough(taught):
    """At temperature 1 the loss is a divergence: 0 for the teacher with one mask a canvas, above it with two."""
    teacher, stranger = teacher_of(taught, 1.0), initialise(SMALL, 1)
    one = canvases(torch.tensor([[START, MASK, 0], [START, 1, MASK]]))
    two = canvases(torch.tensor([BLANK] * 64))
    with torch.no_grad():
        assert abs(float(teacher.loss(taught, one))) < 1e-6
        assert float(teacher.loss(taught, two)) > 0.1
        assert float(teacher.loss(stranger, one)) > 0.1
        assert teacher.loss(taught, two) == teacher.loss(taught, two)  # drawn from the batch alone
    tokens = teacher.teach(two).token[:, 1:]
    shares = torch.stack([(tokens == v).float().mean() for v in range(3)])
    assert (shares - torch.tensor([0.5, 0.35, 0.15])).abs().max() < 0.15
    assert sum(row in TEXTS[:, 1:].tolist() for row in tokens.tolist()) > 55  # one after the other, they fit


def test_bad_numbers_are_named(taught):
    with pytest.raises(ValueError, match="jump is 1 of 4"):
        Teacher(taught, MASK, 4, jump=1)
    with pytest.raises(ValueError, match="jump is 2 of 1"):
        Teacher(taught, MASK, 1)
    with pytest.raises(ValueError, match="temperature is -1"):
        Teacher(taught, MASK, 4, temperature=-1)
    with pytest.raises(ValueError, match="shift 1"):
        Teacher(Denoiser(SMALL, shift=1), MASK, 4)
    with pytest.raises(ValueError, match="3 rounds from 4 steps"):
        next(distill(taught, Recipe("x", SMALL, max_steps=1), batches, MASK, 4, rounds=3))
