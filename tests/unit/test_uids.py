from pydicom.uid import UID

from node.core.uids import derive_uid, input_fingerprint, result_uids


def test_the_same_input_and_model_give_the_same_uids_and_another_gives_others() -> None:
    assert result_uids("input", "model") == result_uids("input", "model")
    uids = {
        uid
        for pair in (("input", "model"), ("input2", "model"), ("input", "model2"))
        for uid in (
            result_uids(*pair).series_instance_uid,
            result_uids(*pair).sop_instance_uid,
        )
    }
    assert len(uids) == 6


def test_a_derived_uid_is_a_valid_uid() -> None:
    for text in ("", "a", "ä" * 1000):
        assert UID(derive_uid(text)).is_valid


def test_parts_cannot_run_into_each_other() -> None:
    assert derive_uid("ab", "c") != derive_uid("a", "bc")


def test_the_order_of_arrival_does_not_change_the_input_but_one_byte_does() -> None:
    one = input_fingerprint([{"1": "aa", "2": "bb"}])
    assert one == input_fingerprint([{"2": "bb", "1": "aa"}])
    assert one != input_fingerprint([{"1": "aa", "2": "bc"}])
    assert one != input_fingerprint([{"1": "aa"}, {"2": "bb"}])
