// Stage 3, landmarks: exact influence in units claimed by any rank.

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "idistill/comm/say.hpp"
#include "idistill/propagation/settings.hpp"
#include "pool_rows.hpp"

namespace idistill::stages {

using torch::Tensor;

void label_more_landmarks(const Run& run, Labels& labels) {
    const auto& exact = run.inputs.exact;
    const auto& layout = run.inputs.influence->layout();
    auto& landmarks = labels.landmarks;
    const auto first = landmarks.count();
    const auto end = *std::upper_bound(exact.landmark_counts.begin(), exact.landmark_counts.end(), first);
    const data::RowRange added{first, end - first};
    auto gathered = work::do_units_and_gather(  // by NCCL where ranks have GPUs
        run.work, state::landmarks,
        [&](const data::WorkUnit& unit) {
            const data::SampleSet set(run.inputs.pool, exact.landmarks_in(unit.rows));
            auto columns = exact_unit(run, unit.rows.count, set);
            columns.push_back(run.inputs.propagation->features(set));
            return columns;
        },
        added, added, model::place_of(run.command.run()).device);
    for (auto& column : gathered) column = column.cpu();
    const auto append = [first](Tensor& all, const Tensor& more) { all = first > 0 ? at::cat({all, more}) : more; };
    const auto products = run.columns.count() + layout.products() - layout.columns;
    const std::size_t influence = layout.logarithms() > 0 ? 1 : 0;
    if (influence == 1) append(landmarks.labels.logarithmic, gathered[0]);
    append(landmarks.labels.products, gathered[influence].narrow(1, 0, products).contiguous());
    append(landmarks.features, gathered[influence + 1]);
    for (auto i = first; i < end; ++i) {
        const auto row = exact.landmarks[static_cast<std::size_t>(i)];
        landmarks.rows.push_back(row);
        landmarks.flops.push_back(run.inputs.influence->flops(run.inputs.pool.index(), row));
        landmarks.place[row] = i;
    }
}

bool landmarks_worth_adding(const Run& run, Labels& labels) {
    const auto& settings = run.command.values.of<propagation::PropagationSettings>();
    const auto& trust = run.inputs.propagation->trust();
    auto& trials = labels.trials;
    const double before = trials.empty() ? -std::numeric_limits<double>::infinity() : trials.back().r2;
    trials.push_back({labels.landmarks.count(), propagation::mean_of_numbers(trust.task_r2),
                      propagation::mean_of_numbers(trust.task_r2_within_source),
                      propagation::mean_of_numbers(trust.task_spearman)});
    const auto& now = trials.back();
    const bool all = now.landmarks == run.inputs.exact.landmark_counts.back();
    // Without a figure on either side nothing is known to be gained too little.
    const bool gained = std::isnan(now.r2) || std::isnan(before) || now.r2 - before >= propagation::least_landmark_gain;
    const bool add = !all && gained;
    if (settings.landmarks_auto)
        say(run.work.comm,
            fmt::format("{} landmarks: R2 {:.3f}, in source {:.3f}, Spearman {:.3f} by {}; {}", now.landmarks, now.r2,
                        now.r2_within_source, now.spearman, run.inputs.propagation->judged_by(),
                        add   ? "doubled"
                        : all ? "as many as allowed"
                              : fmt::format("a doubling gained less than {}", propagation::least_landmark_gain)));
    return add;
}

}  // namespace idistill::stages
