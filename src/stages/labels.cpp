// Exact influence of samples by the gradient pass: stage 3 (landmarks), and stage 5 without propagation; units claimed
// by any rank.

#include "labels.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <limits>
#include <numeric>
#include <optional>

#include "idistill/influence/gradient.hpp"
#include "units.hpp"

namespace idistill::stages {
namespace {

using torch::Tensor;

std::vector<std::int64_t> slice(const std::vector<std::int64_t>& rows, const data::RowRange& range) {
    return {rows.begin() + range.first, rows.begin() + range.end()};
}

}  // namespace

bool cosine(const Run& run) { return run.settings.normalize == "cosine"; }

Tensor widen(const Tensor& influence, std::int64_t columns) {
    return at::constant_pad_nd(influence, {0, columns - influence.size(1)}, std::numeric_limits<float>::quiet_NaN());
}

ExactRows exact_rows(const Run& run, const TargetLabels& targets, const data::Samples& samples) {
    ExactRows rows;
    Tensor products;
    if (run.encoders.sketch) {
        const auto g = influence::gradient_sketches(run.model.decoder, run.model.chosen, *run.encoders.sketch, samples,
                                                    run.settings.batch_tokens, run.model.optimizer.preconditioner);
        rows.norm = g.norm;
        products = at::mm(g.features, targets.sketches.to(g.features.options()).t());
    } else {
        const auto g = influence::gradient_products(run.model.decoder, run.model.chosen, targets.directions, samples,
                                                    run.settings.batch_tokens, run.model.optimizer.preconditioner);
        rows.norm = g.norm;
        products = g.features;
    }
    // A gradient that is zero or not finite has no direction: its influence is NaN, which quarantines the sample.
    const auto usable = at::logical_and(at::isfinite(rows.norm), rows.norm.gt(0)).unsqueeze(1);
    rows.influence = at::where(usable, cosine(run) ? products / rows.norm.unsqueeze(1) : products,
                               at::full({}, std::numeric_limits<float>::quiet_NaN(), products.options()));
    return rows;
}

Tensor embed(const Run& run, const std::vector<std::int64_t>& rows, const std::vector<std::size_t>& embeddings) {
    std::optional<data::Samples> samples;
    std::vector<Tensor> parts;
    for (const auto place : embeddings) {
        const auto file = run.inputs.embedding_files.find(place);
        if (file != run.inputs.embedding_files.end()) {
            auto values = file->second.read(rows);
            parts.push_back(at::from_blob(values.data(), {std::ssize(rows), file->second.width()},
                                          at::TensorOptions().dtype(torch::kFloat32))
                                .clone());
            continue;
        }
        if (!samples) samples = run.inputs.pool.read(rows);
        parts.push_back((*run.encoders.embeddings[place])(*samples, run.settings.batch_tokens).cpu());
    }
    return at::cat(parts, 1);
}

void label_more_landmarks(const Run& run, const TargetLabels& targets, LandmarkLabels& landmarks) {
    const auto& plan = run.inputs.plan;
    const auto first = std::ssize(landmarks.rows);
    const auto end = *std::upper_bound(plan.landmark_counts.begin(), plan.landmark_counts.end(), first);
    std::vector<std::size_t> all(plan.embedding_widths.size());
    std::iota(all.begin(), all.end(), std::size_t{0});
    const auto compute = [&](const data::WorkUnit& unit) -> UnitColumns {
        const auto rows = slice(plan.landmarks, unit.rows);
        const auto exact = exact_rows(run, targets, run.inputs.pool.read(rows));
        return {exact.norm, widen(exact.influence, plan.stored_columns()), embed(run, rows, all)};
    };
    const data::RowRange added{first, end - first};
    const auto labels = do_units_and_gather(run,
                                            {landmark_rows, "landmarks", &plan.landmark_units,
                                             sample_work(run.inputs.pool, &plan.landmarks), compute, added},
                                            added, {1, plan.stored_columns(), plan.embedding_width});
    const auto append = [first](Tensor& all, const Tensor& more) { all = first > 0 ? at::cat({all, more}) : more; };
    append(landmarks.norm, labels[0].view({-1}));
    append(landmarks.influence, labels[1].narrow(1, 0, targets.columns()).contiguous());
    append(landmarks.factor, labels[1].narrow(1, targets.columns(), plan.curvature_columns).contiguous());
    append(landmarks.embedding, labels[2]);
    for (auto i = first; i < end; ++i) {
        landmarks.rows.push_back(plan.landmarks[static_cast<std::size_t>(i)]);
        landmarks.place[landmarks.rows.back()] = i;
    }
}

void compute_pool_exactly(const Run& run, const TargetLabels& targets) {
    const auto& plan = run.inputs.plan;
    const auto compute = [&](const data::WorkUnit& unit) -> UnitColumns {
        const auto rows = eligible_rows(plan, unit.rows);
        auto norm = at::full({unit.rows.count}, std::numeric_limits<float>::quiet_NaN());
        auto influence = at::full({unit.rows.count, plan.stored_columns()}, std::numeric_limits<float>::quiet_NaN());
        if (!rows.empty()) {
            const auto exact = exact_rows(run, targets, run.inputs.pool.read(rows));
            const auto place = at::tensor(rows, at::TensorOptions().dtype(torch::kInt64)) - unit.rows.first;
            norm.index_copy_(0, place, exact.norm.cpu());
            influence.index_copy_(0, place, widen(exact.influence, plan.stored_columns()).cpu());
        }
        return {norm, influence};
    };
    do_units(run, {pool_rows, "exact influence", &plan.pool_units, sample_work(run.inputs.pool), compute});
}

}  // namespace idistill::stages
