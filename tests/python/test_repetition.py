import numpy as np
from idistill import repetition

WEIGHTS = np.array([3.7, 0.05, 1.0, 0.6, 0.45, 0.2])


def test_every_count_is_its_weight_rounded_down_or_up_and_all_make_the_selection_s_size():
    for seed in range(200):
        counts = repetition.counts(WEIGHTS, seed)
        assert counts.sum() == 6
        assert (np.floor(WEIGHTS) <= counts).all() and (counts <= np.ceil(WEIGHTS)).all()
    assert (repetition.counts(WEIGHTS, 5) == repetition.counts(WEIGHTS, 5)).all()


def test_counts_are_the_weights_in_expectation():
    mean = np.mean([repetition.counts(WEIGHTS, seed) for seed in range(4000)], axis=0)
    assert np.abs(mean - WEIGHTS).max() < 4 * 0.5 / 4000**0.5  # a count has a standard deviation of at most 1/2


def test_equal_weights_and_one_sample():
    assert repetition.counts([1.0] * 1000, 1).tolist() == [1] * 1000
    assert repetition.counts([1.0], 1).tolist() == [1]
    assert repetition.counts([2.0, 2.0], 1).tolist() == [1, 1]  # of another mean
