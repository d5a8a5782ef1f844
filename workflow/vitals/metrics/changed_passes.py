"""Passes with one change each, scored image by image: what the interventions are measured from.

The stream is walked once from its beginning to its end. At each place its state, of all images, is
in memory: the changes that begin there run from it on, and nothing before it runs again.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from vitals.activations.batches import fitting_size
from vitals.activations.capture import Pass, Taps
from vitals.activations.passing import Machine, Passing, Subject
from vitals.data.images import ImageList
from vitals.errors import VitalsError
from vitals.metrics.parts import Parts
from vitals.metrics.results import mark_absent
from vitals.metrics.token_similarity import centered_cosine
from vitals.models import interventions
from vitals.models.anatomy import Anatomy, anatomy
from vitals.models.interventions import Suffix
from vitals.progress import announce, progress

POSITION = "position"
CONTROLS = ("random_field", "shuffled_rows", "mean_only")
ONCE = ("mean_only",)  # a control without chance
REPLACED = ("cls", "patch")
BY = ("mean", "other", "zero")
OF_CLS = ("cls_mean", "cls_other", "cls_zero", "to_cls_cut", "from_cls_cut")
OF_ATTENTION = ("to_cls_cut", "from_cls_cut", "attention_off")
EXIT = "exit"
OF_BLOCKS = ("to_cls_cut", "from_cls_cut", "attention_off", "block_skipped", EXIT)
KINDS = (*(f"{tokens}_{by}" for tokens in REPLACED for by in BY), *OF_BLOCKS)
NO_CLS = "the model has no [CLS] token"
NO_POSITIONS = "the model adds no position embedding to its tokens"
NO_CLASSIFIER = "the model has no classifier"

Run = Callable[[slice, interventions.Watch], Tensor]


@dataclass(frozen=True)
class Settings:
    """Which changes are made: the fields of a study's `interventions`, but for its images.

    strengths: factors of the position embedding; controls: what takes its place; kinds: changes at
    each place of the stream; repeats: of the controls that chance draws; seed: of these, and of
    which image is the other one.
    """

    strengths: tuple[float, ...]
    controls: tuple[str, ...]
    kinds: tuple[str, ...]
    repeats: int
    seed: int


def values_of(
    subject: Subject,
    images: ImageList,
    settings: Settings,
    machine: Machine,
    skip_unreadable: bool,
    parts: Parts,
) -> xr.Dataset:
    """Of each image, how the model does as it is and under each change.

    images: those that are passed; parts: keeps what each change came to.
    `correct` and `probability`, of the class of the image, and `centered_cosine` (tap), of its
    patches: each (image), and with `_by_strength`, `_by_control` and `_by_place` (kind, place) in
    front. `exit_compute` (place): share of the operations that an exit there takes. Controls that
    chance draws are means over `repeats`. What the model has not is absent, with its reason.
    Raises VitalsError for fewer than two images.
    """
    if len(images.table) < 2:
        raise VitalsError(
            f"interventions need 2 images of the split 'test', found {len(images.table)}: one "
            "takes the tokens of another"
        )
    body = anatomy(subject.network.to(machine.device).eval())
    return _Walk(subject, body, images, settings, machine, skip_unreadable, parts).run()


class _Start(Pass):
    """A pass of a batch of which the states remain that the walk begins from."""

    def __init__(self, layers: Sequence[str], taps: Taps) -> None:
        super().__init__(taps=taps)
        self.layers = layers

    def keep_state(self, layer: str, state: Tensor) -> None:
        """The state at a tap: (image, token, channel)."""
        if layer in self.layers:
            self.states[layer] = state.float().cpu()


class _Walk:
    """The images on their way through a model, place by place."""

    def __init__(
        self,
        subject: Subject,
        body: Anatomy,
        images: ImageList,
        settings: Settings,
        machine: Machine,
        skip_unreadable: bool,
        parts: Parts,
    ) -> None:
        self.parts = parts
        self.subject, self.body, self.settings, self.device = (
            subject,
            body,
            settings,
            machine.device,
        )
        self.blocks = len(body.blocks)
        self.taps = [POSITION, *(f"block.{number}" for number in range(self.blocks))]
        self.patches = interventions.patch_places(body).cpu()
        self.cls = interventions.cls_places(body).cpu()
        self.batch = machine.batch or fitting_size(body, 2, self.device)
        self.passing: Passing[_Start] = Passing(
            subject, body, images, machine, precision="float32", skip_unreadable=skip_unreadable
        )
        self.absent = _absences(body)
        self.kinds = [kind for kind in settings.kinds if kind not in self.absent]

    @torch.inference_mode()
    def run(self) -> xr.Dataset:
        """Every change, unless it is among the parts."""
        embed, state = self._begin()
        self.suffix = Suffix(self.subject.network, self.body)
        runs = len(self.settings.strengths) + len(self.settings.controls) * self.settings.repeats
        runs += len(self.kinds) * self.blocks
        announce(
            f"intervene {self.subject.name}: {len(state)} images, about {runs} changed passes, "
            f"{2 * state.nbytes / 1e9:.2g} GB of states, on {self.device}"
        )
        plain = self._kept("plain", lambda: self._plain(state))
        self.plain_cosine = plain["centered_cosine"].values
        self.nothing = xr.full_like(plain, np.nan)  # of a change that is not made at a place
        positions = self._positions(embed)
        del embed
        places = []
        for number in progress(range(self.blocks + 1), f"intervene {self.subject.name}"):
            places.append(self._place(number, state))
            if number < self.blocks:
                state = self._advanced(number, state)
        return self._joined(plain, positions, places)

    def _begin(self) -> tuple[Tensor, Tensor]:
        """All images at the tap where positions are added, and at the entry of block 0."""
        layers = ["embed", POSITION]
        if self.body.norm_pre is not None:
            layers.append("norm_pre")
        taps = Taps(attention=False)
        seen = list(self.passing.run("intervene", lambda batch: _Start(layers, taps), taps))
        states = {layer: torch.cat([part.states[layer] for part in seen]) for layer in layers}
        self.positioned = states.get("norm_pre", states[POSITION])
        self.labels = torch.from_numpy(self.passing.labels()[self.passing.stored])
        order = torch.from_numpy(
            np.random.default_rng(self.settings.seed).permutation(len(self.labels))
        )
        self.other = torch.empty_like(order)  # of each image, the one whose tokens it takes
        self.other[order] = order.roll(1)
        return states["embed"], states[POSITION]

    def _kept(self, name: str, make: Callable[[], xr.Dataset]) -> xr.Dataset:
        """A part, made unless it is there."""
        found = self.parts.read(name)
        if found is None:
            found = make()
            self.parts.write(name, found)
        return found

    def _plain(self, state: Tensor) -> xr.Dataset:
        self.plain_cosine = np.full((len(self.taps), len(state)), np.nan)
        self.plain_cosine[0] = self._cosine(state)
        return self._scored(lambda rows, watch: self._from(0, state, rows, watch=watch))

    def _positions(self, embed: Tensor) -> xr.Dataset:
        """Strengths and controls of the position embedding; embed: the state without it."""
        added = self.body.parameters.get("position_embedding")
        if added is None:
            return xr.Dataset()
        added = added.float().cpu()
        strengths = [
            self._kept(
                f"strength.{factor}", lambda factor=factor: self._strength(embed, added, factor)
            )
            for factor in progress(self.settings.strengths, "position strengths")
        ]
        controls = [
            self._kept(f"control.{name}", lambda name=name: self._control(embed, added, name))
            for name in progress(self.settings.controls, "position controls")
        ]
        labelled = [
            _along("strength", self.settings.strengths, strengths),
            _along("control", self.settings.controls, controls),
        ]
        return xr.merge(labelled)

    def _strength(self, embed: Tensor, added: Tensor, factor: float) -> xr.Dataset:
        # at 1 it is the model's own sum, to the last bit
        state = self.positioned if factor == 1 else embed + factor * added
        return self._scored_position(state)

    def _control(self, embed: Tensor, added: Tensor, name: str) -> xr.Dataset:
        """Mean scores of what is added in the place of the positions of patches."""
        generator = torch.Generator().manual_seed(self.settings.seed)
        repeats = 1 if name in ONCE else self.settings.repeats
        scores = []
        for _ in range(repeats):
            drawn = _drawn(added[self.patches], name, generator)
            state = embed + added.index_copy(0, self.patches, drawn)
            scores.append(self._scored_position(state))
        return sum(scores[1:], scores[0]) / repeats

    def _scored_position(self, state: Tensor) -> xr.Dataset:
        """Scores where `state`, of all images, is what positions have been added to."""

        def run(rows: slice, watch: interventions.Watch) -> Tensor:
            given = state[rows].to(self.device)
            first = self.body.blocks[0]
            entered: list[Tensor] = []
            hook = first.register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0]))
            try:
                logits = self.suffix.run_positioned(given, watch)
            finally:
                hook.remove()
            entry = given if self.body.norm_pre is None else _flat(entered[0])
            watch(-1, entry)
            return logits

        return self._scored(run)

    def _advanced(self, number: int, state: Tensor) -> Tensor:
        """The state after block `number`, from the one before it."""
        after = torch.empty_like(state)
        changes = self.suffix.exit_after(number)
        for rows in self._batches():

            def keep(block: int, seen: Tensor, rows: slice = rows) -> None:
                if block == number:
                    after[rows] = seen.cpu()

            self._from(number, state, rows, changes, keep)
        return after

    def _place(self, number: int, state: Tensor) -> xr.Dataset:
        """Every kind of change that begins at the state before block `number`."""
        found = []
        for kind in self.kinds:
            if number == self.blocks and kind in OF_BLOCKS:
                found.append(self.nothing)
                continue
            make = self._of_block if kind in OF_BLOCKS else self._replaced
            part = self._kept(
                f"{self.taps[number]}.{kind}",
                lambda make=make, kind=kind: make(number, state, kind),
            )
            found.append(part)
        return _along("kind", self.kinds, found)

    def _of_block(self, number: int, state: Tensor, kind: str) -> xr.Dataset:
        """Scores where block `number` does something else, or is the last one."""
        change = self._change(number, kind)
        found = self._scored(lambda rows, watch: self._from(number, state, rows, change, watch))
        if kind == EXIT:  # no block after it runs
            found["centered_cosine"][number + 2 :] = np.nan
        return found

    def _change(self, number: int, kind: str) -> dict[torch.nn.Module, interventions.Forward]:
        block = self.body.blocks[number]
        if kind == EXIT:
            return self.suffix.exit_after(number)
        if kind == "block_skipped":
            return {block: interventions.unchanged}
        if kind == "attention_off":
            return interventions.attention_off(block)
        cut = {
            "to_cls_cut": interventions.cut_to_cls,
            "from_cls_cut": interventions.cut_from_cls,
        }[kind]
        return interventions.attention_cut(block, cut(self.body))

    def _replaced(self, number: int, state: Tensor, kind: str) -> xr.Dataset:
        """Scores where [CLS] or the patches are not the image's own from this place on."""
        tokens, by = kind.split("_")
        places = self.cls if tokens == "cls" else self.patches
        mean = state[:, places].mean(dim=0, dtype=torch.float64).float() if by == "mean" else None

        def run(rows: slice, watch: interventions.Watch) -> Tensor:
            changed = state[rows].clone()
            if by == "other":
                changed[:, places] = state[self.other[rows]][:, places]
            else:
                changed[:, places] = 0.0 if mean is None else mean
            changed = changed.to(self.device)
            watch(number - 1, changed)
            return self.suffix.run(number, changed, watch=watch)

        return self._scored(run)

    def _from(
        self,
        number: int,
        state: Tensor,
        rows: slice,
        changes: Mapping[torch.nn.Module, interventions.Forward] | None = None,
        watch: interventions.Watch | None = None,
    ) -> Tensor:
        return self.suffix.run(number, state[rows].to(self.device), changes, watch)

    def _scored(self, run: Run) -> xr.Dataset:
        """Scores of all images, batch by batch; taps that do not run are as they were."""
        images = len(self.labels)
        cosine = self.plain_cosine.copy()
        correct, probability = np.full(images, np.nan), np.full(images, np.nan)
        for rows in self._batches():

            def watch(block: int, state: Tensor, rows: slice = rows) -> None:
                cosine[block + 1, rows] = self._cosine(state)

            logits = run(rows, watch)
            if self.body.classes is not None:
                right, sure = _scores(logits, self.labels[rows].to(logits.device))
                correct[rows], probability[rows] = right, sure
        found = xr.Dataset({"centered_cosine": (("tap", "image"), cosine.astype(np.float32))})
        if self.body.classes is not None:
            found["correct"] = ("image", correct.astype(np.float32))
            found["probability"] = ("image", probability.astype(np.float32))
        return found

    def _batches(self) -> list[slice]:
        images = len(self.labels)
        return [
            slice(start, min(start + self.batch, images)) for start in range(0, images, self.batch)
        ]

    def _cosine(self, state: Tensor) -> np.ndarray:
        """(image,), of the patches of a state."""
        return centered_cosine(state[:, self.patches.to(state.device)].float()).cpu().numpy()

    def _joined(
        self, plain: xr.Dataset, positions: xr.Dataset, places: list[xr.Dataset]
    ) -> xr.Dataset:
        """All of it as one dataset, with its labels."""
        found = [plain, positions]
        if self.kinds:
            placed = xr.concat(places, "place")
            # what a block does is said of the tap that it writes, the one after its place
            of_block = placed["kind"].isin(OF_BLOCKS)
            placed = xr.where(of_block, placed.shift(place=1), placed)
            placed = placed.transpose("kind", "place", ...)
            found.append(placed.rename({name: f"{name}_by_place" for name in placed.data_vars}))
        whole = xr.merge(found)
        table, stored = self.passing.images.table, self.passing.stored
        depths = dict(zip(self.body.layers(), self.body.depths(), strict=True))
        whole = whole.assign_coords(
            place=self.taps,
            place_depth=("place", [depths[tap] for tap in self.taps]),
            tap=self.taps,
            label=("image", self.labels.numpy()),
            image_id=("image", table["image_id"].to_numpy()[stored].astype(str)),
        )
        shares = interventions.exit_compute(self.subject.network, self.body)
        whole["exit_compute"] = ("place", np.array([np.nan, *shares]))
        for name, reason in self.absent.items():
            mark_absent(whole, name, reason)
        return whole


def _scores(logits: Tensor, labels: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Whether each image is taken for its class, and the probability of that: (image,) each."""
    own = logits.double().softmax(dim=1).gather(1, labels[:, None])[:, 0]
    return (logits.argmax(dim=1) == labels).double().cpu().numpy(), own.cpu().numpy()


def _drawn(rows: Tensor, name: str, generator: torch.Generator) -> Tensor:
    """What takes the place of the positions of the patches, (patch, channel)."""
    if name == "mean_only":
        return rows.mean(dim=0, keepdim=True).expand_as(rows)
    if name == "shuffled_rows":
        return rows[torch.randperm(len(rows), generator=generator)]
    drawn = torch.randn(rows.shape, generator=generator)
    norms = [x.norm(dim=1, keepdim=True) for x in (rows, drawn)]
    return drawn * (norms[0] / norms[1])


def _absences(body: Anatomy) -> dict[str, str]:
    """The changes and scores that a model has not, and why."""
    found = {}
    if body.attention_absent is not None:
        found |= dict.fromkeys(OF_ATTENTION, body.attention_absent)
    if not len(interventions.cls_places(body)):
        found |= dict.fromkeys(OF_CLS, NO_CLS)
    if "position_embedding" not in body.parameters:
        found |= dict.fromkeys(("strength", "control"), NO_POSITIONS)
    if body.classes is None:
        found |= dict.fromkeys(("correct", "probability", EXIT), NO_CLASSIFIER)
    return found


def _flat(state: Tensor) -> Tensor:
    return state.flatten(1, 2) if state.ndim == 4 else state


def _along(dim: str, labels: Sequence[Any], parts: Sequence[xr.Dataset]) -> xr.Dataset:
    """Scores along a new dim, by which they are named but where that is a kind."""
    if not parts:
        return xr.Dataset()
    whole = xr.concat(list(parts), dim).assign_coords({dim: list(labels)})
    if dim == "kind":
        return whole
    return whole.rename({name: f"{name}_by_{dim}" for name in whole.data_vars})
