"""Stage 5: drawing in few steps, by progressive distillation with the guidance inside.

One step of the student is to land where a few steps of its teacher do (Salimans and Ho, 2022); the first teacher is the
drawing model of stage 4 with guidance, which the student then has in it (Meng and others, 2023). So the result draws
with the sampler that every model has, at a fixed number of steps and one pass a step:

    train_few_steps.py s4 --teacher drawing --steps 4 --parts 3 --guidance 4 ...
    train_few_steps.py s2 --teacher s4 --steps 2 ...         and 1

The student may have the drawing branch that compression has split into experts, of which it uses half: it learns to
draw with these while it learns to draw in fewer steps.

Consistency models would need noise added anew between steps, shortcut and mean flow models another input for the
length of a step: both are other models than a BAGEL checkpoint can say.
"""

import torch

import drawing
import state
from assembled import assembled
from autoencoder import Autoencoder
from optimizer import Both, share_of_rate
from run import Run, arguments, autocast
from tokens import Words, made
from train_drawing import Drawings, Edits, exam, next_batch
from world import Variants


def contexts_of(net, words, batch, guided):
    """[(cache, position)] of a batch: with its words, and without them where guidance needs it."""
    _, prompts, _, *before = batch
    nowhere = torch.zeros(len(prompts), dtype=torch.long, device=net.markers.device)
    if not before:
        whole, empty = drawing.prompted(net, words, prompts), (None, nowhere)
    else:
        shown = drawing.shown_to(net, *before)
        whole = drawing.keeping(shown, lambda cache: drawing.prompted(net, words, prompts, 2, cache))
        empty = shown, nowhere + 2
    return [whole, empty] if guided else [whole]


@torch.no_grad()
def landing(teacher, contexts, x, start, end, guidance, parts):
    """Where the teacher comes from x at times `start` to times `end` [B], in so many Euler steps."""
    for part in range(parts):
        now = start + (end - start) * part / parts
        length = ((start - end) / parts)[:, None, None]
        velocities = [teacher.velocity(x, now, at, cache)[0].float() for cache, at in contexts]
        x = x - drawing.guided(velocities, guidance) * length
    return x


def main():
    more = dict(
        tokenizer=(str, None, "its file"),
        autoencoder=(str, None, "a state of stage 1"),
        understanding=(str, None, "a state of stage 3"),
        teacher=(str, None, "a state of stage 4, or of this stage with more steps"),
        student=(str, None, "a state that the student begins with: adapted.py's. Left out: the teacher's"),
        steps=(int, 4, "of the student's drawings"),
        parts=(int, 2, "steps of the teacher in one of the student"),
        guidance=(float, 1.0, "of the teacher; 1 where it is inside already"),
        edits=(float, 0.25, "share of steps that edit"),
        pool=(int, 6000, "drawings that are kept, and a third as many edits"),
    )
    a = arguments(__doc__, samples=100_000, batch=48, **more)
    rng = state.fresh_rng(11 + a.steps)
    teacher = assembled(a.size, a.understanding, a.teacher).to(a.device).eval()
    net = assembled(a.size, a.understanding, a.student or a.teacher).to(a.device)
    c, names = net.c, net.drawing_names()
    words = Words(made(a.tokenizer, c.vocabulary))
    ae = Autoencoder(c).to(a.device)
    state.load(a.autoencoder, {"ae": ae})
    optimizer = Both(net.train_only(names), muon_rate=0.004, adam_rate=3e-4)
    own = {"experts": c.experts, "active": c.active}
    run = Run(a, {"net": net}, optimizer, rng, sizes=own, steps=a.steps)
    drawings = Drawings(rng, ae, a.device, a.pool)
    edits = Edits(net, Variants(0), rng, ae, a.device, a.pool // 3)
    points = torch.linspace(1, 0, a.steps + 1).to(a.device)
    prompts = exam()
    run.skip_clock()
    while run.going():
        what, batch = next_batch(a, run, rng, drawings, edits)
        size = len(batch[0])
        step = torch.as_tensor(rng.integers(a.steps, size=size), device=a.device)
        start, end = points[step], points[step + 1]
        latents = batch[0]
        x = torch.lerp(latents, torch.randn(latents.shape).to(a.device), start[:, None, None])
        with autocast(a.device):
            with torch.no_grad():
                contexts = contexts_of(teacher, words, batch, a.guidance != 1)
                behind = landing(teacher, contexts, x, start, end, a.guidance, a.parts)
            wanted = (x - behind) / (start - end)[:, None, None]
            (context,) = contexts_of(net, words, batch, False)
            v, _ = net.velocity(x, start, context[1], context[0])
            off = (v.float() - wanted).pow(2).mean()
        off.backward()
        optimizer.step(share_of_rate(run.step, run.done, flat=0.5, floor=0.01))
        run.after_step(size, **{what: off.item()})
        if run.step % 1000 == 0:
            pictures = drawing.draw(net, ae, words, prompts, device=a.device, steps=a.steps, scale=1.0)
            drawing.sheet(f"{a.out}-{run.step:06}.png", [pictures], prompts)
            run.skip_clock()
    run.save()


if __name__ == "__main__":
    main()
