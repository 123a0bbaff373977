#pragma once
// Runs on a small folder: token files whose samples say which row they are, and an influence and a propagation that
// know their numbers in closed form. Ranks may be threads.

#include <ATen/ATen.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "idistill/comm/thread_group.hpp"
#include "idistill/options/run_settings.hpp"
#include "idistill/propagation/settings.hpp"
#include "program_options.hpp"
#include "stages/run.hpp"
#include "stages/shared_inputs.hpp"
#include "token_files.hpp"

namespace idistill::test {

// --- what there is to know of the pool -------------------------------------------------------------------------------

inline constexpr float unknown = std::numeric_limits<float>::quiet_NaN();
inline constexpr std::int64_t small_vocabulary = 1000;
inline constexpr std::int64_t small_max_length = 24;
inline constexpr std::int64_t dropped_target = 1;  ///< place among the usable targets
inline constexpr std::int64_t extra_width = 2;
inline constexpr std::int64_t spread_width = 2;
inline constexpr const char* size_dataset = "/size";
inline constexpr const char* spread_dataset = "/spread";
inline constexpr const char* extra_dataset = "/curvature/factor";  ///< where `select` looks for it

inline bool is_empty(std::int64_t row) { return row % 29 == 8; }
inline bool has_no_labels(std::int64_t row) { return row == 13 || row % 17 == 5; }
inline std::int64_t tokens_of(std::int64_t row) { return is_empty(row) ? 0 : 2 + row * 7 % 23; }
inline bool is_quarantined(std::int64_t row) { return is_empty(row) || has_no_labels(row); }
/// Found out when columns are prepared; and only when its influence is computed.
inline bool is_unusable(std::int64_t row) { return row % 31 == 21; }
inline bool is_not_finite(std::int64_t row) { return is_unusable(row) || row % 9 == 4; }

inline float influence_of(std::int64_t row, std::int64_t target) {
    return static_cast<float>((row * 389 + target * 211 + 17) % 1021) / 64.0F;
}
inline float extra_of(std::int64_t row, std::int64_t column) {
    return static_cast<float>((row * 31 + column * 57) % 101) / 128.0F - 0.375F;
}
inline float size_of(std::int64_t row) { return static_cast<float>(1 + row % 7); }
inline float spread_of(std::int64_t row, std::int64_t column) {
    return static_cast<float>(1 + (row * 5 + column * 3) % 11) / 4.0F;
}

/// A pool of so many rows in two files, and the targets of two tasks: 3 and 2 samples, beside one without labels.
class SmallFolder {
public:
    explicit SmallFolder(std::int64_t rows) : rows_(rows) {
        const auto first = rows * 2 / 5;
        write_pool("pool_a.h5", 0, first);
        write_pool("pool_b.h5", first, rows);
        write_targets("code.h5", {0, 1, 1, 1});
        write_targets("maths.h5", {1, 1});
    }

    [[nodiscard]] std::int64_t rows() const { return rows_; }
    [[nodiscard]] std::string operator/(const std::string& name) const { return folder_ / name; }

private:
    void write_pool(const std::string& name, std::int64_t first, std::int64_t end) const {
        TokenContent content;
        content.max_length = small_max_length;
        for (auto row = first; row < end; ++row) {
            const auto count = static_cast<std::size_t>(tokens_of(row));
            std::vector<std::int32_t> tokens(count, 1);
            std::vector<std::uint8_t> mask(count, 0);
            if (count > 0) tokens.front() = static_cast<std::int32_t>(row);
            if (count > 0 && !has_no_labels(row)) mask.back() = 1;
            content.add("sample " + std::to_string(row), "source " + std::to_string(row % 3), tokens, mask);
        }
        write_token_file(*this / name, content);
    }
    void write_targets(const std::string& name, const std::vector<std::uint8_t>& labels) const {
        TokenContent content;
        for (std::size_t i = 0; i < labels.size(); ++i)
            content.add(name + std::to_string(i), "targets", {2, 3, 4}, {0, labels[i], labels[i]});
        write_token_file(*this / name, content);
    }

    TemporaryFolder folder_;
    std::int64_t rows_;
};

// --- members --------------------------------------------------------------------------------------------------------

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
    [[nodiscard]] double pass_bytes(const plan::Batch& largest) const override {
        return 4.0 * static_cast<double>(largest.tokens);
    }
    [[nodiscard]] double unit_bytes(const plan::Batch& largest) const override {
        return 4.0 * static_cast<double>(largest.rows);
    }

    void load(comm::Communicator& /*comm*/, const model::Decoder& /*decoder*/) override {}
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
    [[nodiscard]] influence::Rows rows(const data::Samples& samples, const influence::Columns& columns) const override {
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

    void plan(model::Planner& planner, const influence::Layout& /*layout*/, std::int64_t landmarks) override {
        planner.plan.needs.push_back({.what = "landmarks", .per_rank = 4.0 * static_cast<double>(landmarks)});
    }
    [[nodiscard]] std::int64_t width() const override { return 2; }
    [[nodiscard]] double feature_flops(std::int64_t /*tokens*/, std::int64_t /*labels*/) const override { return 1.0; }
    [[nodiscard]] double prediction_flops(std::int64_t /*tokens*/, std::int64_t /*labels*/) const override {
        return 7.0;
    }
    [[nodiscard]] double pass_bytes(const plan::Batch& largest) const override {
        return 4.0 * static_cast<double>(largest.tokens);
    }
    [[nodiscard]] double unit_bytes(const plan::Batch& largest) const override {
        return 8.0 * static_cast<double>(largest.rows);
    }
    void load(comm::Communicator& /*comm*/, const model::Decoder& /*decoder*/, const data::Corpus& /*pool*/,
              const plan::UsableRows& /*usable*/) override {}
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
    void fit(comm::Communicator& comm, const data::Corpus& /*pool*/, const propagation::Landmarks& landmarks,
             const propagation::Tasks& tasks) override {
        comm.barrier();
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
                  .task_spearman_source_only = of_task};
    }
    [[nodiscard]] influence::Rows predict(const data::SampleSet& set) const override {
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
        return {labels_.logarithmic.index_select(0, places), labels_.products.index_select(0, places)};
    }

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

// --- runs -----------------------------------------------------------------------------------------------------------

using Words = std::vector<std::string>;

inline Words joined(Words words, const Words& more) {
    words.insert(words.end(), more.begin(), more.end());
    return words;
}

inline options::Values parsed(const Words& words) {
    std::string text;
    return options::parse(program_options(), words, text, "1").value();
}

/// A run of the folder with these further options; units of this cost.
inline options::Values small_values(const SmallFolder& folder, const std::string& out, const Words& more,
                                    double unit_flops) {
    auto values = parsed(joined({"--model", "m", "--pool", folder / "pool_a.h5", folder / "pool_b.h5", "--target",
                                 "code=" + folder / "code.h5", "maths=" + folder / "maths.h5", "--out", out},
                                more));
    values.of<options::RunSettings>().unit_flops = unit_flops;
    return values;
}

inline model::ModelConfig small_model() {
    model::ModelConfig model;
    model.family = "llama";
    model.vocabulary = small_vocabulary;
    model.hidden = 4;
    model.intermediate = 6;
    model.blocks = 3;
    model.heads = 2;
    model.kv_heads = 1;
    model.head_dim = 2;
    model.max_positions = 64;
    return model;
}

/// As stages::read_inputs, without a model's files and with the members of this test. Collective.
inline stages::Inputs small_inputs(const stages::Command& command, comm::Communicator& comm, Script& script) {
    const auto& files = command.inputs();
    auto model = small_model();
    data::Corpus pool(files.pool, model.vocabulary);
    std::vector<std::string> target_files;
    std::vector<plan::TaskFile> tasks;
    for (const auto& target : files.targets) {
        target_files.push_back(target.path);
        tasks.push_back({target.name, target.path});
    }
    data::Corpus targets(target_files, model.vocabulary);
    pool.scan(comm);
    targets.scan(comm);
    const auto pool_shape = stages::shape_of(pool), target_shape = stages::shape_of(targets);
    stages::RunPlan run{plan::usable_rows(pool_shape, target_shape, tasks),
                        std::make_unique<KnownInfluence>(script),
                        nullptr,
                        selection::make_selector(command.values),
                        {},
                        {}};
    if (command.values.of<propagation::PropagationSettings>().member != "none")
        run.propagation = std::make_unique<NearestLandmark>(script);
    run.selector->check(stages::pool_facts(run, pool.index()));
    stages::plan_members(command.values, model, pool_shape, target_shape, run);
    stages::check_plans_agree(comm, run.plan.hash());
    return {std::move(model), std::move(pool), std::move(targets), std::move(run)};
}

/// As pipeline.cpp does the stages of a run. Collective.
inline void run_stages(const options::Values& values, comm::Communicator& comm, Script& script) {
    const stages::Command command{program_options(), values, "a test"};
    const auto inputs = small_inputs(command, comm, script);
    if (comm.is_root()) {
        script.landmarks = inputs.exact.landmarks;
        for (const auto& stage : inputs.plan.stages) script.units[stage.name] = stage.units;
    }
    const work::RunLock lock(comm, command.inputs().out);
    const model::LoadedModel model{nullptr, "of no weights", nullptr};
    const auto state = stages::open_state(command, comm, inputs, model);
    const work::Work work{comm, *state, inputs.plan};
    script.stage(comm, "targets");
    const auto columns = inputs.influence->columns(work, inputs.pool, inputs.targets);
    stages::Run run{command, inputs, model, work, *columns};
    std::optional<stages::Labels> labels;
    std::optional<stages::Refinement> refinement;
    if (!inputs.propagation) {
        script.stage(comm, "exact");
        stages::compute_pool_exactly(run);
    } else {
        labels.emplace();
        do {
            script.stage(comm, "landmarks");
            stages::label_more_landmarks(run, *labels);
            script.stage(comm, "solve");
            inputs.propagation->fit(comm, inputs.pool, labels->landmarks, stages::tasks_of(run));
        } while (stages::landmarks_worth_adding(run, *labels));
        script.stage(comm, "propagate");
        stages::propagate_to_pool(run, *labels);
    }
    if (stages::refines(inputs)) {
        script.stage(comm, "refine");
        refinement = stages::refine(run, *labels);
        run.refinement = &*refinement;
        if (comm.is_root()) script.refined = refinement->rows;
    }
    script.stage(comm, "select");
    const auto selection = stages::select(comm, *inputs.selector, stages::rated_pool(run));
    script.stage(comm, "report");
    const double gain = refinement ? stages::report_refinement(run, selection) : 0.0;
    script.stage(comm, "write");
    stages::write_result(run, {labels ? &*labels : nullptr, gain, selection, {{"select", 1.0 + comm.rank()}}});
    script.stage(comm, "remove");
    state->remove();
}

inline void run_on_threads(int ranks, const options::Values& values, Script& script) {
    comm::run_ranks_as_threads(
        ranks, [&](comm::Communicator& comm) { run_stages(values, comm, script); }, 20.0);
}

// --- what is in a file
// ------------------------------------------------------------------------------------------------

/// Bytes of every dataset by its name, and of every number among the attributes that is one of the result.
inline std::map<std::string, std::string> contents_of(const std::string& path) {
    std::map<std::string, std::string> all;
    const hid_t file = H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT);
    if (file < 0) throw std::runtime_error("no file " + path);
    const auto dataset = [](hid_t root, const char* name, const H5O_info_t* info, void* into) -> herr_t {
        if (info->type != H5O_TYPE_DATASET) return 0;
        const hid_t opened = H5Dopen2(root, name, H5P_DEFAULT);
        const hid_t type = H5Dget_type(opened), space = H5Dget_space(opened);
        std::string bytes(H5Tget_size(type) * static_cast<std::size_t>(H5Sget_simple_extent_npoints(space)), '\0');
        if (!bytes.empty()) H5Dread(opened, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, bytes.data());
        (*static_cast<std::map<std::string, std::string>*>(into))[std::string("/") + name] = bytes;
        H5Sclose(space);
        H5Tclose(type);
        H5Dclose(opened);
        return 0;
    };
    H5Ovisit1(file, H5_INDEX_NAME, H5_ITER_INC, dataset, &all);
    const auto attribute = [](hid_t root, const char* name, const H5A_info_t* /*info*/, void* into) -> herr_t {
        const std::string_view text(name);
        if (text == "ranks" || text == "units_recovered" || text.starts_with("seconds_")) return 0;
        const hid_t opened = H5Aopen(root, name, H5P_DEFAULT), type = H5Aget_type(opened);
        if (H5Tget_class(type) != H5T_STRING) {
            std::string bytes(H5Tget_size(type), '\0');
            H5Aread(opened, type, bytes.data());
            (*static_cast<std::map<std::string, std::string>*>(into))["attribute " + std::string(text)] = bytes;
        }
        H5Tclose(type);
        H5Aclose(opened);
        return 0;
    };
    H5Aiterate2(file, H5_INDEX_NAME, H5_ITER_INC, nullptr, attribute, &all);
    H5Fclose(file);
    return all;
}

/// Names of what is not the same in both.
inline std::string differing(const std::map<std::string, std::string>& a, const std::map<std::string, std::string>& b) {
    std::string names;
    for (const auto& [name, bytes] : a)
        if (const auto other = b.find(name); other == b.end() || other->second != bytes) names += name + " ";
    for (const auto& [name, bytes] : b)
        if (!a.contains(name)) names += name + " ";
    return names;
}

}  // namespace idistill::test
