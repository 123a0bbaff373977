#pragma once
// A run whose needs are known by hand.

#include <algorithm>
#include <functional>

#include "idistill/model/cost.hpp"
#include "stages_support.hpp"

namespace stages_test {

inline const MachineFacts plenty{1e15, 1e15, 1e15};
inline const char* const activations = "activations of a micro-batch";
inline const char* const unit = "rows of a unit";
inline const char* const influences = "influences, for the weights";

/// A run whose needs are known by hand: 1000 samples, three targets of two tasks, 100 landmarks.
struct Case {
    Values values = small_values();
    data::CorpusIndex pool = corpus(std::vector<Sample>(1000, {20, 5}));
    data::CorpusIndex targets = default_targets;

    Case() { values.of<PropagationSettings>().landmarks = 100; }
    explicit Case(const std::function<void(Values&)>& change) : Case() { change(values); }
    [[nodiscard]] RunPlan run() const { return plan_of(values, pool, targets); }
};

inline plan::Plan plan_with(const std::function<void(Values&)>& change) { return Case(change).run().plan; }

/// Of the solve, which rank 0 does alone.
inline double solve_bytes(const plan::Plan& plan) {
    double sum = 0.0;
    for (const auto& need : plan.needs) sum += need.on_rank_0;
    return sum;
}

/// Of a gradient pass down to the first block, whose largest layer is 4 x 6.
inline double exact_pass(const plan::Batch& batch, std::int64_t length = 4) {
    // Two count sketches and two spectra of a sample's rows, and the samples' sums.
    const auto sketching = length * (4 * std::min<std::int64_t>(batch.longest, 256) + batch.samples);
    return model::gradient_activation_bytes(small_model(), 0, batch, batch.labels) +
           4.0 * static_cast<double>(std::max<std::int64_t>(24, sketching));
}

/// A micro-batch of at most 2048 tokens of equal samples, up to their last label, all of them in one unit.
inline plan::Batch of_rows(std::int64_t rows) {
    const auto samples = std::min<std::int64_t>(rows, 107);  // 107 x 19 = 2033
    return {.rows = rows, .tokens = 19 * samples, .samples = samples, .labels = 5 * samples, .longest = 19};
}

inline double embedding_bytes(const plan::Plan& plan) {
    return bytes_per_rank(plan, "directions of the embedding") +
           bytes_per_rank(plan, "projection of the hidden states") + bytes_per_rank(plan, "sketch of the embedding");
}

/// Of the weights' influences, with one rank.
inline double selection_bytes(const plan::Plan& plan) {
    double sum = 0.0;
    for (const auto& need : plan.needs)
        if (need.what == influences) sum += need.per_rank + need.over_ranks;
    return sum;
}

/// Rows of the state's datasets, and checksums and marks of its units.
inline double kept_bytes(const plan::Plan& plan) {
    double sum = 0.0;
    for (const auto& stage : plan.stages) sum += stage.stored_bytes();
    return sum;
}

/// Rows of the result's datasets.
inline double result_bytes(const plan::Plan& plan) {
    double sum = 0.0;
    for (const auto& dataset : plan.result) sum += static_cast<double>(dataset.rows) * dataset.row_bytes;
    return sum;
}

/// What is in a file, with its own, its groups' and its datasets' overhead.
inline double in_a_file(double bytes, double groups, double datasets) {
    return bytes + 5300 + 1100 * groups + 340 * datasets;
}

}  // namespace stages_test
