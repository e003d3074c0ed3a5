"""What is remembered of addresses: the last, for a time, and of so many."""

from gateway.dialect_memory import DialectMemory


def test_the_last_dialect_of_an_address_is_remembered_for_its_time() -> None:
    memory = DialectMemory(kept_s=300)
    memory.remember("a", "g21", now=1000)
    memory.remember("a", "g30", now=1100)
    memory.remember("b", "g22", now=1200)
    assert (memory.recall("a", now=1399.9), memory.recall("a", now=1400)) == ("g30", "")
    assert (memory.recall("b", now=1400), memory.recall("c", now=1400)) == ("g22", "")


def test_asking_does_not_make_it_last_longer() -> None:
    memory = DialectMemory(kept_s=10)
    memory.remember("a", "g21", now=0)
    assert [memory.recall("a", now=now) for now in (5, 9, 10, 9)] == ["g21", "g21", "", ""]


def test_of_too_many_addresses_the_oldest_is_forgotten() -> None:
    memory = DialectMemory(kept_s=300, max_addresses=2)
    for now, address in enumerate("abac"):
        memory.remember(address, "g21", now=now)
    assert {address for address in "abc" if memory.recall(address, now=4)} == {"a", "c"}
    assert len(memory) == 2


def test_what_is_over_takes_no_room() -> None:
    memory = DialectMemory(kept_s=300)
    for address in range(100):
        memory.remember(str(address), "g21", now=0)
    memory.remember("new", "g21", now=300)
    assert len(memory) == 1


def test_nobody_is_remembered_without_an_address_or_a_time() -> None:
    memory, none = DialectMemory(kept_s=300), DialectMemory(kept_s=0)
    memory.remember("", "g21", now=0)
    none.remember("a", "g21", now=0)
    assert (memory.recall("", now=1), none.recall("a", now=0), len(memory), len(none)) == ("", "", 0, 0)
