"""Stage 5: drawing in few steps, by progressive distillation with the guidance inside.

One step of the student is to land where a few steps of its teacher do (Salimans and Ho, 2022); the first teacher is the
drawing model of stage 4 with guidance, which the student then has in it (Meng and others, 2023). So the result draws
with the sampler that every model has, at a fixed number of steps and one pass a step:

    train_few_steps.py s4 --teacher drawing --steps 4 --parts 3 --guidance 2 ...
    train_few_steps.py s2 --teacher s4 --steps 2 ...         and 1

Student and teacher meet on ways from noise, so no picture is needed but those that edits begin with. A way goes on from
where the teacher landed or, as often, from where the student did: so the student learns to go on from its own errors
as well, which it meets when it draws (Ross and others, 2011). The teacher's passes are what costs, so a way is used a
few times.

The student may have the drawing branch that compression has split into experts, of which it uses half. It learns far
better from a dense student that draws in as many steps already, one pass of which is one of its own (`--parts 1`):
then each of its layers can be asked for what the teacher's layer says (`--layers`), not the last one alone.

With `--groups` only some of the inner layers take part in a step, those of its range of time (LaTtE-Flow, Shen and others,
2025), which half of them do. It is for comparison; no container can say it.

Consistency models would need noise added anew between steps, shortcut and mean flow models another input for the
length of a step: both are other models than a BAGEL checkpoint can say.
"""

import torch

import drawing
import state
from assembled import assembled
from autoencoder import Autoencoder
from model import Experts
from optimizer import Both, share_of_rate
from run import Run, arguments, autocast
from tokens import Words, made
from train_drawing import Drawings, Edits, exam
from world import Variants


def contexts_of(net, words, texts, before, guided):
    """[(cache, position)] of texts behind what is shown before them: with the texts, and without where guidance needs it."""
    nowhere = torch.zeros(len(texts), dtype=torch.long, device=net.markers.device)
    if not before:
        whole, empty = drawing.prompted(net, words, texts), (None, nowhere)
    else:
        shown = drawing.shown_to(net, *before)
        whole = drawing.keeping(shown, lambda cache: drawing.prompted(net, words, texts, 2, cache))
        empty = shown, nowhere + 2
    return [whole, empty] if guided else [whole]


def in_group(layers, groups, step, steps):
    """The layers that run in a step: the outer two, and of the inner ones a run that goes with the steps."""
    inner = (layers - 2) // groups
    first = 1 + step * groups // steps * inner
    return {0, *range(first, first + inner), layers - 1}


@torch.no_grad()
def landing(net, contexts, x, times, guidance=1.0, only=None):
    """Where a model comes from x in Euler steps over these times."""
    for now, then in zip(times[:-1], times[1:]):
        velocities = [net.velocity(x, now.expand(len(x)), at, cache, only=only)[0].float() for cache, at in contexts]
        x = x - drawing.guided(velocities, guidance) * (now - then)
    return x


def listening(net):
    """A list that takes what each layer says of the picture in every pass from now on, [B, TOKENS, hidden]."""
    said = []
    for layer in net.layers:
        layer.register_forward_hook(lambda _, given, out: said.append(out[0][1][1]) if len(out[0]) == 3 else None)
    return said


def unlike(said, wanted):
    """How far layers are from others, squared, as a share of what the others say; the mean over layers."""
    shares = [(a.float() - b.float()).pow(2).mean() / b.float().pow(2).mean() for a, b in zip(said, wanted)]
    return torch.stack(shares).mean()


class Paths:
    """A pool of ways from noise: of each the text, what was shown before it, where each step begins, [steps, TOKENS, 64],
    and where the teacher lands from there."""

    def __init__(self, a, source, guidance, teacher, net, words, batch, size):
        self.a, self.source, self.guidance, self.teacher, self.net, self.words = a, source, guidance, teacher, net, words
        self.size, self.due, self.oldest, self.rows = batch, 0.0, 0, []
        while len(self.rows) < size:
            self.rows += self.fresh()

    @torch.no_grad()
    def fresh(self):
        a, parts = self.a, self.a.parts
        texts, before = self.source.asked(self.size)
        x = torch.randn(self.size, drawing.TOKENS, 64).to(a.device)
        times = drawing.times_of(a.steps * parts, a.shift).to(a.device)
        starts, ends = [], []
        with autocast(a.device):
            contexts = contexts_of(self.teacher, self.words, texts, before, self.guidance != 1)
            own = contexts_of(self.net, self.words, texts, before, False)
            for at in range(0, len(times) - 1, parts):
                landed = landing(self.teacher, contexts, x, times[at : at + parts + 1], self.guidance)
                starts.append(x)
                ends.append(landed)
                stepped = landing(self.net, own, x, times[[at, at + parts]], only=self.only(at // parts))
                x = torch.where((torch.rand(self.size, 1, 1) < 0.5).to(a.device), stepped, landed)
        return list(zip(texts, torch.stack(starts, 1), torch.stack(ends, 1), *before))

    def only(self, step):
        """The layers of the student that run in a step; None: all."""
        a = self.a
        return in_group(len(self.net.layers), a.groups, step, a.steps) if a.groups else None

    def batch(self):
        """(texts, shown before, starts, ends, which step); now and then the oldest ways make room for new ones."""
        self.due += 1 / (self.a.steps * self.a.uses)
        if self.due >= 1:
            self.due -= 1
            self.rows[self.oldest : self.oldest + self.size] = self.fresh()
            self.oldest = (self.oldest + self.size) % len(self.rows)
        rows = [self.rows[i] for i in torch.randint(len(self.rows), (self.size,))]
        # With groups of layers, a batch is of one step.
        step = torch.randint(self.a.steps, (1 if self.a.groups else self.size,)).expand(self.size)
        at_step = lambda i: torch.stack([row[i][s] for row, s in zip(rows, step)])
        before = [torch.stack(part) for part in list(zip(*rows))[3:]]
        return [row[0] for row in rows], before, at_step(1), at_step(2), step.to(self.a.device)


def main():
    more = dict(
        tokenizer=(str, None, "its file"),
        autoencoder=(str, None, "a state of stage 1"),
        understanding=(str, None, "a state of stage 3"),
        teacher=(str, None, "a state of stage 4, or of this stage with more steps"),
        student=(str, None, "a state that the student begins with: adapted.py's. Left out: the teacher's"),
        steps=(int, 4, "of the student's drawings"),
        parts=(int, 2, "steps of the teacher in one of the student"),
        shift=(float, 2.0, "of the steps' times towards the noise, where a way bends most"),
        guidance=(float, 1.0, "of the teacher; 1 where it is inside already"),
        edit_guidance=(float, 1.0, "the same of its edits"),
        edits=(float, 0.25, "share of steps that edit"),
        layers=(float, 0.0, "weight of what each layer says, where both take the same steps (`--parts 1`)"),
        rate=(float, 0.004, "of matrices, at its full height; a branch just split into experts wants more"),
        groups=(int, 0, "runs of inner layers that take turns over the steps (0: all run in each)"),
        uses=(int, 3, "how often each step of a way is learnt from"),
        pool=(int, 960, "ways that are kept, and a quarter as many of edits"),
    )
    a = arguments(__doc__, samples=100_000, batch=48, **more)
    if a.layers and a.parts != 1:
        raise SystemExit("--layers compares pass with pass: it needs --parts 1")
    rng = state.fresh_rng(11 + a.steps)
    teacher = assembled(a.size, a.understanding, a.teacher).to(a.device).eval()
    net = assembled(a.size, a.understanding, a.student or a.teacher).to(a.device)
    c, names = net.c, net.drawing_names()
    words = Words(made(a.tokenizer, c.vocabulary))
    ae = Autoencoder(c).to(a.device)
    state.load(a.autoencoder, {"ae": ae})
    optimizer = Both(net.train_only(names), muon_rate=a.rate, adam_rate=3e-4)
    own = {"experts": c.experts, "active": c.active}
    run = Run(a, {"net": net}, optimizer, rng, sizes=own, steps=a.steps, shift=a.shift)
    points = drawing.times_of(a.steps, a.shift).to(a.device)
    paths = lambda source, guidance, share: Paths(
        a, source, guidance, teacher, net, words, a.batch // share, a.pool // share // share
    )
    drawings = paths(Drawings(rng, ae, a.device, 0), a.guidance, 1)
    edits = paths(Edits(net, Variants(0), rng, ae, a.device, 0), a.edit_guidance, 2)
    prompts = exam()
    experts = [part for part in net.modules() if isinstance(part, Experts)]
    said, wanted = (listening(net), listening(teacher)) if a.layers else ([], [])
    run.skip_clock()
    while run.going():
        what, pool = ("edit", edits) if rng.random() < a.edits else ("draw", drawings)
        texts, before, x, landed, step = pool.batch()
        start, end = points[step], points[step + 1]
        apart = 0.0
        with autocast(a.device):
            ((cache, position),) = contexts_of(net, words, texts, before, False)
            said.clear()
            v, _ = net.velocity(x, start, position, cache, only=pool.only(int(step[0])))
            off = (v.float() - (x - landed) / (start - end)[:, None, None]).pow(2).mean((1, 2))
            if a.layers:
                with torch.no_grad():
                    ((cache, position),) = contexts_of(teacher, words, texts, before, False)
                    wanted.clear()
                    teacher.velocity(x, start, position, cache)
                apart = unlike(said, wanted)
        (off.mean() + a.layers * apart).backward()
        optimizer.step(share_of_rate(run.step, run.done, flat=0.5, floor=0.01))
        for part in experts:
            part.balance()
        each = {f"{what} {i + 1}": off[step == i].mean().item() for i in step.unique().tolist()}
        also = {"layers": apart.item()} if a.layers else {}
        if experts:
            also["least used"] = min(part.used[0].min().item() for part in experts)
        run.after_step(pool.size, **{what: off.mean().item()}, **also, **each)
        if run.step % 1000 == 0:
            pictures = drawing.draw(net, ae, words, prompts, device=a.device, steps=a.steps, scale=1.0, shift=a.shift)
            drawing.sheet(f"{a.out}-{run.step:06}.png", [pictures], prompts)
            run.skip_clock()
    run.save()


if __name__ == "__main__":
    main()
