from __future__ import annotations

from stillhouse.trainer.loop import Sums
from stillhouse.trainer.tasks import Watch


def step(number: int, **shares: float) -> dict:
    line: dict = {"step": number, "loss": 1.0}
    for name, share in shares.items():
        line |= {f"share/{name}": share, f"loss/{name}": 3.0 - 0.01 * number, f"epochs/{name}": 0.01 * number}
    return line


def held_out(**losses: float) -> dict:
    return {"validation": {"loss": 1.0, **{f"loss/{name}": value for name, value in losses.items()}}}


def all_of(watch: Watch, lines: list[dict]) -> list[str]:
    return [text for line in lines for text in watch.see(line)]


def test_a_task_that_starves_is_told_once_and_early():
    watch = Watch(("a", "b"))
    told = [(number, watch.see(step(number, a=0.97, b=0.03))) for number in range(1, 60)]
    said = [(number, text) for number, texts in told for text in texts]
    assert len(said) == 1 and said[0][0] == 20
    assert "task 'b' has 3.00% of what counts" in said[0][1]


def test_a_task_of_a_tenth_of_an_equal_share_does_not_starve():
    assert not all_of(Watch(("a", "b")), [step(number, a=0.94, b=0.06) for number in range(1, 40)])


def test_readings_beyond_the_fourth_are_told():
    said = all_of(Watch(("a",)), [step(number, a=1.0) for number in range(1, 450)])
    assert len(said) == 1 and "more than the 4th time" in said[0]


def test_a_task_that_overfits_is_told_and_one_that_only_wavers_is_not():
    def lines(*losses: float) -> list[dict]:
        found: list[dict] = []
        for number, loss in enumerate(losses):
            found += [step(10 * number + i, a=1.0) for i in range(1, 4)]
            found.append(held_out(a=loss))
        return found

    said = all_of(Watch(("a",)), lines(2.0, 1.5, 1.55, 1.7))
    assert len(said) == 1 and "over-fits" in said[0] and "1.500 to 1.700" in said[0]
    assert not all_of(Watch(("a",)), lines(2.0, 1.5, 1.51, 1.49, 1.5, 1.515))
    assert not all_of(Watch(("a",)), lines(2.0, 1.5, 1.9, 1.4))


def test_a_task_that_is_forgotten_is_told():
    said = all_of(Watch(("a", "b")), [held_out(a=2.0, b=2.0), held_out(a=1.0, b=2.01), held_out(a=0.9, b=2.1)])
    assert len(said) == 1 and "task 'b' is being forgotten" in said[0]


def test_what_was_told_before_an_interruption_is_not_told_again():
    lines = [step(number, a=0.99, b=0.01) for number in range(1, 50)]
    whole, again = Watch(("a", "b")), Watch(("a", "b"))
    told = [text for line in lines for text in whole.see(line)]
    for line in lines[:30]:
        again.see(line)
    assert told and not all_of(again, lines[30:])


def test_lines_that_are_something_else_are_passed_over():
    assert not all_of(Watch(("a",)), [{"step": 3, "warning": "x"}, {}, {"validation": {"loss": 2.0}}])


def test_means_of_tasks_are_per_unit_of_their_own_weight():
    parts = {"kl": 12.0, "loss/a": 6.0, "weight/a": 3.0, "loss/b": 0.0, "weight/b": 0.0}
    found = Sums(loss=4.0, parts=parts, weight=4.0).means()
    assert found == {"kl": 3.0, "loss/a": 2.0, "share/a": 0.75, "share/b": 0.0, "loss": 4.0}
