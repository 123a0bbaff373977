// The influence function DELIFT: the utility of a sample as the in-context example of a target, d(target) - d(target
// behind the sample) (NN-CIFT, arXiv 2502.09969, section 3).

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>

#include "idistill/base/error.hpp"
#include "idistill/comm/say.hpp"
#include "idistill/data/joints.hpp"
#include "idistill/influence/delift/distance.hpp"
#include "idistill/influence/members.hpp"
#include "idistill/io/result_datasets.hpp"
#include "idistill/options/option_kinds.hpp"
#include "idistill/options/run_settings.hpp"
#include "plan.hpp"

namespace idistill::influence {

Member delift_member();  // listed in members.cpp

namespace {

using torch::Tensor;

struct DeliftColumns final : Columns {
    data::Samples following;                 ///< of the targets that are left, what comes behind an example
    Tensor alone;                            ///< (targets that are left, fp64) their distance without one
    std::vector<float> distance;             ///< (C) the same, of a task the mean
    std::vector<std::int32_t> label_tokens;  ///< (C)
};

class Delift final : public Influence {
public:
    explicit Delift(const options::Values& values) : values_(values) {}

    [[nodiscard]] std::vector<plan::Quarantined> refused(const model::ModelConfig& config,
                                                         const data::CorpusIndex& index) const override {
        return rows_not_joined(values_.of<DeliftSettings>(), config, index);
    }
    void plan(model::Planner& planner, const Wanted& /*wanted*/) override {
        plan_ = plan_delift(values_, planner);
        cost_.emplace(planner.model);
        layout_.columns = plan_.columns();
        datasets().plan(planner.plan);
    }
    [[nodiscard]] const Layout& layout() const override { return layout_; }
    [[nodiscard]] double flops(const data::CorpusIndex& pool, std::int64_t row) const override {
        return utility_flops(plan_, *cost_, pool, row);
    }
    [[nodiscard]] plan::PassBytes pass_bytes(const plan::Batch& /*largest*/) const override { return plan_.pass_bytes; }
    [[nodiscard]] double unit_bytes(const plan::Batch& largest) const override {
        return model::fp32_bytes * static_cast<double>(2 * largest.rows * layout_.columns);
    }

    void load(comm::Communicator& /*comm*/, const model::Decoder& decoder, const data::Corpus& /*pool*/,
              const data::Corpus& /*targets*/) override {
        decoder_ = &decoder;
    }
    void identify(nlohmann::json& identity) const override { identity["joint sha256"] = plan_.joint_sha256; }

    std::unique_ptr<Columns> columns(const work::Work& work, const data::Corpus& /*pool*/,
                                     const data::Corpus& targets) override {
        const auto gathered = work::do_units_and_gather(
            work, delift_state::targets,
            [&](const data::WorkUnit& unit) -> std::vector<Tensor> {
                const auto first = plan_.target_rows.begin() + unit.rows.first;
                const auto samples = targets.read(std::vector(first, first + unit.rows.count));
                return {label_distances(*decoder_, nullptr, samples, batch_tokens()).to(torch::kFloat32).unsqueeze(1)};
            },
            {0, std::ssize(plan_.target_rows)});
        auto columns = std::make_unique<DeliftColumns>();
        keep_finite(work, gathered[0].view({-1}), *columns);
        std::vector<std::int64_t> rows;
        std::vector<std::int32_t> first;
        for (const auto place : columns->kept) {
            rows.push_back(plan_.target_rows[static_cast<std::size_t>(place)]);
            first.push_back(targets.index().joint.first[static_cast<std::size_t>(rows.back())]);
        }
        columns->following = from_token(targets.read(rows), first);
        check_labels(targets, rows, columns->following);
        describe(targets.index(), *columns);
        return columns;
    }

    [[nodiscard]] Rows rows(const data::SampleSet& samples, const Columns& prepared) const override {
        const auto& columns = static_cast<const DeliftColumns&>(prepared);
        const auto examples = samples.corpus().joints().examples(samples.rows(), samples.samples());
        const auto count = std::ssize(samples.rows());
        auto utilities = at::empty({count, columns.count()}, at::TensorOptions().dtype(torch::kFloat32));
        for (std::int64_t i = 0; i < count; ++i) {
            const auto prefix = model::read_prefix(*decoder_, examples.of(static_cast<std::size_t>(i)));
            const auto behind = label_distances(*decoder_, &prefix, columns.following, batch_tokens());
            utilities.select(0, i).copy_(by_column(columns.alone - behind, columns));
        }
        return {{}, utilities};
    }

    void write(io::ResultWriter& writer, const Columns& prepared) const override {
        datasets().write(writer, static_cast<const DeliftColumns&>(prepared));
        writer.attribute("utility",
                         std::string("distance of a target's label probabilities from 1, less the same behind "
                                     "the sample as an in-context example"));
    }

private:
    [[nodiscard]] io::ResultDatasets<DeliftColumns> datasets() const {
        io::ResultDatasets<DeliftColumns> made;
        made.numbers<std::int32_t>("/column/label_tokens", layout_.columns, &DeliftColumns::label_tokens);
        made.numbers<float>("/column/distance", layout_.columns, &DeliftColumns::distance);
        return made;
    }
    [[nodiscard]] std::int64_t batch_tokens() const { return values_.of<options::RunSettings>().batch_tokens; }

    /// Both distances are over the same labels.
    static void check_labels(const data::Corpus& targets, const std::vector<std::int64_t>& rows,
                             const data::Samples& following) {
        for (std::size_t i = 0; i < rows.size(); ++i) {
            const auto begin = following.label_mask.begin() + following.offsets[i];
            const auto labels = std::count(begin + 1, following.label_mask.begin() + following.offsets[i + 1], 1);
            const auto all = targets.index().labels[static_cast<std::size_t>(rows[i])];
            if (labels == all) continue;
            throw Error(ExitCode::bad_input, {"target " + targets.read_ids({rows[i], 1}).front(), "/joint/first",
                                              "all of its " + std::to_string(all) + " label tokens behind it",
                                              std::to_string(labels), "Write its file again with jobs/prepare.py."});
        }
    }

    void keep_finite(const work::Work& work, const Tensor& alone, DeliftColumns& columns) const {
        std::vector<std::int64_t> left(plan_.task_names.size(), 0);
        for (std::int64_t place = 0; place < alone.numel(); ++place) {
            const bool fits = std::isfinite(alone.const_data_ptr<float>()[place]);
            (fits ? columns.kept : columns.dropped).push_back(place);
            if (fits) ++left[static_cast<std::size_t>(plan_.target_task[static_cast<std::size_t>(place)])];
        }
        if (!columns.dropped.empty())
            say(work.comm, fmt::format("warning: {} target samples left out: the model's probabilities of their labels "
                                       "are not finite",
                                       columns.dropped.size()));
        for (std::size_t task = 0; task < left.size(); ++task)
            if (left[task] == 0)
                throw Error(ExitCode::bad_input,
                            {"target " + plan_.task_names[task], "probabilities", "a sample for which they are finite",
                             "none", "Check the model's weights, or leave this target out."});
        const auto kept = at::tensor(columns.kept, at::TensorOptions().dtype(torch::kInt64));
        columns.alone = alone.to(torch::kFloat64).index_select(0, kept);
    }

    /// Task, labels and distance of every column.
    void describe(const data::CorpusIndex& targets, DeliftColumns& columns) const {
        columns.label_tokens.assign(static_cast<std::size_t>(plan_.by_task ? layout_.columns : 0), 0);
        for (const auto place : columns.kept) {
            const auto i = static_cast<std::size_t>(place);
            const auto labels = targets.labels[static_cast<std::size_t>(plan_.target_rows[i])];
            if (plan_.by_task)
                columns.label_tokens[static_cast<std::size_t>(plan_.target_task[i])] += labels;
            else
                columns.label_tokens.push_back(labels);
            columns.task.push_back(plan_.target_task[i]);
        }
        if (plan_.by_task) {
            columns.task.resize(plan_.task_names.size());
            std::iota(columns.task.begin(), columns.task.end(), 0);
        }
        columns.distance = work::copied(by_column(columns.alone, columns).contiguous());
    }

    /// (C, fp32) of numbers (targets that are left, fp64): of a task the mean, added in the order of its targets.
    [[nodiscard]] Tensor by_column(const Tensor& of_targets, const DeliftColumns& columns) const {
        if (!plan_.by_task) return of_targets.to(torch::kFloat32);
        std::vector<std::int64_t> task;
        for (const auto place : columns.kept) task.push_back(plan_.target_task[static_cast<std::size_t>(place)]);
        const auto index = at::tensor(task, at::TensorOptions().dtype(torch::kInt64));
        const auto sums = at::zeros({layout_.columns}, of_targets.options()).index_add_(0, index, of_targets);
        return (sums / at::bincount(index, {}, layout_.columns)).to(torch::kFloat32);
    }

    options::Values values_;
    DeliftPlan plan_;
    Layout layout_;
    std::optional<model::PassCost> cost_;
    const model::Decoder* decoder_ = nullptr;
};

std::vector<options::Option> delift_options() {
    return {options::word_or_number_option<DeliftSettings>(
        {.name = "max-context",
         .group = option_group,
         .value_name = "model|N",
         .help =
             "of delift: tokens of an example and a target together, of which each may have half; model: as many as "
             "it takes",
         .words = {{"model", "model"}, {"4096", "N"}}},
        {"model"},
        {"a whole number from 2 to 2147483647",
         [](double value) { return value >= 2.0 && value <= 2147483647.0 && value == std::floor(value); }},
        [](DeliftSettings& settings, const options::WordOrNumber& value) {
            settings.max_context = static_cast<std::int64_t>(value.number.value_or(0.0));
        },
        [](const DeliftSettings& s) {
            return s.max_context > 0 ? nlohmann::json(s.max_context) : nlohmann::json("model");
        })};
}

}  // namespace

Member delift_member() {
    return {.name = "delift",
            .help = "of a sample as the in-context example of a target, on the probabilities of its labels",
            .make = [](const options::Values& values) -> std::unique_ptr<Influence> {
                return std::make_unique<Delift>(values);
            },
            .options = delift_options,
            .without_target = TargetSamples::landmarks,
            .joins_samples = true};
}

}  // namespace idistill::influence
