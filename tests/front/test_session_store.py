"""The store: bounds, age, owners."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from radixmill.front.session.store import Store


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def make(**limits):
    clock = Clock()
    return Store(**{"entries": 3, "size": 100, "seconds": 10.0, **limits}, clock=clock), clock


def test_what_is_put_is_found_by_its_owner_alone():
    store, _ = make()
    assert store.put("ann", "1", "a", 5)
    assert store.get("ann", "1") == "a" and store.get("bob", "1") is None and store.get("", "1") is None
    assert store.of("bob") == [] and store.drop("bob", "1") is None
    assert store.drop("ann", "1") == "a" and store.get("ann", "1") is None and store.used == 0


def test_the_oldest_go_when_there_are_too_many():
    store, _ = make()
    for i in range(5):
        store.put("", str(i), i, 1)
    assert store.of("") == [2, 3, 4] and len(store) == 3


def test_the_oldest_go_when_they_are_too_large():
    store, _ = make()
    store.put("", "a", "a", 40)
    store.put("", "b", "b", 40)
    store.put("", "c", "c", 30)
    assert store.of("") == ["b", "c"] and store.used == 70
    store.put("", "b", "bb", 100)  # it grew: the newer goes, for this one stays
    assert store.of("") == ["bb"] and store.used == 100


def test_one_that_is_too_large_is_not_kept_and_costs_no_other_its_place():
    store, _ = make()
    store.put("", "a", "a", 40)
    assert not store.put("", "b", "b", 101)
    assert store.of("") == ["a"]
    assert not make(entries=0)[0].put("", "a", "a", 1)


def test_age_counts_from_the_first_time():
    store, clock = make()
    store.put("", "a", 1, 1)
    clock.now = 6.0
    store.put("", "b", 2, 1)
    store.put("", "a", 3, 1)
    clock.now = 9.99
    assert store.get("", "a") == 3
    clock.now = 10.0
    assert store.get("", "a") is None and store.of("") == [2] and store.used == 1


@given(
    st.lists(
        st.tuples(
            st.sampled_from("pgdo"), st.sampled_from("ab"), st.integers(0, 5), st.integers(0, 60), st.integers(0, 4)
        )
    )
)
def test_bounds_hold_whatever_happens(orders):
    store, clock = make()
    for verb, owner, id, size, wait in orders:
        clock.now += wait
        match verb:
            case "p":
                assert store.put(owner, str(id), (owner, id), size) and store.get(owner, str(id)) == (owner, id)
            case "g":
                assert store.get(owner, str(id)) in (None, (owner, id))
            case "d":
                store.drop(owner, str(id))
            case "o":
                assert all(whose == owner for whose, _ in store.of(owner))
        assert len(store) <= 3 and 0 <= store.used <= 100
    clock.now += 10
    assert not store.of("a") and not store.of("b") and (store.used, len(store)) == (0, 0)


def test_a_flood_drives_out_only_its_own():
    store, _ = make(entries=10)
    for i in range(3):
        store.put("ann", str(i), i, 1)
    for i in range(100):
        store.put("bob", str(i), i, 1)
    assert store.of("ann") == [0, 1, 2] and store.of("bob") == [*range(93, 100)]
    store, _ = make(entries=50)
    store.put("ann", "a", "a", 40)
    for i in range(50):
        store.put("bob", str(i), i, 10)
    assert store.of("ann") == ["a"] and store.of("bob") == [*range(44, 50)] and store.used == 100


def test_what_is_being_made_stays():
    store, clock = make(entries=2)
    store.put("", "run", "begun", 1, live=True)
    for i in range(5):
        store.put("", str(i), i, 1)
    clock.now = 100.0
    assert store.get("", "run") == "begun" and len(store) == 1
    store.put("", "run", "done", 1)
    store.put("", "x", "x", 1)
    assert store.of("") == ["x"], "it is as old as it was"
