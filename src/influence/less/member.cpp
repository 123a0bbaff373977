// The influence of LESS (arXiv 2402.04333): the cosine of the step of Adam that a sample would be a part of with the
// target's gradient, summed over the checkpoints of a training by their learning rates. Each checkpoint is labelled
// like the gradient influence of a model of its own.

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <optional>
#include <utility>

#include "../gradient/on_columns.hpp"
#include "../gradient/targets.hpp"
#include "checkpoints.hpp"
#include "idistill/base/error.hpp"
#include "idistill/influence/members.hpp"
#include "idistill/io/result_datasets.hpp"
#include "idistill/model/cost.hpp"
#include "idistill/model/loaded_model.hpp"
#include "options.hpp"

namespace idistill::influence {

Member less_member();  // listed in members.cpp

namespace {

using torch::Tensor;

/// Numbers of a sample's sketches at all checkpoints together (--sketch-dim auto): keeps correlation with exact
/// influence above 0.99 (docs/method.md). Measured for one checkpoint; several share the length.
constexpr std::int64_t all_sketches = 1310720;

struct LessColumns final : Columns {
    std::vector<std::unique_ptr<GradientColumns>> parts;  ///< of every checkpoint; the same targets are left in all
};

/// A checkpoint, and the gradient influence at its weights.
struct Part {
    Checkpoint checkpoint;
    options::Values values;   ///< those of the gradient influence that it is
    bool own_weights = true;  ///< not those of --model
    GradientPlan plan = {};
    model::LoadedModel loaded = {};  ///< own weights
    std::unique_ptr<GradientModel> model = {};
};

class LessInfluence final : public Influence {
public:
    explicit LessInfluence(const options::Values& values) : values_(values) {
        const auto& model = values.of<options::InputSettings>().model;
        const auto given = checkpoints_of(values);
        for (const auto& checkpoint : given) {
            parts_.push_back({.checkpoint = checkpoint, .values = values});
            auto& part = parts_.back();
            auto& gradient = part.values.of<GradientSettings>();
            gradient.contrast = 0;
            gradient.normalize = Normalize::cosine;
            if (!gradient.sketch_dim) gradient.sketch_dim = all_sketches / std::ssize(given);
            if (has_checkpoints()) gradient.optimizer = state_of(checkpoint);
            const auto normal = [](const std::filesystem::path& path) { return (path / "").lexically_normal(); };
            part.own_weights = normal(checkpoint.directory) != normal(model);
        }
    }

    void plan(model::Planner& planner, const Wanted& wanted) override {
        if (parts_.front().values.of<GradientSettings>().optimizer.empty())
            throw Error(ExitCode::usage,
                        {"--influence", "less", "the moments of an optimizer: --optimizer FILE, or --checkpoint DIR:LR",
                         "neither",
                         "jobs/warmup.py writes a model with its optimizer's state; jobs/optimizer_state.py converts "
                         "that of another training."});
        std::vector<std::string> suffixes;
        for (std::size_t i = 0; i < parts_.size(); ++i)
            suffixes.push_back(parts_.size() == 1 ? "" : fmt::format(" {}", i + 1));
        const auto steps = gradient_steps(suffixes);
        for (std::size_t i = 0; i < parts_.size(); ++i)
            parts_[i].plan = plan_gradients(parts_[i].values, planner, {.whole_pool = wanted.whole_pool},
                                            {suffixes[i], i == 0, GradientKind::adam_step}, steps);
        planner.earlier.insert(planner.earlier.end(), steps.begin(), steps.end());
        const auto& first = parts_.front().plan;
        layout_.columns = by_task() ? first.tasks : first.targets();
        cost_.emplace(planner.model, first.layers, gradient().sketch, first.sketch);
        model_config_ = planner.model;
        const auto own = std::count_if(parts_.begin(), parts_.end(), [](const Part& part) { return part.own_weights; });
        if (own > 0)
            planner.plan.needs.push_back(
                model::need_of_weights(planner, "weights of the checkpoints", ", in /dev/shm",
                                       static_cast<double>(own) * model::weight_bytes(planner.model)));
        if (has_checkpoints()) planner.plan.notes.push_back(fmt::format("{} checkpoints", parts_.size()));
        datasets().plan(planner.plan);
    }

    [[nodiscard]] const Layout& layout() const override { return layout_; }

    [[nodiscard]] double flops(const data::CorpusIndex& pool, std::int64_t row) const override {
        double sum = 0.0;
        for (const auto& part : parts_) sum += exact_flops(part.plan, *cost_, layout_, pool, row);
        return sum;
    }

    /// Of one checkpoint: they are computed one after the other.
    [[nodiscard]] plan::PassBytes pass_bytes(const plan::Batch& largest) const override {
        return influence::pass_bytes(gradient(), parts_.front().plan, model_config_, largest);
    }
    [[nodiscard]] double unit_bytes(const plan::Batch& largest) const override {
        const auto& plan = parts_.front().plan;
        const auto width = (plan.contracts ? 0 : plan.sketch.width) + 4 * layout_.products();  // sums in fp64
        return model::fp32_bytes * static_cast<double>(width) * static_cast<double>(largest.rows + largest.samples);
    }

    void check_files(const model::ModelConfig& config) const override {
        for (const auto& part : parts_) {
            if (has_checkpoints()) check_checkpoint(part.checkpoint, inputs().model, config);
            OptimizerFile(part.values.of<GradientSettings>().optimizer, part.plan.layers, form());
        }
    }

    [[nodiscard]] bool reads_weights() const override {
        return std::any_of(parts_.begin(), parts_.end(), [](const Part& part) { return !part.own_weights; });
    }

    [[nodiscard]] bool runs_model() const override { return true; }

    void load(comm::Communicator& comm, const model::Decoder& decoder, const data::Corpus& /*pool*/,
              const data::Corpus& /*targets*/) override {
        for (std::size_t i = 0; i < parts_.size(); ++i) {
            auto& part = parts_[i];
            const auto option = has_checkpoints() ? "--checkpoint " + part.checkpoint.directory : "--optimizer";
            if (part.own_weights)
                part.loaded = model::load_model(comm, part.checkpoint.directory, decoder.config(),
                                                model::place_of(run()), option);
            auto optimizer =
                load_optimizer(comm, option, part.values.of<GradientSettings>().optimizer, part.plan.layers, form());
            optimizer.preconditioner = optimizer.preconditioner.to(model::place_of(run()).device);
            // A seed each: errors of the sketches are independent, and average out.
            auto sketch = part.plan.contracts
                              ? nullptr
                              : make_sketch(gradient().sketch, part.plan.layers, part.plan.sketch.width, run().seed + i,
                                            part.own_weights ? part.loaded.decoder->options() : decoder.options());
            part.model.reset(new GradientModel{part.own_weights ? *part.loaded.decoder : decoder,
                                               model::ChosenLayers(decoder.config(), part.plan.layers),
                                               std::move(optimizer), std::move(sketch)});
        }
    }

    void identify(nlohmann::json& identity) const override { identity["checkpoints"] = fingerprints(); }

    std::unique_ptr<Columns> columns(const work::Work& work, const data::Corpus& pool,
                                     const data::Corpus& targets) override {
        std::vector<Labelling> runs;
        std::vector<TargetLabels> labels;
        Tensor usable;  // at every checkpoint
        for (const auto& part : parts_) {
            runs.push_back({part.values, part.plan, *part.model, pool, targets, work});
            labels.push_back(label_targets(runs.back()));
            const auto here = has_direction(labels.back().norms).view({-1});
            usable = usable.defined() ? at::logical_and(usable, here) : here;
        }
        auto made = std::make_unique<LessColumns>();
        for (std::size_t i = 0; i < parts_.size(); ++i) {
            auto own = std::exchange(labels[i], {});
            own.norms.masked_fill_(at::logical_not(usable), std::numeric_limits<float>::quiet_NaN());
            made->parts.push_back(make_columns(runs[i], own));
            add_errors(parts_[i].checkpoint.rate, made->parts.back()->task_error, made->task_error);
        }
        for (auto& error : made->task_error) error = std::sqrt(error);
        const auto& first = *made->parts.front();
        made->kept = first.kept;
        made->dropped = first.dropped;
        made->task = first.task;
        say_columns(runs.front(), *made);
        return made;
    }

    [[nodiscard]] Rows rows(const data::SampleSet& set, const Columns& prepared) const override {
        const auto& columns = static_cast<const LessColumns&>(prepared);
        Tensor sum;
        for (std::size_t i = 0; i < parts_.size(); ++i) {
            const auto g = rows_on_columns(*parts_[i].model, *columns.parts[i], set.samples(), run().batch_tokens);
            const auto cosines = g.features / g.norm.unsqueeze(1);
            const auto weighted = at::where(has_direction(g.norm), cosines.to(torch::kFloat64),
                                            std::numeric_limits<double>::quiet_NaN()) *
                                  parts_[i].checkpoint.rate;
            sum = sum.defined() ? sum + weighted : weighted;
        }
        return {.logarithmic = {}, .products = sum.to(torch::kFloat32)};
    }

    void write(io::ResultWriter& writer, const Columns& prepared) const override {
        datasets().write(writer, static_cast<const LessColumns&>(prepared));
        writer.attribute("loss", std::string("mean cross entropy over the label tokens of a sample"));
        writer.attribute("checkpoints", fingerprints());
    }

private:
    /// errors += (rate times each)^2: independent ones.
    static void add_errors(double rate, const std::vector<double>& own, std::vector<double>& errors) {
        errors.resize(own.size(), 0.0);
        for (std::size_t task = 0; task < own.size(); ++task) errors[task] += std::pow(rate * own[task], 2);
    }

    [[nodiscard]] io::ResultDatasets<LessColumns> datasets() const {
        io::ResultDatasets<LessColumns> made;
        if (!parts_.front().plan.contracts)
            made.numbers<double>("/task/influence_error", parts_.front().plan.tasks, &LessColumns::task_error);
        return made;
    }

    /// "2e-05 x weights SHA256, optimizer SHA256; ..."
    [[nodiscard]] std::string fingerprints() const {
        std::vector<std::string> every;
        for (const auto& part : parts_)
            every.push_back(fmt::format("{} x weights {}, optimizer {}", part.checkpoint.rate,
                                        part.own_weights ? part.loaded.sha256 : "of the model",
                                        part.model->optimizer.sha256));
        return fmt::format("{}", fmt::join(every, "; "));
    }

    [[nodiscard]] OptimizerFile::Form form() const {
        return values_.of<LessSettings>().bias_correction ? OptimizerFile::Form::step
                                                          : OptimizerFile::Form::step_without_bias_correction;
    }
    [[nodiscard]] const GradientSettings& gradient() const { return parts_.front().values.of<GradientSettings>(); }
    [[nodiscard]] const options::InputSettings& inputs() const { return values_.of<options::InputSettings>(); }
    [[nodiscard]] const options::RunSettings& run() const { return values_.of<options::RunSettings>(); }
    [[nodiscard]] bool by_task() const { return inputs().columns == options::ColumnKind::tasks; }
    [[nodiscard]] bool has_checkpoints() const { return !values_.of<LessSettings>().checkpoints.empty(); }

    options::Values values_;
    std::vector<Part> parts_;
    model::ModelConfig model_config_;
    Layout layout_;
    std::optional<GradientCost> cost_;
};

}  // namespace

Member less_member() {
    return {.name = "less",
            .help = "of a step of Adam that a sample is a part of, on the targets' gradients, over checkpoints (LESS)",
            .make = [](const options::Values& values) -> std::unique_ptr<Influence> {
                return std::make_unique<LessInfluence>(values);
            },
            .options = less_options,
            .idle = idle_less,
            .shares = {"optimizer", "parameters", "sketch", "sketch-dim"}};
}

}  // namespace idistill::influence
