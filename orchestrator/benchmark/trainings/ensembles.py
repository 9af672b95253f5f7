"""Ensembles of a study: which trainings predict together, and on which cases that none of them was trained on."""

from collections import Counter
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from orchestrator.benchmark.definition import PAIR, VALIDATION, Case, Choice, EvaluationSet, Model, Training
from orchestrator.benchmark.trainings.selection import select
from orchestrator.configuration import expect_known, listing
from orchestrator.errors import ConfigError

FOLD, MODEL, GROUP = "fold", "model", "group"
"""What members may differ in, beside facets."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ensemble:
    """Trainings that predict together, as a study file names them."""

    name: str
    """Unique among ensembles and models."""
    members: tuple[str, ...]
    """Patterns of names and facets."""
    over: tuple[str, ...] = (MODEL,)
    """What the members of one ensemble differ in; whatever else is different makes another ensemble."""
    choose: Choice | None = None
    """How some of the members are chosen; all unless given."""
    by: str = "dsc"
    """`dsc` or `nsd` of validation cases, by which they are."""
    facets: Mapping[str, str | int] = field(default_factory=dict)
    """Beside those that all members have."""


def ensemble_trainings(
    spec: Ensemble, trainings: Sequence[Training], *, image_of: Callable[[Case], Hashable], where: str
) -> list[Training]:
    """Return the ensembles that are meant, each as a training with members.

    Parameters
    ----------
    spec
        As the study file has it.
    trainings
        Of the study, none of them an ensemble.
    image_of
        Equal for cases of one image.
    where
        Place in the study file, for errors.

    Raises
    ------
    ConfigError
        If nothing is meant, if what is meant cannot be averaged, or if a case would be tested that one of the members
        was trained on, or on whose image it is chosen.
    """
    meant = select(trainings, only=spec.members, asked=f"{where}.members:", of="the study")
    facets = sorted({name for training in meant for name in training.facets})
    expect_known(spec.over, dict.fromkeys((FOLD, MODEL, GROUP, *facets)), where=f"{where}.over", what="facet")
    together: dict[object, list[Training]] = {}
    for training in meant:
        together.setdefault(_key(training, spec.over), []).append(training)
    several = [members for members in together.values() if len(members) > 1]
    if not several:
        raise ConfigError(
            f"{where}: no two of {len(meant)} trainings differ in {' and '.join(spec.over)} alone; expected some that "
            "can be averaged"
        )
    found = [_ensemble(spec, members, where=where) for members in several]
    for one in found:
        if spec.choose is not None:
            _check_choice(one, image_of=image_of, where=where)
    num_folds = Counter(one.group for one in found)
    return [replace(one, num_folds=num_folds[one.group]) for one in found]


def _key(training: Training, over: Sequence[str]) -> object:
    """Return what members of one ensemble have in common."""
    facets = tuple(sorted((name, str(value)) for name, value in training.facets.items() if name not in over))
    # Groups differ in what they are trained on: only who names a facet, or them, means several.
    group = training.base_group if set(over) <= {FOLD, MODEL} else ""
    return group, None if FOLD in over else training.fold, facets


def _ensemble(spec: Ensemble, members: Sequence[Training], *, where: str) -> Training:
    first, *others = members
    if other := next((one for one in others if one.label_set != first.label_set), None):
        raise ConfigError(
            f"{where}: {first.id} learns {first.label_set} and {other.id} {other.label_set}; expected one label set, "
            "so that they can be averaged"
        )
    sets = _evaluation_sets(members, where=where)
    train = tuple(sorted({case for member in members for case in member.train}))
    val = next((one.cases for one in sets if one.name == VALIDATION), ())
    num_cases = len(train) + len(val) + sum(len(one.cases) for one in sets if one.name != VALIDATION)
    group, model = _named(spec, members)
    common = {name: first.facets[name] for name in first.facets if len({m.facets.get(name) for m in members}) == 1}
    return Training(
        group=group,
        fold=0 if FOLD in spec.over else first.fold,
        seed=first.seed if len({member.seed for member in members}) == 1 else None,
        num_folds=1,
        facets={**common, **spec.facets, MODEL: model.name},
        label_set=first.label_set,
        model=model,
        train=train,
        val=val,
        evaluation_sets=sets,
        plans_from=None,
        num_uncapped_cases=num_cases + any(member.is_capped for member in members),
        members=tuple(members),
        choose=spec.choose,
        chosen_by=spec.by if spec.choose is not None else "",
    )


def _named(spec: Ensemble, members: Sequence[Training]) -> tuple[str, Model]:
    """Return the group of an ensemble, and what stands for its model."""
    first, name, suffix = members[0], spec.name, f"-{spec.name}"
    if len({member.model.name for member in members}) == 1:
        # There may be one of each model.
        name, suffix = f"{first.model.name}{suffix}", f"{first.model.suffix}{suffix}"
    groups = {member.base_group for member in members}
    if len(groups) > 1:
        suffix = ""
    model = Model(
        name=name,
        configuration=" + ".join(dict.fromkeys(member.model.configuration for member in members)),
        suffix=suffix,
        note=_note(spec, members),
    )
    return f"{groups.pop()}{suffix}" if suffix else spec.name, model


def _note(spec: Ensemble, members: Sequence[Training]) -> str:
    if spec.choose is None:
        return f"the mean of the probabilities of {len(members)} trainings"
    number = len({member.group for member in members})
    which: dict[Choice, str] = {PAIR: f"of {number} models and their pairs", 1: f"of {number} models"}
    chosen = which.get(spec.choose, f"{spec.choose} of {number} models")
    return f"the best {chosen}, by the {spec.by.upper()} of validation cases: its own scores of these are too good"


def _evaluation_sets(members: Sequence[Training], *, where: str) -> tuple[EvaluationSet, ...]:
    """Return the evaluation sets that all members have, with the cases that all are tested on."""
    trained = {case: member.id for member in members for case in member.train}
    found = []
    for one in members[0].evaluation_sets:
        own = [s for m in members for s in m.evaluation_sets if (s.name, s.label_set) == (one.name, one.label_set)]
        if len(own) < len(members):
            continue
        # In a cross-validation, what validates one fold trains the others.
        if one.name != VALIDATION:
            _check_unseen(
                {case for s in own for case in s.cases}, trained, where=f"{where}: {one.name} of {members[0].id}"
            )
        common = set.intersection(*(set(s.cases) for s in own)) - set(trained)
        if common:
            found.append(replace(one, cases=tuple(sorted(common))))
    if not found:
        raise ConfigError(
            f"{where}: there is no case on which all of {', '.join(member.id for member in members)} are tested and "
            "none was trained; expected an evaluation set that they have in common"
        )
    return tuple(found)


def _check_unseen(tested: Collection[Case], trained: Mapping[Case, str], *, where: str) -> None:
    if seen := sorted(case for case in tested if case in trained):
        named = listing([f"{case.id} (of {trained[case]})" for case in seen])
        raise ConfigError(
            f"{where}: tests {named}, which a member of the ensemble was trained on; expected cases that none "
            "of them has seen"
        )


def _check_choice(ensemble: Training, *, image_of: Callable[[Case], Hashable], where: str) -> None:
    """Raise ConfigError if there is nothing to choose, or nothing to choose by."""
    models = ensemble.candidates
    if len({tuple(one.fold for one in folds) for folds in models.values()}) > 1:
        raise ConfigError(f"{where}: {', '.join(models)} have different folds; expected the same, to be compared")
    least = 2 if ensemble.choose == PAIR else 1 + int(ensemble.choose or 0)
    if len(models) < least:
        raise ConfigError(
            f"{where}: chooses {ensemble.choose} of {len(models)} groups, {', '.join(models)}; expected at least "
            f"{least}"
        )
    for folds in zip(*models.values(), strict=True):
        if not common_validation(folds):
            raise ConfigError(
                f"{where}: {', '.join(one.id for one in folds)} have no validation case in common; expected some to "
                "choose by"
            )
    by = {case for folds in zip(*models.values(), strict=True) for case in common_validation(folds)}
    tested = {image_of(case) for one in ensemble.evaluation_sets if one.name != VALIDATION for case in one.cases}
    if both := sorted(case for case in by if image_of(case) in tested):
        raise ConfigError(
            f"{where}: would be chosen by {len(both)} cases on which it is tested, such as {both[0].id}; expected "
            "validation cases that are in no other evaluation set"
        )


def common_validation(members: Sequence[Training]) -> tuple[Case, ...]:
    """Return the validation cases that trainings of one fold have in common, none of which trains one of them."""
    common = set.intersection(*(set(member.val) for member in members))
    return tuple(sorted(common.difference(*(member.train for member in members))))


def fitted_trainings(trainings: Sequence[Training]) -> list[Training]:
    """Return the trainings that are fitted for these: themselves, or the members of ensembles, each once."""
    return list({one.id: one for training in trainings for one in (training.members or (training,))}.values())
