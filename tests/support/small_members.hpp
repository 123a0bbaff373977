#pragma once
// An influence and a propagation that know their numbers in closed form, and what they are made to do.

#include <ATen/ATen.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <utility>

#include "idistill/influence/influence.hpp"
#include "idistill/propagation/propagation.hpp"
#include "small_pool.hpp"

namespace idistill::test {

/// What a run is made to do, and what it did. Shared by its ranks.
class Script {
public:
    int fail_exact_at = 0;    ///< the n-th unit of exact rows throws; 0: none
    int fail_predict_at = 0;  ///< the n-th unit of predictions
    std::string stop_before;  ///< a stage before which rank stop_rank throws; -1: all ranks
    int stop_rank = 0;
    std::vector<double> task_r2{0.5};  ///< of every fit, one after the other; the last stays

    std::vector<std::int64_t> exact_rows, predicted_rows;  ///< computed
    std::map<std::string, std::vector<data::WorkUnit>> units;
    std::vector<std::int64_t> landmarks, refined;

    void exact(const std::vector<std::int64_t>& rows) { note(exact_calls_, fail_exact_at, exact_rows, rows); }
    void predict(const std::vector<std::int64_t>& rows) { note(predict_calls_, fail_predict_at, predicted_rows, rows); }
    void stage(const comm::Communicator& comm, const std::string& name) const {
        if (name == stop_before && (stop_rank < 0 || comm.rank() == stop_rank)) throw std::domain_error(name);
    }

private:
    void note(std::atomic<int>& calls, int fail_at, std::vector<std::int64_t>& all,
              const std::vector<std::int64_t>& rows) {
        if (++calls == fail_at) throw std::domain_error("unit " + std::to_string(fail_at));
        const std::scoped_lock lock(mutex_);
        all.insert(all.end(), rows.begin(), rows.end());
    }

    std::atomic<int> exact_calls_ = 0, predict_calls_ = 0;
    std::mutex mutex_;
};

inline torch::Tensor numbers(std::int64_t rows, std::int64_t width) {
    return at::full({rows, width}, unknown, at::TensorOptions().dtype(torch::kFloat32));
}
inline float& at_place(torch::Tensor& all, std::int64_t row, std::int64_t column) {
    return all.mutable_data_ptr<float>()[row * all.size(1) + column];
}
inline float value_at(const torch::Tensor& all, std::int64_t row, std::int64_t column) {
    return all.const_data_ptr<float>()[row * all.size(1) + column];
}

/// influence_of, with size_of and spread_of fitted as logarithms and extra_of as it is. Its own stage says which
/// targets it drops.
class KnownInfluence final : public influence::Influence {
public:
    explicit KnownInfluence(Script& script) : script_(script) {}

    void plan(model::Planner& planner, const influence::Wanted& /*wanted*/) override {
        const auto targets = std::ssize(planner.usable.target_rows);
        layout_ = {.columns = targets,
                   .extras = {{.dataset = size_dataset, .width = 1, .logarithmic = true},
                              {.dataset = extra_dataset, .width = extra_width, .logarithmic = false},
                              {.dataset = spread_dataset, .width = spread_width, .logarithmic = true}}};
        const std::vector<double> flops(static_cast<std::size_t>(targets), 1.0);
        planner.plan.stages.push_back({.name = "targets",
                                       .title = "look at targets",
                                       .columns = {{"usable", 1}},
                                       .units = data::cut_units(flops, 2.0, plan::unit_rows)});
    }
    [[nodiscard]] const influence::Layout& layout() const override { return layout_; }
    [[nodiscard]] double flops(const data::CorpusIndex& pool, std::int64_t row) const override {
        return static_cast<double>(pool.tokens[static_cast<std::size_t>(row)]);
    }
    [[nodiscard]] plan::PassBytes pass_bytes(const plan::Batch& largest) const override {
        return {4.0 * static_cast<double>(largest.tokens), 0.0};
    }
    [[nodiscard]] double unit_bytes(const plan::Batch& largest) const override {
        return 4.0 * static_cast<double>(largest.rows);
    }

    void load(comm::Communicator& /*comm*/, const model::Decoder& /*decoder*/, const data::Corpus& /*pool*/,
              const data::Corpus& /*targets*/) override {}
    void identify(nlohmann::json& identity) const override { identity["known influence"] = 1; }

    std::unique_ptr<influence::Columns> columns(const work::Work& work, const data::Corpus& pool,
                                                const data::Corpus& /*targets*/) override {
        const auto usable =
            work::do_units_and_gather(work, "targets",
                                      [](const data::WorkUnit& unit) {
                                          auto marks = numbers(unit.rows.count, 1);
                                          for (auto place = unit.rows.first; place < unit.rows.end(); ++place)
                                              if (place != dropped_target)
                                                  at_place(marks, place - unit.rows.first, 0) = 1.0F;
                                          return std::vector{marks};
                                      },
                                      {0, layout_.columns});
        auto columns = std::make_unique<influence::Columns>();
        for (std::int64_t place = 0; place < layout_.columns; ++place) {
            const bool kept = !std::isnan(value_at(usable[0], place, 0));
            (kept ? columns->kept : columns->dropped).push_back(place);
            if (kept) columns->task.push_back(place < 3 ? 0 : 1);
        }
        for (std::int64_t row = 0; row < pool.size(); ++row)
            if (is_unusable(row)) columns->unusable.push_back(row);
        return columns;
    }
    [[nodiscard]] influence::Rows rows(const data::SampleSet& set, const influence::Columns& columns) const override {
        const auto& samples = set.samples();
        std::vector<std::int64_t> rows;
        for (std::int64_t i = 0; i < samples.size(); ++i)
            rows.push_back(samples.tokens[static_cast<std::size_t>(samples.offsets[static_cast<std::size_t>(i)])]);
        script_.exact(rows);
        influence::Rows values{numbers(std::ssize(rows), 1 + spread_width),
                               numbers(std::ssize(rows), columns.count() + extra_width)};
        for (std::int64_t i = 0; i < std::ssize(rows); ++i) {
            const auto row = rows[static_cast<std::size_t>(i)];
            at_place(values.logarithmic, i, 0) = size_of(row);
            for (std::int64_t c = 0; c < spread_width; ++c) at_place(values.logarithmic, i, 1 + c) = spread_of(row, c);
            for (std::int64_t c = 0; c < columns.count(); ++c)
                at_place(values.products, i, c) = influence_of(row, columns.kept[static_cast<std::size_t>(c)]);
            for (std::int64_t c = 0; c < extra_width; ++c)
                at_place(values.products, i, columns.count() + c) = extra_of(row, c);
            if (is_not_finite(row)) at_place(values.products, i, 1) = unknown;
        }
        return values;
    }

    [[nodiscard]] influence::CurvatureTerms curvature(const influence::Columns& columns,
                                                      bool of_extras) const override {
        if (of_extras) return {std::vector<double>(extra_width, 1.0), {}, extra_dataset};
        return {std::vector<double>(static_cast<std::size_t>(columns.count()), 1.0), {}, {}};
    }
    [[nodiscard]] influence::CurvatureTerms stored_curvature(const io::ResultReader& /*result*/,
                                                             bool /*of_extras*/) const override {
        throw std::logic_error("`select` asks the program's own influence");
    }
    void write(io::ResultWriter& writer, const influence::Columns& columns) const override {
        writer.small<std::int64_t>("/column/target", columns.kept);
        writer.small<double>("/curvature/value", std::vector<double>(extra_width, 2.0));
    }

private:
    Script& script_;
    influence::Layout layout_;
};

/// The numbers of the nearest landmark in token count; of equally near ones, of the lowest row.
class NearestLandmark final : public propagation::Propagation {
public:
    explicit NearestLandmark(Script& script) : script_(script) {}

    void plan(model::Planner& planner, const influence::Layout& /*layout*/,
              const std::vector<std::int64_t>& counts) override {
        planner.plan.needs.push_back({.what = "landmarks", .per_rank = 4.0 * static_cast<double>(counts.back())});
    }
    [[nodiscard]] std::int64_t width() const override { return 2; }
    [[nodiscard]] double feature_flops(std::int64_t /*tokens*/, std::int64_t /*labels*/) const override { return 1.0; }
    [[nodiscard]] double prediction_flops(std::int64_t /*tokens*/, std::int64_t /*labels*/) const override {
        return 7.0;
    }
    [[nodiscard]] plan::PassBytes pass_bytes(const plan::Batch& largest) const override {
        return {4.0 * static_cast<double>(largest.tokens), 0.0};
    }
    [[nodiscard]] double unit_bytes(const plan::Batch& largest) const override {
        return 8.0 * static_cast<double>(largest.rows);
    }
    void load(comm::Communicator& /*comm*/, const model::Decoder& /*decoder*/, const data::Corpus& /*pool*/,
              const data::Corpus& /*targets*/, const plan::UsableRows& /*usable*/) override {}
    void identify(nlohmann::json& identity) const override { identity["nearest landmark"] = 1; }

    [[nodiscard]] torch::Tensor features(const data::SampleSet& landmarks) const override {
        auto features = numbers(std::ssize(landmarks.rows()), width());
        for (std::int64_t i = 0; i < features.size(0); ++i) {
            const auto row = landmarks.rows()[static_cast<std::size_t>(i)];
            at_place(features, i, 0) = static_cast<float>(tokens_in(landmarks.corpus(), row));
            at_place(features, i, 1) = static_cast<float>(row);
        }
        return features;
    }
    void fit(const work::Work& work, const data::Corpus& /*pool*/, const propagation::Landmarks& landmarks,
             const propagation::Tasks& tasks) override {
        work.comm.barrier();
        labels_ = landmarks.labels;
        features_ = landmarks.features;
        const auto columns = std::ssize(tasks.of_column);
        leave_one_out_ = labels_.products.narrow(1, 0, columns) + 1.0;
        used_.clear();
        for (std::int64_t i = 0; i < landmarks.count(); ++i)
            if (labels_.products.select(0, i).isfinite().all().item<bool>()) used_.push_back(i);
        const auto turn = std::min(fits_++, script_.task_r2.size() - 1);
        const std::vector<double> of_task(tasks.names.size(), script_.task_r2[turn]);
        trust_ = {.column_r2 = std::vector<double>(static_cast<std::size_t>(columns), of_task[0]),
                  .task_r2 = of_task,
                  .task_r2_within_source = of_task,
                  .task_spearman = of_task,
                  .task_r2_source_only = of_task,
                  .task_spearman_source_only = of_task,
                  .task_label_variance = of_task,
                  .task_label_noise = of_task};
    }
    [[nodiscard]] propagation::Prediction predict(const data::SampleSet& set) const override {
        script_.predict(set.rows());
        std::vector<std::int64_t> nearest;
        for (const auto row : set.rows()) {
            const auto tokens = static_cast<float>(tokens_in(set.corpus(), row));
            nearest.push_back(*std::min_element(used_.begin(), used_.end(), [&](auto a, auto b) {
                return std::pair(std::abs(value_at(features_, a, 0) - tokens), value_at(features_, a, 1)) <
                       std::pair(std::abs(value_at(features_, b, 0) - tokens), value_at(features_, b, 1));
            }));
        }
        const auto places = at::tensor(nearest, at::TensorOptions().dtype(torch::kInt64));
        return {{labels_.logarithmic.index_select(0, places), labels_.products.index_select(0, places)}, {}};
    }

    [[nodiscard]] std::string judged_by() const override { return "the nearest"; }
    [[nodiscard]] const propagation::Trust& trust() const override { return trust_; }
    [[nodiscard]] const torch::Tensor& leave_one_out() const override { return leave_one_out_; }
    [[nodiscard]] std::string report(const propagation::Tasks& /*tasks*/) const override { return "nearest landmark"; }
    void write(io::ResultWriter& writer) const override { writer.attribute("landmarks_used", std::ssize(used_)); }

private:
    static std::int64_t tokens_in(const data::Corpus& corpus, std::int64_t row) {
        return corpus.index().tokens[static_cast<std::size_t>(row)];
    }

    Script& script_;
    influence::Rows labels_;
    torch::Tensor features_, leave_one_out_;
    std::vector<std::int64_t> used_;  ///< places of landmarks that are finite
    propagation::Trust trust_;
    std::size_t fits_ = 0;
};

}  // namespace idistill::test
