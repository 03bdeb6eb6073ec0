import threading

from lightkeras.data.precompute import PrecomputedScope, RecordingScope, compute_ahead, is_active

TEXTS, LABELS = ["a bc"], [1]


def lengths(texts):
    return [len(text) for text in texts]


def test_outside_a_run_it_is_a_plain_call():
    assert not is_active()
    assert compute_ahead(lengths, TEXTS) == [4]


def test_recording_notes_each_function_and_array_once_and_computes_in_place():
    recording = RecordingScope([TEXTS, LABELS])
    with recording.entered():
        assert is_active()
        assert compute_ahead(lengths, TEXTS) == [4]
        compute_ahead(lengths, TEXTS)
    assert recording.found == [(lengths, 0)]
    assert not is_active()


def test_what_is_not_an_array_of_the_batch_is_not_noted():
    recording = RecordingScope([TEXTS, LABELS])
    with recording.entered():
        assert compute_ahead(lengths, ["a bc"]) == [4]  # equal, but another object
    assert recording.found == []


def test_what_was_computed_ahead_is_handed_out_and_the_rest_computed_in_place():
    with PrecomputedScope([TEXTS, LABELS], [(lengths, 0)], ["from the pipeline"]).entered():
        assert compute_ahead(lengths, TEXTS) == "from the pipeline"
        assert compute_ahead(lengths, ["abc"]) == [3]
        assert compute_ahead(sorted, TEXTS) == ["a bc"]


def test_a_scope_ends_with_an_error_and_is_unseen_by_other_threads():
    seen = []
    try:
        with RecordingScope([]).entered():
            thread = threading.Thread(target=lambda: seen.append(is_active()))
            thread.start()
            thread.join()
            raise KeyError
    except KeyError:
        pass
    assert seen == [False]
    assert not is_active()
